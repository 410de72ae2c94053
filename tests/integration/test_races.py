"""Several processes on one database, as threads that share nothing but the database."""

import random
from collections import Counter
from collections.abc import Sequence
from functools import partial

from galaxy_express.delivery import SendOutcome, SendResult, Status
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.preferences import (
    Preference,
    Preferences,
    PreferenceUpdate,
    UpdatedPreferences,
    apply_update,
)
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from tests.backends import Backend
from tests.integration.conftest import MakeDesk
from tests.integration.racing import at_once
from tests.integration.values import at, commit, in_words, package, say, send, update

THREADS = 6


def test_one_package_is_decided_once(backend: Backend, make_desk: MakeDesk) -> None:
    """Of concurrent sends of a package, one decides it, and all get the same decision."""
    desks = [make_desk() for _ in range(THREADS)]
    for number in range(10):
        same = package(str(number))
        results = at_once([partial(send, desk, same) for desk in desks])
        heard = Counter(in_words(outcome) for outcomes in results for outcome in outcomes)
        assert heard == {"delivered": 1, "delivered again": THREADS - 1}
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 10}


def test_one_id_stands_for_one_package(backend: Backend, make_desk: MakeDesk) -> None:
    """Of different packages sent concurrently with one id, exactly one is decided."""
    desks = [make_desk() for _ in range(THREADS)]
    for number in range(10):
        packages = [package(str(number), sender_id=str(n)) for n in range(THREADS)]
        results = at_once(
            [partial(send, desk, each) for desk, each in zip(desks, packages, strict=True)]
        )
        heard = Counter(in_words(outcome) for outcomes in results for outcome in outcomes)
        assert heard == {"delivered": 1, "conflict": THREADS - 1}
    assert backend.stored() == {("delivered", "personal"): 10}
    assert backend.counted() == {
        ("delivered", "personal"): 10,
        ("rejected", ""): 10 * (THREADS - 1),
    }


def test_batches_in_any_order(backend: Backend, make_desk: MakeDesk) -> None:
    """The same packages in batches of different orders, among updates: one decision for each."""
    recipients = ["leela", "fry", "amy"]
    packages = [
        package(f"pkg-{n}", recipient_id=recipients[n % 3], package_type="marketing")
        for n in range(40)
    ]

    def work(desk: DeliveryDesk, order: random.Random) -> list[SendOutcome]:
        heard: list[SendOutcome] = []
        for minute in range(5):
            heard += send(desk, *order.sample(packages, 30))
            for recipient in order.sample(recipients, 3):
                say(desk, update(minute, recipient, marketing=order.random() < 0.5, personal=True))
        return heard

    desks = [make_desk() for _ in range(THREADS)]
    results = at_once([partial(work, desk, random.Random(n)) for n, desk in enumerate(desks)])

    decisions: dict[str, set[Status]] = {}
    firsts: Counter[str] = Counter()
    for outcome in (outcome for heard in results for outcome in heard):
        assert isinstance(outcome, SendResult)
        package_id = outcome.decision.package.package_id
        decisions.setdefault(package_id, set()).add(outcome.decision.status)
        firsts[package_id] += not outcome.replayed
    assert all(len(statuses) == 1 for statuses in decisions.values())
    assert set(firsts.values()) == {1}
    assert backend.counted() == backend.stored()
    assert sum(backend.counted().values()) == len(decisions)


def test_updates_in_any_order(database: Database, make_desk: MakeDesk) -> None:
    """After concurrent updates, the newest preferences are current."""
    recipients = [str(n) for n in range(10)]
    updates = [
        update(minute, recipient, personal=minute % 2 == 0, marketing=minute % 3 == 0)
        for recipient in recipients
        for minute in range(THREADS)
    ]

    def work(desk: DeliveryDesk, order: random.Random) -> None:
        mine = order.sample(updates, len(updates))
        for start in range(0, len(mine), 10):
            commit(desk, mine[start : start + 10])

    at_once([partial(work, make_desk(), random.Random(n)) for n in range(THREADS)])
    newest = at(THREADS - 1)
    with database.read_connection() as connection:
        assert queries.find_preferences(connection, recipients) == {
            recipient: {
                "personal": Preference((THREADS - 1) % 2 == 0, newest),
                "marketing": Preference((THREADS - 1) % 3 == 0, newest),
            }
            for recipient in recipients
        }


def test_answers_to_updates_are_those_of_some_order(make_desk: MakeDesk) -> None:
    """However updates of one recipient meet, they are answered as if they had come one after
    the other."""
    some = [{"personal": a, "marketing": b} for a in (True, False) for b in (True, False)]
    some += [{"personal": False}, {"marketing": False}]

    def work(desk: DeliveryDesk, recipient: str, chance: random.Random) -> list[Answered]:
        updates = [update(chance.randrange(3), recipient, **chance.choice(some)) for _ in range(4)]
        return [(each, say(desk, each)) for each in updates]

    desks = [make_desk() for _ in range(3)]
    for number in range(20):
        chances = [random.Random(f"{number} {n}") for n in range(len(desks))]
        assert is_serial(
            at_once(
                [
                    partial(work, desk, str(number), chance)
                    for desk, chance in zip(desks, chances, strict=True)
                ]
            )
        )


Answered = tuple[PreferenceUpdate, UpdatedPreferences]


def is_serial(histories: Sequence[Sequence[Answered]]) -> bool:
    """Whether there is an order of all updates, which keeps that of each history, in which
    each is answered as it was."""
    # Where one can get, as how far in each history; the preferences there don't depend on
    # the way.
    states: dict[tuple[int, ...], Preferences] = {(0,) * len(histories): {}}
    for _ in range(sum(map(len, histories))):
        states = {
            (*done[:n], done[n] + 1, *done[n + 1 :]): answer.preferences
            for done, in_force in states.items()
            for n, history in enumerate(histories)
            for said, answer in history[done[n] : done[n] + 1]
            if apply_update(said, in_force) == answer
        }
    return bool(states)


def test_counters_miss_nothing(backend: Backend, make_desk: MakeDesk) -> None:
    """Concurrent increments of the counters add up."""

    def work(desk: DeliveryDesk, number: int) -> None:
        # A shard that all share, as two of many processes will.
        desk._shard = 0
        for n in range(10):
            commit(desk, [SendRequest([package(f"{number}-{n}")], rejected=1)])

    at_once([partial(work, make_desk(), n) for n in range(THREADS)])
    total = 10 * THREADS
    assert backend.stored() == {("delivered", "personal"): total}
    assert backend.counted() == {("delivered", "personal"): total, ("rejected", ""): total}
