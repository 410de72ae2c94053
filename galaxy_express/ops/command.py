"""The command ``galaxy-express``: what ``make`` does in a checkout, for an installed wheel."""

import argparse
import os
import sys
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
_SCRIPTS = {
    "migrate": "galaxy_express.ops.schema:create_schema",
    "audit": "galaxy_express.ops.audit:audit_database",
    "backup": "galaxy_express.ops.backup:back_up",
    "forget": "galaxy_express.ops.forget:forget_recipient",
}


def main() -> None:
    """Replace this process by the one that does what is asked."""
    parser = argparse.ArgumentParser(
        description="Galaxy Express. $GALAXY_EXPRESS_DATABASE_URL names the database; the other"
        " settings are in the folder of the configuration files, which may be copied and changed.",
    )
    parser.add_argument("command", choices=["serve", "health", "shell", "configs", *_SCRIPTS])
    parser.add_argument(
        "--configs", type=Path, default=_find_configs(), help="the folder (default: %(default)s)"
    )
    asked, more = parser.parse_known_args()
    settings = asked.configs / "production.ini"
    if asked.command == "configs":
        print(asked.configs)  # noqa: T201 - what was asked for
    elif asked.command == "serve":
        _execute("-m", "gunicorn", "--config", asked.configs / "gunicorn.conf.py")
    elif asked.command == "health":
        _execute("-m", "galaxy_express.serving.health")
    elif asked.command == "shell":
        _execute("-c", _call("load_and_run_shell"), settings)
    else:
        _execute("-c", _call("load_and_run_script"), settings, _SCRIPTS[asked.command], *more)


def _find_configs() -> Path:
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def _call(function: str) -> str:
    # As Baseplate's own commands do, whose first lines don't work from a path with a space.
    return f"from baseplate.server import {function}; {function}()"


def _execute(*arguments: str | Path) -> None:
    # Baseplate and Pyramid import pkg_resources, and setuptools is pinned for them.
    os.environ.setdefault("PYTHONWARNINGS", "ignore:pkg_resources is deprecated:UserWarning")
    os.execv(sys.executable, [sys.executable, *map(str, arguments)])  # noqa: S606 - our own words


if __name__ == "__main__":
    main()
