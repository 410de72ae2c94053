"""Values of metrics in files: whatever happens to the files, counting goes on."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.multiprocess import MultiProcessCollector

from galaxy_express.serving.metrics_files import FILE_BYTES, FileValue


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for metrics, which isn't there yet."""
    folder = tmp_path / "metrics"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    monkeypatch.setenv("MULTIPROCESS_WORKER_ID", "7")
    monkeypatch.setattr(FileValue, "_files", {})
    monkeypatch.setattr(FileValue, "_is_reported", False)
    yield folder
    close_files()


def close_files() -> None:
    """Close all files, as the end of the process does."""
    for file in FileValue._files.values():
        file.close()  # type: ignore[no-untyped-call]
    FileValue._files.clear()


@contextmanager
def no_files_larger_than(size: int) -> Iterator[None]:
    """As where the disk is full: allocating more raises."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def counter(label: str = "") -> FileValue:
    """A counter."""
    return FileValue("counter", "packages", "packages_total", ["label"], [label], "Packages")


def read(folder: Path) -> dict[str, float]:
    """What Prometheus reads, by label."""
    families = MultiProcessCollector(None, str(folder)).collect()
    return {
        sample.labels["label"]: sample.value for family in families for sample in family.samples
    }


def test_a_value_is_read_by_all(folder: Path) -> None:
    """What one process counts, others read."""
    value = counter("a")
    value.inc(2)
    value.inc(1)
    assert value.get() == 3
    assert read(folder) == {"a": 3}


def test_a_worker_goes_on_where_the_last_one_stopped(folder: Path) -> None:
    """The next worker of the same number counts on."""
    counter("a").inc(2)
    close_files()
    counter("a").inc(1)
    assert read(folder) == {"a": 3}


def test_files_have_no_holes(folder: Path) -> None:
    """Every byte of a file is allocated, also when it has grown, so that no write can fail."""
    for number in range(1000):
        counter(f"label-{number}").inc(1)
    stat = os.stat(folder / "counter_7.db")
    assert stat.st_size > FILE_BYTES
    assert stat.st_blocks * 512 >= stat.st_size
    assert len(read(folder)) == 1000


def test_no_room_for_a_file(folder: Path) -> None:
    """Where a file can't be made, values are counted in memory, and Prometheus reads none."""
    with no_files_larger_than(FILE_BYTES - 1):
        value = counter("a")
    value.inc(2)
    assert value.get() == 2
    assert read(folder) == {}
    counter("b").inc(1)
    assert read(folder) == {"b": 1}


def test_no_room_for_a_larger_file(folder: Path) -> None:
    """Where a file can't grow, the values in it stay right, and new ones are in memory."""
    with no_files_larger_than(FILE_BYTES):
        counters = [counter(f"label-{number}") for number in range(1000)]
        for value in counters:
            value.inc(1)
    assert all(value.get() == 1 for value in counters)
    exported = read(folder)
    assert 100 < len(exported) < 1000
    assert set(exported.values()) == {1}


def test_a_folder_that_is_deleted(folder: Path) -> None:
    """Values that are in deleted files are still counted; a new file makes a new folder."""
    value = counter("a")
    shutil.rmtree(folder)
    value.inc(1)
    counter("b").inc(1)
    assert value.get() == 1
    gauge = FileValue("gauge", "queue", "queue", ["label"], ["c"], "Queue", "livesum")
    gauge.set(5)
    assert read(folder) == {"c": 5}


def test_a_file_that_is_damaged(folder: Path) -> None:
    """What can't be read is no reason to stop."""
    folder.mkdir()
    (folder / "counter_7.db").write_bytes(b"\xff" * FILE_BYTES)
    value = counter("a")
    value.inc(1)
    assert value.get() == 1


def test_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no folder could be made, values are counted in memory."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    value = counter("a")
    value.inc(1)
    assert value.get() == 1
    assert not folder.exists()
