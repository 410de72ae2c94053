"""Baseplate's shell with the models: ``python -m galaxy_express.ops.shell CONFIG``.

Unlike ``baseplate-shell``, it reports an invalid configuration file in one line.
"""

import os
import sys
from types import TracebackType
from typing import Any

import baseplate.server
from baseplate.lib.config import ConfigurationError
from sqlalchemy import func, select

from galaxy_express import models
from galaxy_express.ops.script import read_config
from galaxy_express.settings_checks import check_factory, check_sections
from galaxy_express.storage.errors import DatabaseUnavailable


def main() -> None:
    """Run the shell with the configuration file given on the command line.

    :raises SystemExit: with a one-line message for each invalid setting.
    """
    path = sys.argv[1]
    config = read_config(path)
    try:
        check_sections(path, is_gunicorn=False)
        check_factory("[app:main] factory", config.app["factory"], "make_app")
        if config.shell and "setup" in config.shell:
            check_factory("[shell] setup", config.shell["setup"])
    except ConfigurationError as error:
        sys.exit(str(error))
    baseplate.server.load_and_run_shell()


def setup(env: dict[str, Any], banner: dict[str, str]) -> None:
    """Add the tables and a query function to the shell.

    :param env: the names in the shell, which are extended.
    :param banner: the explanations of the names, which are extended.
    """
    env |= {"models": models, "select": select, "func": func, "query": _query(env["context"])}
    banner |= {
        "models": "packages, preferences, counters; from_microseconds",
        "query": "query(select(models.packages.c.status, func.count()).group_by('status'))",
    }
    sys.excepthook = _print_exception
    # Only private names lead to it; tests/servers/test_commands.py fails if they change.
    if not _is_writable(baseplate.server._get_shell_log_path()):  # noqa: SLF001
        # Baseplate's default path for the shell's log is only writable by root.
        baseplate.server._get_shell_log_path = lambda: os.devnull  # noqa: SLF001


def _query(context: Any) -> Any:
    def query(statement: Any) -> list[Any]:
        """Run a SELECT and return its rows."""
        with context.database.snapshot(unlimited=True) as connection:
            return list(connection.execute(statement))

    return query


def _print_exception(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if isinstance(error, DatabaseUnavailable):
        print(f"The database is unavailable: {error}", file=sys.stderr)  # noqa: T201 - as Python does
    else:
        sys.__excepthook__(kind, error, traceback)


def _is_writable(path: str) -> bool:
    try:
        with open(path, "a", encoding="utf-8"):
            return True
    except OSError:
        return False


if __name__ == "__main__":
    main()
