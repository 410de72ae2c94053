"""``make run``: Baseplate's server, restarted whenever the code changes.

``baseplate-serve --reload`` exits when broken code is saved. Here a monitor waits until the code
is fixed, and restarts the server.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import hupper

from galaxy_express.serving.bind import parse_address

_PACKAGE = Path(__file__).parents[1]

# From <linux/prctl.h>.
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run the configuration file given on the command line, on ``$GALAXY_EXPRESS_BIND``."""
    config = sys.argv[1]
    bind = os.environ["GALAXY_EXPRESS_BIND"]
    if bind.startswith("unix:") or ":" in parse_address(bind)[0]:
        sys.exit(
            f"Baseplate's server can't listen on {bind}: choose an IPv4 address, or use make serve."
        )
    # The threads of this process, which are started later, and the server inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_stop_when_interrupted, daemon=True).start()
    hupper.start_reloader(
        f"{_serve_until_changed.__module__}.{_serve_until_changed.__name__}",
        worker_args=[os.getpid(), bind, config],
        shutdown_interval=10,  # seconds; longer than a shutdown takes
        verbose=0,
    )


def _stop_when_interrupted() -> None:
    """Stop on SIGINT, and when the terminal is closed.

    hupper expects SIGINT to reach the server, too, as it does from a terminal but not from an IDE,
    and would wait for it. When the terminal is closed, hupper would restart the server (SIGHUP).
    """
    on_terminal = os.isatty(0)
    # macOS can't wait for a signal with a timeout.
    while signal.SIGINT not in signal.sigpending() and os.isatty(0) == on_terminal:
        time.sleep(0.1)
    os.kill(os.getpid(), signal.SIGTERM)


def _serve_until_changed(monitor: int, bind: str, config: str) -> None:
    hupper.get_reloader().watch_files([config, *map(str, _PACKAGE.rglob("*.py"))])
    if sys.platform == "linux":
        # The kernel kills the server when the monitor is gone.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != monitor:
        sys.exit("The monitor is gone.")
    # A new program, since gevent could no longer patch the threads of this one.
    module = "galaxy_express.serving.development"
    arguments = [sys.executable, "-m", module, "--bind", bind, config]
    os.execv(sys.executable, arguments)  # noqa: S606 - the developer's own arguments


if __name__ == "__main__":
    from galaxy_express.serving import reloader  # the monitor can't import __main__

    reloader.main()
