"""The command-line options of the benchmarks."""

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

    :param rounds: the number of rounds.
    :param seconds: the duration of each measurement.
    :param quick: whether to check only that everything works.
    :param workers: the number of workers of each server.
    :param folder: a folder for temporary files.
    :param postgres: the URL of any database on a PostgreSQL server where databases can be created;
        ``None`` for SQLite.
    """

    rounds: int
    seconds: int
    quick: bool
    workers: int
    folder: Path
    postgres: str | None


def make_parser(description: str) -> argparse.ArgumentParser:
    """The command-line parser for :py:class:`Settings`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="the number of rounds")
    parser.add_argument("--seconds", type=int, default=3, help="the duration of each measurement")
    parser.add_argument("--quick", action="store_true", help="only check that everything works")
    parser.add_argument(
        "--workers", type=int, default=2, help="the number of workers of each server"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=ROOT / "build",
        help="the folder for temporary files, on the disk to measure",
    )
    parser.add_argument(
        "--postgres",
        metavar="URL",
        default=os.environ.get(POSTGRES_URL),
        help="measure PostgreSQL instead of SQLite: the URL of any database on a server, where"
        f" temporary databases are created (default: ${POSTGRES_URL})",
    )
    return parser


def prepare(settings: Settings) -> None:
    """Create the folder, and turn signals that end the program into exceptions, so that servers are
    stopped and temporary files removed.

    :raises SystemExit: if wrk is missing.
    """
    if shutil.which("wrk") is None:
        sys.exit("wrk, which generates the load, is not installed: apt-get install wrk")
    if settings.quick:
        settings.rounds = settings.seconds = 1
    settings.folder.mkdir(parents=True, exist_ok=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
