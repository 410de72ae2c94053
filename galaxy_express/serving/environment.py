"""The environment variables of gunicorn's configuration, with validation."""

import errno
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from difflib import get_close_matches

from galaxy_express.serving import metrics_exporter
from galaxy_express.serving.bind import check_address, check_form

_PREFIX = "GALAXY_EXPRESS_"
_NAMES = ["BIND", "DATABASE_URL", "DRAIN_SECONDS", "METRICS_BIND", "WORKERS"]
# Variables of the tests, benchmarks and replaced servers, and those that Kubernetes sets in all
# pods if there is a service named galaxy-express.
_OTHERS = re.compile(
    r"TEST_.*|BENCH_.*|METRICS_(LISTENER|SERIES)|SERVICE_HOST|(SERVICE_)?PORT(_.*)?"
)


def check(config_path: str) -> None:
    """Check all variables, and unset the folder of the metrics if it is empty.

    :param config_path: the path of the configuration file, which may contain other variables.
    :raises SystemExit: with one line per invalid or unknown variable.
    """
    metrics_exporter.unset_empty_folder()
    errors = list(_find_unknown(config_path))
    for read in (_usable_bind, workers, drain_seconds, _metrics_bind):
        try:
            read()
        except SystemExit as error:
            errors.append(str(error))
    if errors:
        sys.exit("\n".join(errors))


def check_names(config_path: str) -> None:
    """Check that all variables whose names begin with ``GALAXY_EXPRESS_`` are known.

    :param config_path: the path of the configuration file, which may contain other variables.
    :raises SystemExit: with one line per unknown variable.
    """
    if errors := list(_find_unknown(config_path)):
        sys.exit("\n".join(errors))


def _find_unknown(config_path: str) -> Iterator[str]:
    text = ""
    with suppress(OSError, UnicodeDecodeError), open(config_path, encoding="utf-8") as config_file:
        text = config_file.read()
    for variable in os.environ:
        name = variable.removeprefix(_PREFIX)
        is_known = name == variable or name in _NAMES or _OTHERS.fullmatch(name)
        if not (is_known or re.search(rf"\${{?{re.escape(variable)}\b", text)):
            similar = get_close_matches(name, _NAMES, n=1) or _NAMES
            yield (
                f"{variable}: no such variable"
                f" (did you mean {' or '.join(_PREFIX + known for known in similar)}?)"
            )


def _usable_bind() -> None:
    address = bind()
    try:
        check_address(address)
    except ValueError as error:
        # A port in use may belong to a server that is stopping: gunicorn tries again.
        if getattr(error.__cause__, "errno", None) != errno.EADDRINUSE:
            sys.exit(f"GALAXY_EXPRESS_BIND: {error}")


def _metrics_bind() -> None:
    try:
        metrics_exporter.exporter_address("")
    except ValueError as error:
        sys.exit(str(error))


def bind() -> str:
    """``$GALAXY_EXPRESS_BIND``: the address to listen on, or ``unix:`` and a path.

    :raises SystemExit: with a message that names the variable, for anything else.
    """
    address = os.environ.get("GALAXY_EXPRESS_BIND", "0.0.0.0:9090")
    try:
        check_form(address)
    except ValueError as error:
        sys.exit(f"GALAXY_EXPRESS_BIND: {error}")
    return address


def workers() -> int:
    """``$GALAXY_EXPRESS_WORKERS``: the number of worker processes.

    :raises SystemExit: with a message that names the variable, if it isn't a number from 1 to 512.
    """
    text = os.environ.get("GALAXY_EXPRESS_WORKERS", "2")
    if not (re.fullmatch("[0-9]{1,3}", text) and 1 <= int(text) <= 512):
        sys.exit(f"GALAXY_EXPRESS_WORKERS: {text!r} is not a number of processes, from 1 to 512")
    return int(text)


def drain_seconds() -> float:
    """``$GALAXY_EXPRESS_DRAIN_SECONDS``: how long an instance that is shutting down reports that it
    isn't ready, but still accepts connections.

    :raises SystemExit: with a message that names the variable, if it isn't a number of seconds.
    """
    text = os.environ.get("GALAXY_EXPRESS_DRAIN_SECONDS", "5")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        sys.exit(f"GALAXY_EXPRESS_DRAIN_SECONDS: {text!r} is not a number of seconds")
    return seconds
