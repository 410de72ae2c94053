"""Races between processes, simulated by threads that share nothing but the database."""

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
from tests.integration.racing import run_concurrently
from tests.integration.values import at, commit, describe, package, send, update, update_preferences

THREADS = 6


def test_one_package_is_decided_once(backend: Backend, make_desk: MakeDesk) -> None:
    """If a package is sent concurrently, it is decided once, and all get the same decision."""
    desks = [make_desk() for _ in range(THREADS)]
    for number in range(10):
        same = package(str(number))
        results = run_concurrently([partial(send, desk, same) for desk in desks])
        received = Counter(describe(outcome) for outcomes in results for outcome in outcomes)
        assert received == {"delivered": 1, "delivered again": THREADS - 1}
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 10}


def test_one_id_identifies_one_package(backend: Backend, make_desk: MakeDesk) -> None:
    """If different packages are sent concurrently with one id, exactly one is decided."""
    desks = [make_desk() for _ in range(THREADS)]
    for number in range(10):
        packages = [package(str(number), sender_id=str(n)) for n in range(THREADS)]
        results = run_concurrently(
            [partial(send, desk, each) for desk, each in zip(desks, packages, strict=True)]
        )
        received = Counter(describe(outcome) for outcomes in results for outcome in outcomes)
        assert received == {"delivered": 1, "conflict": THREADS - 1}
    assert backend.stored() == {("delivered", "personal"): 10}
    assert backend.counted() == {
        ("delivered", "personal"): 10,
        ("rejected", ""): 10 * (THREADS - 1),
    }


def test_batches_in_any_order(backend: Backend, make_desk: MakeDesk) -> None:
    """Packages sent in several batches of different orders, amid updates, are decided once each."""
    recipients = ["leela", "fry", "amy"]
    packages = [
        package(f"pkg-{n}", recipient_id=recipients[n % 3], package_type="marketing")
        for n in range(40)
    ]

    def work(desk: DeliveryDesk, order: random.Random) -> list[SendOutcome]:
        received: list[SendOutcome] = []
        for minute in range(5):
            received += send(desk, *order.sample(packages, 30))
            for recipient in order.sample(recipients, 3):
                update_preferences(
                    desk, update(minute, recipient, marketing=order.random() < 0.5, personal=True)
                )
        return received

    desks = [make_desk() for _ in range(THREADS)]
    results = run_concurrently(
        [partial(work, desk, random.Random(n)) for n, desk in enumerate(desks)]
    )

    decisions: dict[str, set[Status]] = {}
    firsts: Counter[str] = Counter()
    for outcome in (outcome for received in results for outcome in received):
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

    run_concurrently([partial(work, make_desk(), random.Random(n)) for n in range(THREADS)])
    newest = at(THREADS - 1)
    with database.read_connection() as connection:
        assert queries.find_preferences(connection, recipients) == {
            recipient: {
                "personal": Preference((THREADS - 1) % 2 == 0, newest),
                "marketing": Preference((THREADS - 1) % 3 == 0, newest),
            }
            for recipient in recipients
        }


def test_concurrent_updates_are_serializable(make_desk: MakeDesk) -> None:
    """Concurrent updates of one recipient are answered as if they had been made in some order."""
    choices = [{"personal": a, "marketing": b} for a in (True, False) for b in (True, False)]
    choices += [{"personal": False}, {"marketing": False}]

    def work(desk: DeliveryDesk, recipient: str, rng: random.Random) -> list[Answered]:
        updates = [update(rng.randrange(3), recipient, **rng.choice(choices)) for _ in range(4)]
        return [(each, update_preferences(desk, each)) for each in updates]

    desks = [make_desk() for _ in range(3)]
    for number in range(20):
        rngs = [random.Random(f"{number} {n}") for n in range(len(desks))]
        assert is_serial(
            run_concurrently(
                [
                    partial(work, desk, str(number), rng)
                    for desk, rng in zip(desks, rngs, strict=True)
                ]
            )
        )


Answered = tuple[PreferenceUpdate, UpdatedPreferences]


def is_serial(histories: Sequence[Sequence[Answered]]) -> bool:
    """Whether some order of all updates, which keeps the order of each history, explains the
    answers."""
    # The reachable states, by the number of updates applied from each history. The preferences of
    # a state don't depend on the path to it.
    states: dict[tuple[int, ...], Preferences] = {(0,) * len(histories): {}}
    for _ in range(sum(map(len, histories))):
        states = {
            (*done[:n], done[n] + 1, *done[n + 1 :]): answer.preferences
            for done, current in states.items()
            for n, history in enumerate(histories)
            for update_, answer in history[done[n] : done[n] + 1]
            if apply_update(update_, current) == answer
        }
    return bool(states)


def test_concurrent_increments_add_up(backend: Backend, make_desk: MakeDesk) -> None:
    """Concurrent increments of the counters aren't lost."""

    def work(desk: DeliveryDesk, number: int) -> None:
        # All desks use one shard, as can happen with many processes.
        desk.shard = 0
        for n in range(10):
            commit(desk, [SendRequest([package(f"{number}-{n}")], rejected=1)])

    run_concurrently([partial(work, make_desk(), n) for n in range(THREADS)])
    total = 10 * THREADS
    assert backend.stored() == {("delivered", "personal"): total}
    assert backend.counted() == {("delivered", "personal"): total, ("rejected", ""): total}
