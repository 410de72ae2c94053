"""What another process has written, or was about to write, while a transaction waited for it."""

import pytest

from galaxy_express.delivery import Decision, SendResult, Status
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.preferences import Preference, PreferenceUpdate, UpdatedPreferences
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from tests.backends import Backend
from tests.integration.racing import meanwhile
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


def preference(said: Preference) -> str:
    """The statement by which another process records what Leela said of personal packages."""
    row = ("leela", "personal", said.wanted, round(said.timestamp.timestamp() * 1_000_000))
    return f"INSERT INTO preferences (recipient_id, package_type, wanted, timestamp) VALUES {row}"  # noqa: S608 - our own words


def test_a_decision_taken_meanwhile_stands(backend: Backend, desk: DeliveryDesk) -> None:
    """Who was about to decide of a package hears what another process decided of it."""
    heard = meanwhile(backend, DROP_B, lambda: send(desk, *map(package, "abb")))
    assert [describe(outcome) for outcome in heard] == [
        "delivered",
        "dropped again",
        "dropped again",
    ]
    theirs = Decision(package("b"), Status.DROPPED, decided_at=None, declined_at=None)
    assert heard[1] == SendResult(theirs, replayed=True)
    assert backend.counted() == {("delivered", "personal"): 1}


def test_another_package_decided_meanwhile_is_a_conflict(
    backend: Backend, desk: DeliveryDesk
) -> None:
    """If another process takes the id for another package first, a send is a conflict."""
    (outcome,) = meanwhile(backend, DROP_B, lambda: send(desk, package("b", "nixon")))
    assert describe(outcome) == "conflict"
    assert backend.counted() == {("rejected", ""): 1}


def test_a_decision_that_was_taken_back_is_none(backend: Backend, desk: DeliveryDesk) -> None:
    """A package whose decision another process rolled back is decided again."""
    (outcome,) = meanwhile(backend, DROP_B, lambda: send(desk, package("b")), end="ROLLBACK")
    assert describe(outcome) == "delivered"
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


@pytest.mark.parametrize(
    ("theirs", "ours", "in_force"),
    [
        # The newer stays ...
        (Preference(False, at(1)), Preference(True, at(0)), Preference(False, at(1))),
        (Preference(True, at(1)), Preference(False, at(0)), Preference(True, at(1))),
        # ... or comes ...
        (Preference(False, at(0)), Preference(True, at(1)), Preference(True, at(1))),
        (Preference(True, at(0)), Preference(False, at(1)), Preference(False, at(1))),
        # ... and at a tie the decline.
        (Preference(False, at(0)), Preference(True, at(0)), Preference(False, at(0))),
        (Preference(True, at(0)), Preference(False, at(0)), Preference(False, at(0))),
        # Nothing changes if both say the same.
        (Preference(False, at(0)), Preference(False, at(0)), Preference(False, at(0))),
    ],
)
@pytest.mark.parametrize("known", [False, True], ids=["first", "later"])
def test_an_update_recorded_meanwhile_is_weighed(
    backend: Backend,
    desk: DeliveryDesk,
    database: Database,
    theirs: Preference,
    ours: Preference,
    in_force: Preference,
    known: bool,
) -> None:
    """Of two concurrent updates, the winner is current, and the answer shows it."""
    statement = preference(theirs)
    if known:
        update_preferences(desk, update(-1, personal=True))
        statement += " ON CONFLICT (recipient_id, package_type) DO UPDATE SET"
        statement += " wanted = excluded.wanted, timestamp = excluded.timestamp"
    said = PreferenceUpdate("leela", ours.timestamp, {"personal": ours.wanted})
    answer = meanwhile(backend, statement, lambda: update_preferences(desk, said))
    assert answer == UpdatedPreferences({"personal": in_force}, applied=in_force == ours)
    with database.read_connection() as connection:
        assert queries.find_preferences(connection, ["leela"]) == {"leela": answer.preferences}


def test_an_update_lost_to_another_spoils_nothing(backend: Backend, desk: DeliveryDesk) -> None:
    """If an update makes a group run again, each of its packages is decided once."""
    group: list[Write] = [
        SendRequest([package("a")], rejected=1),
        update(0, personal=True),
        SendRequest([package("b")]),
    ]
    first, updated, second = meanwhile(
        backend, preference(Preference(False, at(1))), lambda: commit(desk, group)
    )
    assert [describe(outcome) for outcome in outcomes(first)] == ["dropped"]
    assert updated == UpdatedPreferences({"personal": Preference(False, at(1))}, applied=False)
    assert [describe(outcome) for outcome in outcomes(second)] == ["dropped"]
    assert backend.stored() == {("dropped", "personal"): 2}
    assert backend.counted() == {("dropped", "personal"): 2, ("rejected", ""): 1}


@pytest.mark.parametrize("table", ["packages", "preferences", "counters"])
def test_reading_waits_for_nobody(
    backend: Backend, desk: DeliveryDesk, database: Database, table: str
) -> None:
    """A read during another process's write returns the previous state without waiting."""
    send(desk, package())
    update_preferences(desk, update(personal=True))
    with backend.transaction() as other:
        other.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words
        with database.read_connection() as connection:
            assert queries.find_decision(connection, "pkg-1") is not None
            assert queries.find_preferences(connection, ["leela"])["leela"] != {}
            assert queries.read_totals(connection) == {("delivered", "personal"): 1}
    assert backend.rows(f"SELECT * FROM {table}") == []  # noqa: S608 - our own words
