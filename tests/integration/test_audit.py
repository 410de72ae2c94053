"""The audit passes on an intact database, and reports every kind of inconsistency."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import select

from galaxy_express import models
from galaxy_express.desk import DeliveryDesk
from galaxy_express.ops.audit import audit, audit_database
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from tests.backends import Backend, SQLiteBackend
from tests.conftest import DATABASES
from tests.integration.values import describe, package, send, update, update_preferences

INSERT = (
    "INSERT INTO packages"
    " (package_id, sender_id, recipient_id, package_type, timestamp, status) VALUES "
)


@pytest.fixture(autouse=True)
def _history(desk: DeliveryDesk) -> None:
    """Two packages delivered, one dropped, one conflict, two rejected requests."""
    send(desk, package("a"), package("b"), package("a", sender_id="mom"), rejected=2)
    update_preferences(desk, update(personal=False))
    send(desk, package("c"))


def failed_audit(backend: Backend, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an audit that fails, and return its output."""
    with pytest.raises(SystemExit) as exit_:
        audit_database(backend.config)
    assert exit_.value.code == 1
    printed = capsys.readouterr().out
    assert "No problems found" not in printed
    return printed


def test_intact_database(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """On an intact database the audit prints the totals and succeeds."""
    audit_database(backend.config)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["delivered", "personal", "2", "2"] in lines
    assert ["dropped", "personal", "1", "1"] in lines
    assert ["rejected", "3"] in lines
    assert lines[-1] == ["No", "problems", "found."]


INVALID_PACKAGES = "packages: {} rows with an invalid id or timestamp, for example package_id {!r}."
INVALID_PREFERENCE = "preferences: 1 rows with an invalid id, value or timestamp, for example"

TAMPERED = {
    "a counter": (
        "UPDATE counters SET value = value + 1 WHERE outcome = 'dropped'",
        "'personal' packages dropped: 1 according to the rows, 2 according to the counters.",
    ),
    "a deleted counter": (
        "DELETE FROM counters WHERE outcome = 'delivered'",
        "'personal' packages delivered: 2 according to the rows, 0 according to the counters.",
    ),
    "a counter without packages": (
        "INSERT INTO counters VALUES (1, 'lost', 'personal', 7)",
        "'personal' packages lost: 0 according to the rows, 7 according to the counters.",
    ),
    "a negative counter": (
        "INSERT INTO counters VALUES (99, 'rejected', '', -1)",
        "counters: 1 rows with a negative value, for example shard 99.",
    ),
    "an inserted package": (
        INSERT + "('d', 'zap', 'leela', 'personal', 0, 'delivered')",
        "'personal' packages delivered: 3 according to the rows, 2 according to the counters.",
    ),
    "a deleted package": (
        "DELETE FROM packages WHERE package_id = 'a'",
        "'personal' packages delivered: 1 according to the rows, 2 according to the counters.",
    ),
    "a changed decision": (
        "UPDATE packages SET status = 'dropped' WHERE package_id = 'a'",
        "'personal' packages delivered: 1 according to the rows, 2 according to the counters.",
    ),
    "an id over the limit": (
        # 16 times 16 characters.
        "UPDATE packages SET sender_id = replace('zzzzzzzzzzzzzzzz', 'z', '0123456789abcdef')",
        INVALID_PACKAGES.format(3, "a"),
    ),
    "a timestamp out of range": (
        "UPDATE packages SET timestamp = 300000000000000000 WHERE package_id = 'b'",
        INVALID_PACKAGES.format(1, "b"),
    ),
    "a delivered package with declined_at": (
        "UPDATE packages SET declined_at = 0 WHERE package_id = 'a'",
        (
            "packages: 1 rows with declined_at although they were delivered, for example"
            " package_id 'a'."
        ),
    ),
    "an update that was not applied": (
        (
            "INSERT INTO preference_updates"
            " (sequence, recipient_id, timestamp, received_at, wanted, applied)"
            " VALUES (1, 'fry', 0, 0, '{\"marketing\": false, \"personal\": true}', true)"
        ),
        (
            "preference_updates: 2 preferences are newer than the current ones, for example of"
            " recipient_id 'fry'."
        ),
    ),
    "a reverted preference": (
        "UPDATE preferences SET wanted = true",
        (
            "preference_updates: 1 preferences are newer than the current ones, for example of"
            " recipient_id 'leela'."
        ),
    ),
    "a drop without a decline": (
        "UPDATE preference_updates SET wanted = '{\"personal\": true}'",
        (
            "packages: 1 rows were dropped by an update that did not decline them, for example"
            " package_id 'c'."
        ),
    ),
    "a package before the beginning of the feed": (
        "UPDATE packages SET sequence = 0 WHERE package_id = 'b'",
        "packages: 1 rows with no place in the feed, for example package_id 'b'.",
    ),
    "an update before the beginning of the history": (
        "UPDATE preference_updates SET sequence = -1",
        (
            "preference_updates: 1 rows with no place in the history, for example recipient_id"
            " 'leela'."
        ),
    ),
    "a recipient with an empty id": (
        "UPDATE preferences SET recipient_id = ''",
        f"{INVALID_PREFERENCE} recipient_id ''.",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_inconsistencies_are_reported(
    backend: Backend, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Each change made without the service is reported, and the audit fails."""
    statement, sentence = TAMPERED[what]
    backend.rows(statement)
    assert sentence in failed_audit(backend, capsys).splitlines()


@pytest.mark.parametrize("backend", DATABASES[1:], indirect=True)
@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (
            "SELECT setval('galaxy_express_sequence', 1)",
            (
                "packages: 3 rows are not in the feed until the next write, since"
                " galaxy_express_sequence is behind, for example package_id 'a'."
            ),
        ),
        (
            "DROP SEQUENCE galaxy_express_sequence",
            "The sequence galaxy_express_sequence is missing (make migratedb).",
        ),
    ],
)
def test_sequence_that_hides_rows(
    backend: Backend, capsys: pytest.CaptureFixture[str], statement: str, sentence: str
) -> None:
    """A sequence that keeps packages out of the feed is reported."""
    backend.rows(statement)
    assert sentence in failed_audit(backend, capsys).splitlines()


def test_table_without_its_constraints(
    backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    """If a table was recreated without its constraints, the audit reports that, and the rows that
    violate them."""
    backend.rows("ALTER TABLE packages RENAME TO old")
    backend.rows("CREATE TABLE packages AS SELECT * FROM old")
    backend.rows("DROP TABLE old")
    backend.rows(INSERT + "('a', 'zap', 'leela', 'personal', 0, 'lost')")
    printed = failed_audit(backend, capsys).splitlines()
    assert "The table packages lacks its primary key." in printed
    assert "The table packages lacks its constraint ck_packages_status." in printed
    assert "packages: the key ('a',) is not unique." in printed
    assert (
        "packages: 1 rows with a status that is neither delivered nor dropped,"
        " for example package_id 'a'." in printed
    )


def test_missing_table(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    """A missing table is reported."""
    backend.rows("DROP TABLE counters")
    assert "The table counters is missing." in failed_audit(backend, capsys).splitlines()


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_damaged_file(
    backend: Backend, desk: DeliveryDesk, capsys: pytest.CaptureFixture[str]
) -> None:
    """An index that disagrees with its table is reported (SQLite detects it)."""
    assert isinstance(backend, SQLiteBackend)
    send(desk, package("needle"))
    backend.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    content = backend.path.read_bytes()
    # The id is stored in the table and again in the index of the primary key.
    place = content.rindex(b"needle")
    backend.path.write_bytes(content[:place] + b"noodle" + content[place + 6 :])
    assert "The file is damaged: " in failed_audit(backend, capsys)


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_preference_that_is_not_a_boolean(
    backend: Backend, capsys: pytest.CaptureFixture[str]
) -> None:
    """A preference other than true or false, which SQLite can store, is reported."""
    backend.rows("UPDATE preferences SET wanted = 7")
    assert INVALID_PREFERENCE in failed_audit(backend, capsys)


def test_unavailable_database(backend: Backend) -> None:
    """If the database is unavailable, the audit fails with a one-line message."""
    with (
        backend.unavailable(),
        pytest.raises(SystemExit, match=r"^The database .* is unavailable: "),
    ):
        audit_database(backend.config)


def test_invalid_configuration() -> None:
    """The error names the invalid setting."""
    with pytest.raises(SystemExit, match=r"^The configuration is invalid: database\.url"):
        audit_database({"database.url": "nowhere"})


def test_audit_during_writes(database: Database, desk: DeliveryDesk) -> None:
    """An audit during writes sees rows and counters of the same moment, and doesn't block the
    writes."""
    with ThreadPoolExecutor(1) as threads:
        audits = threads.submit(lambda: [audit(database) for _ in range(20)])
        number = 0
        while not audits.done():
            send(desk, package(f"more-{number}"), rejected=1)
            number += 1
    assert [found.problems for found in audits.result()] == [[]] * 20
    assert number > 0


def test_snapshot_is_isolated(database: Database, desk: DeliveryDesk) -> None:
    """A snapshot doesn't show later writes, and doesn't block them."""
    ids = select(models.packages.c.package_id)
    with database.snapshot() as connection:
        before = connection.exec_driver_sql(queries.TOTALS).all()
        assert [describe(outcome) for outcome in send(desk, package("d"))] == ["dropped"]
        assert connection.exec_driver_sql(queries.TOTALS).all() == before
        assert sorted(connection.execute(ids).scalars()) == ["a", "b", "c"]
