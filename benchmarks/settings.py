"""How long to measure, with what, and where."""

import argparse
import os
import shutil
import signal
import sys
from pathlib import Path

from tests.servers.running import ROOT

POSTGRES_URL = "GALAXY_EXPRESS_BENCH_URL"


class Settings(argparse.Namespace):
    """What the command line says.

    :param rounds: how often everything is measured.
    :param seconds: how long, each time.
    :param quick: whether it is only to be seen that everything works.
    :param workers: how many each server has.
    :param folder: what is put there is removed afterwards.
    :param postgres: the URL of any database of a PostgreSQL server, to make databases
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
    parser.add_argument("--seconds", type=int, default=3, help="how long, each time")
    parser.add_argument("--quick", action="store_true", help="only see that everything works")
    parser.add_argument("--workers", type=int, default=2, help="how many each server has")
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build",
        help="on the disk to measure with; what is put there is removed afterwards",
    )
    parser.add_argument(
        "--postgres",
        metavar="URL",
        default=os.environ.get(POSTGRES_URL),
        help="of any database of a PostgreSQL server, to make databases beside it and measure"
        f" with them in place of SQLite; it may be in ${POSTGRES_URL}, too",
    )
    return parser


def prepare(settings: Settings) -> None:
    """Make the folder, and see to it that a signal to end is an exception: what was
    started is ended by it, and what was made is removed.

    The program ends if wrk is missing.
    """
    if shutil.which("wrk") is None:
        sys.exit("The load comes from wrk, which is not installed: apt-get install wrk")
    if settings.quick:
        settings.rounds = settings.seconds = 1
    settings.folder.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
