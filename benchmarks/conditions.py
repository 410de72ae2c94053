"""The conditions of a measurement: the machine, the disk, the database."""

import os
import platform
import sqlite3
import statistics
import sys
import time
from pathlib import Path

from sqlalchemy import create_engine

from benchmarks.settings import Settings

SYNCS = 200


def describe_conditions(settings: Settings) -> str:
    """Describe the conditions of a measurement in one line.

    :raises SystemExit: if the folder for SQLite is in memory.
    """
    database = _postgresql(settings.postgres) if settings.postgres else _sqlite(settings.folder)
    return (
        f"{database}; Python {platform.python_version()}; {settings.workers} workers on"
        f" {os.cpu_count()} cores, shared with wrk; medians of {settings.rounds} rounds of"
        f" {settings.seconds} s each."
    )


def _postgresql(url: str) -> str:
    with create_engine(url, future=True).connect() as connection:
        version = str(connection.exec_driver_sql("SHOW server_version").scalar())
    return f"PostgreSQL {version.split()[0]}"


def _sqlite(folder: Path) -> str:
    kind = _file_system(folder)
    if kind in ("ramfs", "tmpfs"):
        sys.exit(
            f"{folder} is in memory ({kind}), where a sync costs nothing; choose another folder"
        )
    return f"SQLite {sqlite3.sqlite_version} on {kind}, {_sync_time(folder):.2f} ms for a sync"


def _file_system(folder: Path) -> str:
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    above = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(above, key=lambda mount: len(mount[1]))[2]


def _sync_time(folder: Path) -> float:
    path = folder / f"sync-{os.getpid()}"
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    times = []
    try:
        for number in range(SYNCS):
            os.pwrite(file, bytes(4096), number * 4096)
            start = time.perf_counter()
            os.fdatasync(file)
            times.append(time.perf_counter() - start)
    finally:
        os.close(file)
        path.unlink()
    return 1e3 * statistics.median(times)
