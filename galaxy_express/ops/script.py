"""Baseplate's command for scripts: ``python -m galaxy_express.ops.script CONFIG MODULE:FUNCTION``.

Unlike ``baseplate-script``, it reports an invalid configuration file in one line, and Ctrl-C ends
it without a traceback.
"""

import configparser
import signal
import sys

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) != signal.SIG_IGN:
    # Before the other imports, which take a while. No script needs time to clean up: transactions
    # are rolled back, and a backup handles signals itself. Background processes ignore SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from baseplate import server

from galaxy_express.storage.errors import in_a_line


def main() -> None:
    """Run the script given on the command line.

    :raises SystemExit: with a one-line message, if the configuration file is invalid.
    """
    read_config(sys.argv[1])
    server.load_and_run_script()


def read_config(path: str) -> server.Configuration:
    """Read a configuration file.

    :raises SystemExit: with a one-line message, if it can't be read or is malformed.
    """
    try:
        with open(path, encoding="utf-8") as config_file:
            return server.read_config(config_file, server_name=None, app_name="main")
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        sys.exit(f"The configuration file {path} can't be read: {in_a_line(error)}")


if __name__ == "__main__":
    main()
