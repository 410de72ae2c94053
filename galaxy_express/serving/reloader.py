"""``make run``: Baseplate's server, restarted whenever the code changes.

``baseplate-serve --reload`` exits when broken code is saved. Here a monitor waits until the code
is fixed, and restarts the server.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import hupper

from galaxy_express.serving.bind import parse_address

_PACKAGE = Path(__file__).parents[1]


def main() -> None:
    """Run the configuration file given on the command line, on ``$GALAXY_EXPRESS_BIND``."""
    config = sys.argv[1]
    bind = os.environ["GALAXY_EXPRESS_BIND"]
    if ":" in parse_address(bind)[0]:
        sys.exit(
            f"Baseplate's server can't listen on {bind}, an IPv6 address:"
            " choose an IPv4 address, or use make serve."
        )
    hupper.start_reloader(
        f"{_serve_until_changed.__module__}.{_serve_until_changed.__name__}",
        worker_args=[bind, config],
        shutdown_interval=10,  # seconds; longer than a shutdown takes
        verbose=0,
    )


def _serve_until_changed(bind: str, config: str) -> None:
    hupper.get_reloader().watch_files([config, *map(str, _PACKAGE.rglob("*.py"))])
    # In another process, since gevent could no longer patch the threads of this one.
    command = [sys.executable, "-m", "galaxy_express.serving.development", "--bind", bind, config]
    server = subprocess.Popen(command)  # noqa: S603 - the developer's own arguments
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: server.terminate())
    while (code := server.poll()) is None:
        try:
            server.wait(1)
        except subprocess.TimeoutExpired:
            continue  # signals from the monitor are handled between waits
    sys.exit(code)


if __name__ == "__main__":
    from galaxy_express.serving import reloader  # the monitor can't import __main__

    reloader.main()
