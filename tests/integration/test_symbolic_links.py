"""A database through a symbolic link: SQLite's other files are next to the linked file."""

from contextlib import closing
from pathlib import Path

import pytest

from galaxy_express.desk import DeliveryDesk
from galaxy_express.models import create_schema
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database
from galaxy_express.storage.errors import DatabaseUnavailable
from tests.backends import Backend, SQLiteBackend
from tests.integration.values import package, send


@pytest.fixture
def backend(sqlite: SQLiteBackend) -> Backend:
    """SQLite only."""
    return sqlite


@pytest.fixture
def link(sqlite: SQLiteBackend, tmp_path: Path) -> SQLiteBackend:
    """A link to the database, in another folder."""
    folder = tmp_path / "links"
    folder.mkdir()
    link = SQLiteBackend(folder / "link.db")
    link.path.symlink_to(sqlite.path)
    return link


def log_of(sqlite: SQLiteBackend) -> Path:
    """The log of a database."""
    return sqlite.path.with_name(f"{sqlite.path.name}-wal")


@pytest.mark.parametrize("is_empty", [False, True])
def test_log_without_a_file(
    sqlite: SQLiteBackend, link: SQLiteBackend, desk: DeliveryDesk, is_empty: bool
) -> None:
    """If only the log is left, neither commands nor the service create a file next to it, since
    that would delete the log."""
    send(desk, package())
    content = log_of(sqlite).read_bytes()
    sqlite.path.rename(sqlite.path.with_suffix(".elsewhere"))
    if is_empty:
        sqlite.path.touch()
    with pytest.raises(SystemExit, match=f"remove {log_of(sqlite)}"):
        create_schema(link.config)
    with (
        closing(database_from_config(link.config)) as linked,
        pytest.raises(DatabaseUnavailable, match="but its log exists"),
        linked.transaction(),
    ):
        pass
    assert log_of(sqlite).read_bytes() == content


def test_log_of_another_file(
    sqlite: SQLiteBackend, link: SQLiteBackend, database: Database, desk: DeliveryDesk
) -> None:
    """A backup next to a newer log isn't mixed with it."""
    send(desk, package("a"))
    backup = sqlite.path.with_name("backup.db")
    sqlite.rows(f"VACUUM INTO '{backup}'")
    send(desk, *(package(f"{number}-{'x' * 200}") for number in range(500)))
    database.checkpoint()
    send(desk, package("b"))  # restarts the log
    log = log_of(sqlite).read_bytes()
    link.path.unlink()
    link.path.symlink_to(backup)
    log_of(SQLiteBackend(backup)).write_bytes(log)
    with (
        closing(database_from_config(link.config)) as linked,
        pytest.raises(DatabaseUnavailable, match=f"{backup} is older than its log"),
        linked.transaction(),
    ):
        pass


def test_remedy_names_the_files(
    sqlite: SQLiteBackend, link: SQLiteBackend, database: Database, desk: DeliveryDesk
) -> None:
    """If the log was deleted, the error names the files to move or to remove."""
    send(desk, package())
    with closing(database_from_config(link.config)) as linked:
        with linked.transaction():
            pass
        log_of(sqlite).unlink()
        with pytest.raises(DatabaseUnavailable) as raised, linked.transaction():
            pass
        with pytest.raises(DatabaseUnavailable) as recorded, linked.transaction():
            pass
    assert str(link.path) not in f"{raised.value} {recorded.value}"
    assert str(sqlite.path) in str(recorded.value)


def test_size_includes_the_log(
    sqlite: SQLiteBackend, link: SQLiteBackend, desk: DeliveryDesk
) -> None:
    """The size of the database is that of the file and its log."""
    send(desk, package())
    size = sqlite.path.stat().st_size + log_of(sqlite).stat().st_size
    with (
        closing(database_from_config(link.config)) as linked,
        linked.read_connection() as connection,
    ):
        assert connection.read_size() == size


def test_writers_have_one_queue(
    sqlite: SQLiteBackend, link: SQLiteBackend, database: Database
) -> None:
    """Those that use the link queue with those that use the file, and leave nothing next to it."""
    with database.transaction():
        pass
    with closing(database_from_config(link.config)) as linked, linked.transaction():
        pass
    assert sqlite.path.with_name(f"{sqlite.path.name}-turn").exists()
    assert list(link.path.parent.iterdir()) == [link.path]


def test_replaced_link(sqlite: SQLiteBackend, link: SQLiteBackend, desk: DeliveryDesk) -> None:
    """Once a link leads to another database, that is used."""
    send(desk, package())
    copy = sqlite.path.with_name("copy.db")
    sqlite.rows(f"VACUUM INTO '{copy}'")
    with closing(database_from_config(link.config)) as linked:
        other = DeliveryDesk(linked, PACKAGE_TYPES)
        send(other, package("before"))
        link.path.unlink()
        link.path.symlink_to(copy)
        send(other, package("after"))
    assert SQLiteBackend(copy).stored() == {("delivered", "personal"): 2}
