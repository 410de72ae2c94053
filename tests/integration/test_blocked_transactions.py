"""Transactions that waited for another process, which then committed or rolled back."""

import pytest

from galaxy_express.delivery import Decision, SendResult, Status
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.preferences import Preference, PreferenceUpdate, UpdatedPreferences
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from tests.backends import Backend
from tests.integration.racing import run_while_blocked
from tests.integration.values import (
    Write,
    at,
    commit,
    describe,
    outcomes,
    package,
    send,
    update,
    update_preferences,
)

DROP_B = (
    "INSERT INTO packages (package_id, sender_id, recipient_id, package_type, timestamp, status)"
    " VALUES ('b', 'zap', 'leela', 'personal', 5432961600000000, 'dropped')"
)


def insert_preference(preference: Preference) -> str:
    """The statement that records Leela's preference for personal packages."""
    microseconds = round(preference.timestamp.timestamp() * 1_000_000)
    row = ("leela", "personal", preference.wanted, microseconds)
    return f"INSERT INTO preferences (recipient_id, package_type, wanted, timestamp) VALUES {row}"  # noqa: S608 - constants


def test_decision_by_another_process_stands(backend: Backend, desk: DeliveryDesk) -> None:
    """If another process decides a package first, its decision is returned."""
    outcomes_ = run_while_blocked(backend, DROP_B, lambda: send(desk, *map(package, "abb")))
    assert [describe(outcome) for outcome in outcomes_] == [
        "delivered",
        "dropped again",
        "dropped again",
    ]
    theirs = Decision(package("b"), Status.DROPPED, decided_at=None, declined_at=None)
    assert outcomes_[1] == SendResult(theirs, replayed=True)
    assert backend.counted() == {("delivered", "personal"): 1}


def test_id_taken_by_another_process_is_a_conflict(backend: Backend, desk: DeliveryDesk) -> None:
    """If another process takes the id for another package first, a send is a conflict."""
    (outcome,) = run_while_blocked(backend, DROP_B, lambda: send(desk, package("b", "nixon")))
    assert describe(outcome) == "conflict"
    assert backend.counted() == {("rejected", ""): 1}


def test_decision_rolled_back_by_another_process(backend: Backend, desk: DeliveryDesk) -> None:
    """A package whose decision another process rolled back is decided again."""
    (outcome,) = run_while_blocked(
        backend, DROP_B, lambda: send(desk, package("b")), end="ROLLBACK"
    )
    assert describe(outcome) == "delivered"
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


@pytest.mark.parametrize(
    ("theirs", "ours", "current"),
    [
        # Theirs is newer, and stays.
        (Preference(False, at(1)), Preference(True, at(0)), Preference(False, at(1))),
        (Preference(True, at(1)), Preference(False, at(0)), Preference(True, at(1))),
        # Ours is newer, and replaces theirs.
        (Preference(False, at(0)), Preference(True, at(1)), Preference(True, at(1))),
        (Preference(True, at(0)), Preference(False, at(1)), Preference(False, at(1))),
        # At a tie the decline wins.
        (Preference(False, at(0)), Preference(True, at(0)), Preference(False, at(0))),
        (Preference(True, at(0)), Preference(False, at(0)), Preference(False, at(0))),
        # Nothing changes if both are equal.
        (Preference(False, at(0)), Preference(False, at(0)), Preference(False, at(0))),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
def test_concurrent_update_is_considered(
    backend: Backend,
    desk: DeliveryDesk,
    database: Database,
    theirs: Preference,
    ours: Preference,
    current: Preference,
    known: bool,
) -> None:
    """The winner of two concurrent updates is current, and is in the result."""
    statement = insert_preference(theirs)
    if known:
        update_preferences(desk, update(-1, personal=True))
        statement += " ON CONFLICT (recipient_id, package_type) DO UPDATE SET"
        statement += " wanted = excluded.wanted, timestamp = excluded.timestamp"
    update_ = PreferenceUpdate("leela", ours.timestamp, {"personal": ours.wanted})
    answer = run_while_blocked(backend, statement, lambda: update_preferences(desk, update_))
    assert answer == UpdatedPreferences({"personal": current}, applied=current == ours)
    with database.read_connection() as connection:
        assert queries.find_preferences(connection, ["leela"]) == {"leela": answer.preferences}


def test_superseded_update_does_not_affect_its_group(backend: Backend, desk: DeliveryDesk) -> None:
    """If an update forces a retry of its group, each package is still decided once."""
    group: list[Write] = [
        SendRequest([package("a")], rejected=1),
        update(0, personal=True),
        SendRequest([package("b")]),
    ]
    first, updated, second = run_while_blocked(
        backend, insert_preference(Preference(False, at(1))), lambda: commit(desk, group)
    )
    assert [describe(outcome) for outcome in outcomes(first)] == ["dropped"]
    assert updated == UpdatedPreferences({"personal": Preference(False, at(1))}, applied=False)
    assert [describe(outcome) for outcome in outcomes(second)] == ["dropped"]
    assert backend.stored() == {("dropped", "personal"): 2}
    assert backend.counted() == {("dropped", "personal"): 2, ("rejected", ""): 1}


@pytest.mark.parametrize("table", ["packages", "preferences", "counters"])
def test_reads_do_not_wait_for_writes(
    backend: Backend, desk: DeliveryDesk, database: Database, table: str
) -> None:
    """A read during another process's write returns the previous state without waiting."""
    send(desk, package())
    update_preferences(desk, update(personal=True))
    with backend.transaction() as other:
        other.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
        with database.read_connection() as connection:
            assert queries.find_decision(connection, "pkg-1") is not None
            assert queries.find_preferences(connection, ["leela"])["leela"] != {}
            assert queries.read_totals(connection) == {("delivered", "personal"): 1}
    assert backend.rows(f"SELECT * FROM {table}") == []  # noqa: S608 - constants
