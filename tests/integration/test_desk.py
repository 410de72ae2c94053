"""The delivery desk: its decisions, and that they are stored before it returns them."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from galaxy_express.delivery import SendResult, Status
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.preferences import Preference, PreferenceUpdate, UpdatedPreferences
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from tests.backends import Backend
from tests.integration.conftest import MakeDesk
from tests.integration.values import (
    NOON,
    Result,
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


def test_decision_is_stored_and_counted(backend: Backend, desk: DeliveryDesk) -> None:
    """A decision is stored as a row, and counted."""
    (outcome,) = send(desk, package())
    assert isinstance(outcome, SendResult)
    assert outcome.decision.package == package()
    assert outcome.decision.status is Status.DELIVERED
    assert not outcome.replayed
    assert backend.rows(
        "SELECT package_id, sender_id, recipient_id, package_type, status FROM packages"
    ) == [("pkg-1", "zap", "leela", "personal", "delivered")]
    assert backend.counted() == {("delivered", "personal"): 1}


def test_decision_is_read_back(database: Database, desk: DeliveryDesk) -> None:
    """A stored decision is read back without loss."""
    odd = package("a/b \U0001f680 '100%'", "é", "e\u0301", "marketing", at(-1_000_000_000))
    update_preferences(desk, update(7, "e\u0301", marketing=False))
    (outcome,) = send(desk, odd)
    assert isinstance(outcome, SendResult)
    assert outcome.decision.declined_at == at(7)
    with database.read_connection() as connection:
        assert queries.find_decision(connection, odd.package_id) == outcome.decision
        assert queries.find_decision(connection, "pkg-1") is None


@pytest.mark.parametrize("year", [1, 1969, 1970, 9999])
def test_any_year_can_be_stored(database: Database, desk: DeliveryDesk, year: int) -> None:
    """A timestamp of any year is read back to the microsecond."""
    early = package(timestamp=NOON.replace(year=year, microsecond=1))
    send(desk, early)
    with database.read_connection() as connection:
        decision = queries.find_decision(connection, "pkg-1")
    assert decision is not None
    assert decision.package == early


@pytest.mark.parametrize("other", ["PKG-1", "pkg-1x", "pkg", "pkg_1", "\uff50kg-1"])
def test_similar_ids_are_different(desk: DeliveryDesk, other: str) -> None:
    """Identifiers are compared exactly, regardless of the database's collation."""
    assert [describe(outcome) for outcome in send(desk, package(), package(other))] == [
        "delivered",
        "delivered",
    ]


def test_composed_and_decomposed_characters_are_different(desk: DeliveryDesk) -> None:
    """Identifiers are never normalised."""
    outcomes_ = send(desk, package("é"), package("e\u0301", sender_id="other"))
    assert [describe(outcome) for outcome in outcomes_] == ["delivered", "delivered"]


def test_retry_gets_the_first_decision(backend: Backend, desk: DeliveryDesk) -> None:
    """A retry gets the first decision, and nothing more is stored or counted."""
    first = send(desk, package())
    update_preferences(desk, update(personal=False))
    (again,) = send(desk, package(timestamp=at(5)))
    assert isinstance(first[0], SendResult)
    assert again == SendResult(first[0].decision, replayed=True)
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}


@pytest.mark.parametrize("field", ["sender_id", "recipient_id"])
def test_conflict_is_counted_as_rejected(backend: Backend, desk: DeliveryDesk, field: str) -> None:
    """An id used for another package is a conflict; the first decision is unchanged."""
    send(desk, package())
    other: dict[str, Any] = {field: "other"}
    assert [describe(outcome) for outcome in send(desk, package(**other))] == ["conflict"]
    assert backend.stored() == {("delivered", "personal"): 1}
    assert backend.counted() == {("delivered", "personal"): 1, ("rejected", ""): 1}


def test_declined_type_is_dropped(backend: Backend, desk: DeliveryDesk) -> None:
    """A package of a declined type is dropped; one of another type isn't."""
    update_preferences(desk, update(marketing=False, personal=True))
    sent = send(desk, package("a"), package("b", package_type="marketing"))
    assert [describe(outcome) for outcome in sent] == ["delivered", "dropped"]
    assert (
        backend.stored()
        == backend.counted()
        == {
            ("delivered", "personal"): 1,
            ("dropped", "marketing"): 1,
        }
    )


def test_preferences_are_per_recipient(desk: DeliveryDesk) -> None:
    """A type declined by one recipient is still delivered to others."""
    update_preferences(desk, update(personal=False))
    sent = send(desk, package("a"), package("b", recipient_id="fry"))
    assert [describe(outcome) for outcome in sent] == ["dropped", "delivered"]


def test_preferences_are_judged_at_the_decision(desk: DeliveryDesk) -> None:
    """A package with a timestamp before an opt-out is dropped if it is decided after it."""
    update_preferences(desk, update(60, personal=False))
    assert [describe(o) for o in send(desk, package(timestamp=at(0)))] == ["dropped"]


def test_packages_of_a_request_are_decided_in_order(backend: Backend, desk: DeliveryDesk) -> None:
    """An id repeated in one request is decided once, then a retry or a conflict."""
    sent = send(
        desk,
        package("a"),
        package("b"),
        package("a", timestamp=at(1)),
        package("b", sender_id="other"),
        package("a"),
        rejected=2,
    )
    assert [describe(outcome) for outcome in sent] == [
        "delivered",
        "delivered",
        "delivered again",
        "conflict",
        "delivered again",
    ]
    assert backend.stored() == {("delivered", "personal"): 2}
    assert backend.counted() == {("delivered", "personal"): 2, ("rejected", ""): 3}


def test_writes_of_a_group_are_applied_in_order(desk: DeliveryDesk, database: Database) -> None:
    """A package is decided by the updates before it in the group, not by those after it."""
    answers = commit(
        desk,
        [
            SendRequest([package("a")]),
            update(1, personal=False),
            SendRequest([package("b"), package("a")]),
            update(0, personal=True),
            update(2, personal=True),
            SendRequest([package("c"), package("b")]),
        ],
    )
    first, declined, second, older, wanted, third = answers
    assert [describe(outcome) for outcome in outcomes(first)] == ["delivered"]
    assert [describe(outcome) for outcome in outcomes(second)] == ["dropped", "delivered again"]
    assert [describe(outcome) for outcome in outcomes(third)] == ["delivered", "dropped again"]
    no, yes = Preference(False, at(1)), Preference(True, at(2))
    assert declined == UpdatedPreferences({"personal": no}, applied=True)
    assert older == UpdatedPreferences({"personal": no}, applied=False)
    assert wanted == UpdatedPreferences({"personal": yes}, applied=True)
    with database.read_connection() as connection:
        assert queries.find_preferences(connection, ["leela"]) == {"leela": {"personal": yes}}


def test_rejected_request_is_counted(backend: Backend, desk: DeliveryDesk) -> None:
    """A rejected request increments a counter and stores no row."""
    commit(desk, [SendRequest(rejected=1), SendRequest(rejected=3)])
    assert backend.stored() == {}
    assert backend.counted() == {("rejected", ""): 4}


def test_counters_of_several_desks_add_up(backend: Backend, make_desk: MakeDesk) -> None:
    """Desks in several processes, each with its own counters, add up to one total."""
    desks = [make_desk() for _ in range(10)]
    for number in range(50):
        send(desks[number % 10], package(str(number)))
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 50}
    assert len(backend.rows("SELECT DISTINCT shard FROM counters")) > 1


def test_preferences_are_stored_by_type(database: Database, desk: DeliveryDesk) -> None:
    """Each type's preference is stored with its own timestamp."""
    update_preferences(desk, update(0, personal=True, marketing=True))
    update_preferences(desk, update(1, marketing=False))
    with database.read_connection() as connection:
        assert queries.find_preferences(connection, ["leela", "fry"]) == {
            "leela": {"personal": Preference(True, at(0)), "marketing": Preference(False, at(1))},
            "fry": {},
        }


@pytest.mark.parametrize("table", ["packages", "preferences", "counters"])
def test_failed_transaction_is_rolled_back(
    backend: Backend, database: Database, desk: DeliveryDesk, table: str
) -> None:
    """Rows, counters and preferences are committed together or not at all."""
    send(desk, package("before"))
    backend.reject_inserts(table)
    with pytest.raises(database.driver_error):
        commit(desk, [SendRequest([package("a")], rejected=1), update(personal=False)])
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 1}
    assert backend.rows("SELECT * FROM preferences") == []


_packages = st.builds(
    package,
    package_id=st.sampled_from("abcde"),
    sender_id=st.sampled_from("xy"),
    recipient_id=st.sampled_from("rs"),
    package_type=st.sampled_from(["personal", "marketing"]),
)
_writes = st.one_of(
    st.builds(SendRequest, st.lists(_packages, max_size=5)),
    st.builds(
        PreferenceUpdate,
        st.sampled_from("rs"),
        st.integers(0, 2).map(at),
        st.dictionaries(st.sampled_from(["personal", "marketing"]), st.booleans()),
    ),
)


def without_times(answer: Result) -> object:
    """The outcomes as text, which leaves out the time of the transaction."""
    return list(map(describe, answer)) if isinstance(answer, list) else answer


@settings(max_examples=40)
@given(writes=st.lists(_writes, max_size=8))
def test_group_is_equivalent_to_single_writes(
    backend: Backend, desk: DeliveryDesk, writes: list[Write]
) -> None:
    """Writes have the same results in one transaction as in one transaction each."""
    backend.empty_tables()
    together = [without_times(answer) for answer in commit(desk, writes)]
    contents = backend.contents(), backend.counted()
    backend.empty_tables()
    one_by_one = [without_times(answer) for write in writes for answer in commit(desk, [write])]
    assert together == one_by_one
    assert contents == (backend.contents(), backend.counted())
