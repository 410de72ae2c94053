"""The environment variables of gunicorn's configuration, with validation."""

import math
import os
import sys

from galaxy_express.serving.bind import parse_address


def check() -> None:
    """Check all variables.

    :raises SystemExit: with one line per invalid variable.
    """
    errors = []
    for read in (bind, workers, drain_seconds):
        try:
            read()
        except SystemExit as error:
            errors.append(str(error))
    if errors:
        sys.exit("\n".join(errors))


def bind() -> str:
    """``$GALAXY_EXPRESS_BIND``: the address to listen on, or ``unix:`` and a path.

    :raises SystemExit: with a message that names the variable, for anything else.
    """
    address = os.environ.get("GALAXY_EXPRESS_BIND", "0.0.0.0:9090")
    if not address.startswith("unix:"):
        try:
            parse_address(address)
        except ValueError as error:
            sys.exit(f"GALAXY_EXPRESS_BIND: {error}")
    return address


def workers() -> int:
    """``$GALAXY_EXPRESS_WORKERS``: the number of worker processes.

    :raises SystemExit: with a message that names the variable, if it isn't a number from 1 to 512.
    """
    text = os.environ.get("GALAXY_EXPRESS_WORKERS", "2")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:4]) <= 512 and len(text) < 4):
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
