"""Metric values stored in files: counting continues whatever happens to the files."""

import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from galaxy_express.metrics import count_queued
from galaxy_express.serving.metrics_files import FILE_BYTES, FileValue


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for metrics that doesn't exist yet."""
    folder = tmp_path / "metrics"
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(folder))
    monkeypatch.setenv("MULTIPROCESS_WORKER_ID", "7")
    monkeypatch.setattr(FileValue, "_files", {})
    monkeypatch.setattr(FileValue, "_is_reported", False)
    yield folder
    close_files()


def close_files() -> None:
    """Close all files, as when the process ends."""
    files: dict[str, Any] = FileValue._files  # noqa: SLF001 - the process only ends
    for file in files.values():
        file.close()
    files.clear()


@contextmanager
def no_files_larger_than(size: int) -> Iterator[None]:
    """Simulate a full disk: allocating more raises an error."""
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
    """The values that Prometheus reads, by label."""
    families = MultiProcessCollector(None, str(folder)).collect()
    return {
        sample.labels["label"]: sample.value for family in families for sample in family.samples
    }


def test_value_is_visible_to_other_processes(folder: Path) -> None:
    """A value counted by one process is read by others."""
    value = counter("a")
    value.inc(2)
    value.inc(1)
    assert value.get() == 3
    assert read(folder) == {"a": 3}


def queue_length(worker: int, packages: int) -> None:
    """Store a worker's number of waiting packages, as if in another process."""
    close_files()
    os.environ["MULTIPROCESS_WORKER_ID"] = str(worker)
    name = "galaxy_express_queued_packages"
    FileValue("gauge", name, name, [], [], "Waiting", multiprocess_mode="livesum").set(packages)


def test_queues_of_all_workers_are_summed(folder: Path) -> None:
    """The queue of the instance is the sum over the workers that are alive."""
    assert count_queued() is None
    for worker, packages in enumerate([3, 0, 4]):
        queue_length(worker, packages)
    assert count_queued() == 7
    mark_process_dead(2, str(folder))
    assert count_queued() == 3


def test_queue_is_unknown_if_a_file_is_damaged(folder: Path) -> None:
    """A damaged file makes the queue unknown, and doesn't raise an exception."""
    queue_length(1, 3)
    for content in (b"", b"\x00\x01\x00\x00", b"\x7f" * 100):
        (folder / "gauge_livesum_2.db").write_bytes(content)
        assert count_queued() is None


def test_replaced_worker_continues_its_counts(folder: Path) -> None:
    """A worker continues with the values of its predecessor with the same number."""
    counter("a").inc(2)
    close_files()
    counter("a").inc(1)
    assert read(folder) == {"a": 3}


def test_files_have_no_holes(folder: Path) -> None:
    """Files are fully allocated, even after they have grown, so that no write can fail."""
    for number in range(1000):
        counter(f"label-{number}").inc(1)
    stat = os.stat(folder / "counter_7.db")
    assert stat.st_size > FILE_BYTES
    assert stat.st_blocks * 512 >= stat.st_size
    assert len(read(folder)) == 1000


def test_disk_full_when_creating_a_file(folder: Path) -> None:
    """If a file can't be created, values are counted in memory and not exported."""
    with no_files_larger_than(FILE_BYTES - 1):
        value = counter("a")
    value.inc(2)
    assert value.get() == 2
    assert read(folder) == {}
    counter("b").inc(1)
    assert read(folder) == {"b": 1}


def test_disk_full_when_growing_a_file(folder: Path) -> None:
    """If a file can't grow, its values stay correct, and new ones are counted in memory."""
    with no_files_larger_than(FILE_BYTES):
        counters = [counter(f"label-{number}") for number in range(1000)]
        for value in counters:
            value.inc(1)
    assert all(value.get() == 1 for value in counters)
    exported = read(folder)
    assert 100 < len(exported) < 1000
    assert set(exported.values()) == {1}


def test_deleted_folder(folder: Path) -> None:
    """Values in deleted files are still counted, and the next new file recreates the folder."""
    value = counter("a")
    shutil.rmtree(folder)
    value.inc(1)
    counter("b").inc(1)
    assert value.get() == 1
    gauge = FileValue("gauge", "queue", "queue", ["label"], ["c"], "Queue", "livesum")
    gauge.set(5)
    assert read(folder) == {"c": 5}


def test_damaged_file(folder: Path) -> None:
    """An unreadable file doesn't stop counting."""
    folder.mkdir()
    (folder / "counter_7.db").write_bytes(b"\xff" * FILE_BYTES)
    value = counter("a")
    value.inc(1)
    assert value.get() == 1


def test_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If no folder could be created, values are counted in memory."""
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR")
    value = counter("a")
    value.inc(1)
    assert value.get() == 1
    assert not folder.exists()
