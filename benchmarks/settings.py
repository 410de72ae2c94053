"""How long to measure, with what, and where."""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

POSTGRES_URL = "GALAXY_EXPRESS_BENCH_URL"


class Settings(argparse.Namespace):
    """The options of the command line.

    :param rounds: how often everything is measured.
    :param seconds: how long each measurement takes.
    :param quick: whether to see only that everything works.
    :param workers: how many each server has.
    :param folder: a folder for temporary files.
    :param postgres: the URL of any database of a PostgreSQL server, to create databases
        beside it; ``None`` for SQLite.
    """

    rounds: int
    seconds: int
    quick: bool
    workers: int
    folder: Path
    postgres: str | None


def make_parser(description: str) -> argparse.ArgumentParser:
    """The parser of a command line, for :py:class:`Settings`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--seconds", type=int, default=3, help="how long each measurement takes")
    parser.add_argument("--quick", action="store_true", help="see only that everything works")
    parser.add_argument("--workers", type=int, default=2, help="how many each server has")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build",
        help="for temporary files, on the disk to measure with",
    )
    parser.add_argument(
        "--postgres",
        metavar="URL",
        default=os.environ.get(POSTGRES_URL),
        help="measure with PostgreSQL instead of SQLite: the URL of any database of a server, on"
        f" which temporary databases are created; ${POSTGRES_URL} may contain it, too",
    )
    return parser


def prepare(settings: Settings) -> None:
    """Make the folder, and turn signals that end the program into exceptions, so that
    servers are stopped and temporary files removed.

    :raises SystemExit: if wrk is missing.
    """
    if shutil.which("wrk") is None:
        sys.exit("wrk, which generates the load, is not installed: apt-get install wrk")
    if settings.quick:
        settings.rounds = settings.seconds = 1
    settings.folder.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
