"""Checks the configuration before gunicorn reloads it (SIGHUP).

gunicorn stops, with all its workers, if it can't read the new configuration, or if new workers
can't start with it. So another process first reads it and makes the application.
"""

import os
import subprocess
import sys
from typing import Any

from gunicorn.app.wsgiapp import WSGIApplication
from gunicorn.errors import AppImportError

from galaxy_express.serving import gunicorn_settings, metrics_exporter

# Longer than a database may take to respond.
_TIMEOUT_SECONDS = 30


def reject_invalid_reloads(server: Any) -> None:
    """Let gunicorn continue unchanged, and log an error, if the configuration to reload is invalid.

    :param server: gunicorn's arbiter.
    """
    reload = server.reload

    def reload_if_valid() -> None:
        if error := _find_error():
            server.log.error("The reload was rejected, and nothing has changed: %s", error)
        else:
            reload()

    server.reload = reload_if_valid


def _find_error() -> str | None:
    command = [sys.executable, "-m", __name__, *sys.argv[1:]]
    # The counts of this process don't belong to the metrics.
    variables = {
        name: value for name, value in os.environ.items() if name != metrics_exporter.FOLDER
    }
    try:
        checked = subprocess.run(  # noqa: S603 - the command of this process
            command, env=variables, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"checking the configuration took longer than {_TIMEOUT_SECONDS} s"
    if checked.returncode == 0:
        return None
    # Of a traceback, the last line is the error.
    return (checked.stderr.splitlines() or ["the check failed"])[-1]


def main() -> None:
    """Check the configuration of gunicorn's command line in ``sys.argv``.

    :raises SystemExit: with a one-line message, if a server couldn't start with it.
    """
    gunicorn = WSGIApplication()
    path = gunicorn.cfg.config.removeprefix("file:")
    gunicorn_settings.check_names(path, gunicorn.get_config_from_filename(path), gunicorn.cfg)
    gunicorn_settings.check(gunicorn.cfg, gunicorn.cfg.logger_class(gunicorn.cfg))
    try:
        gunicorn.load()
    except AppImportError as error:
        sys.exit("; ".join(str(error).splitlines()))


if __name__ == "__main__":
    main()
