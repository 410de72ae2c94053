"""The setup of ``baseplate-shell``."""

import os
from typing import Any

import baseplate.server
from sqlalchemy import func, select

from galaxy_express import models


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


def _is_writable(path: str) -> bool:
    try:
        with open(path, "a", encoding="utf-8"):
            return True
    except OSError:
        return False
