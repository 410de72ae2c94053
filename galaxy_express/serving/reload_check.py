"""Checks the configuration before gunicorn reloads it (SIGHUP).

gunicorn stops, with all its workers, if it can't read the new configuration, or if new workers
can't start with it. So another process first reads it and makes the application.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.errors import AppImportError
from gunicorn.pidfile import Pidfile

from galaxy_express.serving import gunicorn_settings, metrics_exporter
from galaxy_express.serving.bind import check_address, check_writable

# Longer than a database may take to respond.
_TIMEOUT_SECONDS = 30


def reject_invalid_reloads(server: Any) -> None:
    """Let gunicorn continue unchanged, and log an error, if the configuration to reload is invalid.

    :param server: gunicorn's arbiter.
    """
    reload = server.reload

    def reload_if_valid() -> None:
        if error := _find_error(server.cfg.bind):
            server.log.error("The reload was rejected, and nothing has changed: %s", error)
        else:
            reload()

    server.reload = reload_if_valid


def _find_error(addresses: Sequence[str]) -> str | None:
    command = [sys.executable, "-m", __name__, *sys.argv[1:]]
    # The counts of this process don't belong to the metrics.
    variables = {
        name: value for name, value in os.environ.items() if name != metrics_exporter.FOLDER
    }
    try:
        checked = subprocess.run(  # noqa: S603 - the command of this process
            command,
            env=variables,
            input="\n".join(addresses),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"checking the configuration took longer than {_TIMEOUT_SECONDS} s"
    if checked.returncode == 0:
        return None
    # Of a traceback, the last line is the error.
    return (checked.stderr.splitlines() or ["the check failed"])[-1]


def main() -> None:
    """Check the configuration of gunicorn's command line in ``sys.argv``, as a child of gunicorn's
    master.

    The lines of standard input are the addresses that the master listens on.

    :raises SystemExit: with a one-line message, if a server couldn't start with it.
    """
    gunicorn = WSGIApplication()
    path = gunicorn.cfg.config.removeprefix("file:")
    gunicorn_settings.check_names(path, gunicorn.get_config_from_filename(path), gunicorn.cfg)
    gunicorn_settings.check(gunicorn.cfg, gunicorn.cfg.logger_class(gunicorn.cfg))
    try:
        _check_addresses(gunicorn.cfg.bind, sys.stdin.read().splitlines())
        _check_pidfile(gunicorn.cfg.pidfile)
    except ValueError as error:
        sys.exit(str(error))
    try:
        gunicorn.load()
    except AppImportError as error:
        sys.exit("; ".join(str(error).splitlines()))


def _check_addresses(addresses: Sequence[str], current: Sequence[str]) -> None:
    """Check that gunicorn could listen on all addresses, while workers listen on the current ones.

    If any of them changes, gunicorn closes all its sockets, and opens new ones.

    :raises ValueError: if it couldn't.
    """
    if addresses == current:
        return
    for address in addresses:
        if address.startswith("fd://"):
            raise ValueError(f"gunicorn's bind can't be changed with {address} in it: restart it")
        if address in current and not address.startswith("unix:"):
            raise ValueError(
                f"gunicorn's bind can't be changed while {address} stays in it, since the workers"
                " listen there until they are replaced: restart gunicorn"
            )
        check_address(address)


def _check_pidfile(path: str | None) -> None:
    """Check that gunicorn's master could write its process id to a file.

    :raises ValueError: if another process has the file, or if it can't be written.
    """
    if not path:
        return
    try:
        # The types lack its result.
        owner: Any = Pidfile(path).validate()  # type: ignore[func-returns-value]
        check_writable(os.path.dirname(path) or ".")
    except (OSError, ValueError) as error:
        raise ValueError(f"gunicorn's pidfile {path} can't be written: {error}") from error
    if owner not in (None, os.getppid()):
        raise ValueError(f"gunicorn's pidfile {path} belongs to process {owner}")


if __name__ == "__main__":
    main()
