"""The command ``galaxy-express``: the equivalent of ``make`` for an installed wheel."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from galaxy_express.ops.output import write

_PACKAGE = Path(__file__).parents[1]
_SCRIPTS = {
    "migrate": "galaxy_express.ops.schema:create_schema",
    "audit": "galaxy_express.ops.audit:audit_database",
    "backup": "galaxy_express.ops.backup:back_up",
    "forget": "galaxy_express.ops.forget:forget_recipient",
    "partition": "galaxy_express.ops.partition:partition_packages",
}


class CommandParser(argparse.ArgumentParser):
    """Parses the command line of a command."""

    def print_help(self, file: Any = None) -> None:
        """Write the help to standard output."""
        write(self.format_help())


def main() -> None:
    """Replace this process with the program of a command."""
    parser = CommandParser(
        prog="galaxy-express",
        description="Galaxy Express. $GALAXY_EXPRESS_DATABASE_URL is the database; the other"
        " settings are in the configuration files, whose folder can be copied and edited.",
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=["serve", "health", "shell", "configs", *_SCRIPTS])
    parser.add_argument(
        "--configs",
        type=Path,
        default=_find_configs(),
        help="the folder of the configuration files (default: %(default)s)",
    )
    parser.add_argument(
        "argument",
        nargs="?",
        help="backup: the path of the copy; partition: the number of partitions; forget: the"
        " recipient_id",
    )
    arguments = parser.parse_args()
    others = [] if arguments.argument is None else [arguments.argument]
    if others and arguments.command == "forget":
        os.environ["RECIPIENT"] = others.pop()  # as make does: an id may look like an option
    if others and arguments.command not in ("backup", "partition"):
        parser.error(f"{arguments.command} takes no argument, but got {arguments.argument}")
    settings = arguments.configs / "production.ini"
    if arguments.command != "health":
        try:
            settings.open().close()
        except OSError as error:
            parser.error(
                f"{settings}: {error.strerror}; --configs is a folder like {_find_configs()}"
            )
    if arguments.command == "configs":
        write(f"{arguments.configs}\n")
    elif arguments.command == "serve":
        _execute("-m", "gunicorn", "--config", arguments.configs / "gunicorn.conf.py")
    elif arguments.command == "health":
        _execute("-m", "galaxy_express.serving.health")
    elif arguments.command == "shell":
        _execute("-m", "galaxy_express.ops.shell", settings)
    else:
        script = _SCRIPTS[arguments.command]
        _execute("-m", "galaxy_express.ops.script", settings, script, *others)


def _find_configs() -> Path:
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def _execute(*arguments: str | Path) -> None:
    # Baseplate and Pyramid import pkg_resources, and setuptools is pinned for them.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:pkg_resources is deprecated:UserWarning")
    os.execv(sys.executable, [sys.executable, *map(str, arguments)])  # noqa: S606 - fixed commands


if __name__ == "__main__":
    main()
