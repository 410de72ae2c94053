"""The feed: followers see every decision exactly once, despite concurrent commits."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from galaxy_express.delivery import decide
from galaxy_express.desk import DeliveryDesk, SendRequest
from galaxy_express.models import from_microseconds
from galaxy_express.ops.backup import back_up
from galaxy_express.package_types import PACKAGE_TYPES
from galaxy_express.storage import queries
from galaxy_express.storage.database import Database
from galaxy_express.storage.migrations.numbering import DRAW
from galaxy_express.storage.queries import PageRequest
from galaxy_express.storage.sqlite.database import SQLiteDatabase
from tests.backends import Backend, SQLiteBackend
from tests.conftest import OpenDatabase
from tests.integration.conftest import BACKENDS, MakeDesk
from tests.integration.racing import run_concurrently, run_while_blocked
from tests.integration.values import at, commit, package, send, update, update_preferences

POSTGRESQL = pytest.mark.parametrize("backend", BACKENDS[1:], indirect=True)


class Follower:
    """A client of the feed.

    :param recipient_id: the recipient whose packages it follows; ``None`` for all.
    :ivar seen: the ids of the packages that it has seen, in order.
    """

    def __init__(
        self, database: Database, limit: int = 100, recipient_id: str | None = None
    ) -> None:
        self._database = database
        self._limit = limit
        self._recipient_id = recipient_id
        self._after: int | None = None
        self.seen: list[str] = []

    def continue_on(self, database: Database) -> None:
        """Continue with another database, from the same cursor."""
        self._database = database

    def start_now(self) -> None:
        """Continue with the decisions from now on."""
        with self._database.read_connection() as connection:
            self._after = queries.find_feed_position(connection)

    def read(self) -> list[str]:
        """Read up to the end of the feed, and return the ids of the packages."""
        new: list[str] = []
        more = True
        while more:
            request = PageRequest(ascending=True, after=self._after, limit=self._limit)
            with self._database.read_connection() as connection:
                page = queries.find_decisions_page(connection, self._recipient_id, request)
            new += [decision.package.package_id for decision in page.items]
            self._after = self._after if page.last is None else page.last
            more = page.more
        self.seen += new
        return new


class RolledBack(Exception):
    """Raised to roll a transaction back."""


@contextmanager
def late_commit(database: Database, fails: bool = False) -> Iterator[None]:
    """Record a decision in a transaction that ends with the block.

    :param fails: whether the transaction is rolled back.
    """
    with suppress(RolledBack), database.transaction(rows=1) as connection:
        now = from_microseconds(connection.read_clock())
        queries.record_decisions(connection, [decide(package("late"), True, None, now)])
        yield
        if fails:
            raise RolledBack


@POSTGRESQL
@pytest.mark.parametrize("recipient_id", [None, "leela"])
def test_late_commit_is_not_missed(
    database: Database, desk: DeliveryDesk, open_database: OpenDatabase, recipient_id: str | None
) -> None:
    """A decision isn't listed before an older, uncommitted one; then both are listed."""
    follower = Follower(open_database(), recipient_id=recipient_id)
    send(desk, package("before"))
    assert follower.read() == ["before"]
    with late_commit(open_database()):
        send(desk, package("after"))
        assert follower.read() == []
    assert follower.read() == ["late", "after"]
    assert follower.read() == []


def test_feed_position_misses_no_late_commit(
    database: Database, desk: DeliveryDesk, open_database: OpenDatabase
) -> None:
    """A follower that starts now sees what an uncommitted transaction decided, and not what was
    committed before."""
    follower = Follower(open_database())
    send(desk, package("before"))
    with late_commit(open_database()):
        if not isinstance(database, SQLiteDatabase):  # it commits one transaction at a time
            send(desk, package("after"))
        follower.start_now()
    assert follower.read()[:1] == ["late"]


@POSTGRESQL
def test_rollback_does_not_block_the_feed(
    database: Database, desk: DeliveryDesk, open_database: OpenDatabase
) -> None:
    """The feed skips the sequence numbers of a transaction that was rolled back."""
    follower = Follower(open_database())
    with late_commit(open_database(), fails=True):
        send(desk, package("after"))
    assert follower.read() == ["after"]


@pytest.mark.parametrize("limit", [1, 7, 1000])
def test_many_writers_and_followers(
    database: Database, make_desk: MakeDesk, open_database: OpenDatabase, limit: int
) -> None:
    """Followers that read during writes see every decision once, in the same order."""
    ended = threading.Semaphore(0)
    followers = [Follower(open_database(), limit), Follower(open_database(), limit, "leela")]
    groups = 15

    def write(name: str) -> Callable[[], None]:
        desk = make_desk()

        def task() -> None:
            try:
                for group in range(groups):
                    ids = [f"{name}-{group}-{place}" for place in range(1 + group % 5)]
                    # The last one is sent by every writer.
                    send(desk, *map(package, ids), package(f"shared-{group}"))
            finally:
                ended.release()

        return task

    def follow(follower: Follower) -> Callable[[], None]:
        def task() -> None:
            for _ in writers:
                while not ended.acquire(blocking=False):
                    follower.read()
            follower.read()

        return task

    writers = [write("a"), write("b"), write("c")]
    run_concurrently([*writers, follow(followers[0])])
    followers[1].read()
    per_writer = sum(1 + group % 5 for group in range(groups))
    assert len(followers[0].seen) == len(set(followers[0].seen)) == 3 * per_writer + groups
    assert followers[1].seen == followers[0].seen


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_order_survives_vacuum(
    backend: Backend, database: Database, desk: DeliveryDesk, open_database: OpenDatabase
) -> None:
    """SQLite's VACUUM, which may renumber rows, doesn't change sequence numbers."""
    for package_id in "cabd":
        send(desk, package(package_id))
    backend.rows("DELETE FROM packages WHERE package_id = 'c'")
    follower = Follower(open_database(), limit=2)
    follower.read()
    backend.rows("VACUUM")
    send(desk, package("e"))
    assert follower.read() == ["e"]
    again = Follower(open_database())
    assert again.read() == ["a", "b", "d", "e"]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_restored_backup(
    backend: Backend,
    database: Database,
    desk: DeliveryDesk,
    open_database: OpenDatabase,
    tmp_path: Path,
) -> None:
    """A client that is ahead of a restored backup still sees all new decisions."""
    assert isinstance(backend, SQLiteBackend)
    send(desk, package("kept"))
    copy = tmp_path / "copy.db"
    back_up(backend.config, [str(copy)])
    lost = [f"lost-{number}" for number in range(50)]
    send(desk, *map(package, lost))
    follower = Follower(open_database())
    assert follower.read() == ["kept", *lost]
    database.close()
    restored = SQLiteBackend(copy)
    follower.continue_on(open_database({"database.url": restored.url}))
    restored_desk = DeliveryDesk(open_database({"database.url": restored.url}), PACKAGE_TYPES)
    send(restored_desk, package("new"))
    assert follower.read() == ["new"]


@POSTGRESQL
def test_sequence_set_back_by_a_restored_dump(
    backend: Backend, desk: DeliveryDesk, make_desk: MakeDesk, open_database: OpenDatabase
) -> None:
    """After an older dump was restored, new decisions have larger numbers than all that were
    lost, which a new instance doesn't know."""
    send(desk, package("kept"))
    (sequence,) = backend.rows("SELECT last_value FROM galaxy_express_sequence")
    send(desk, *(package(f"lost-{number}") for number in range(50)))
    follower = Follower(open_database())
    follower.read()
    backend.rows("DELETE FROM packages WHERE package_id <> 'kept'")
    # As in a dump that is two seconds old, of a package that is three seconds old.
    backend.rows("UPDATE packages SET sequence = sequence - 3000000")
    backend.rows(f"SELECT setval('galaxy_express_sequence', {sequence[0] - 2_000_000})")
    send(make_desk(), package("new"))
    assert follower.read() == ["new"]


@POSTGRESQL
def test_first_writes_after_a_restored_dump(
    backend: Backend, desk: DeliveryDesk, make_desk: MakeDesk, open_database: OpenDatabase
) -> None:
    """While one of the first writes sets the sequence to the clock, others wait: they would draw
    numbers that were lost, and that clients have read."""
    follower = Follower(open_database())
    send(desk, package("lost"))
    follower.read()
    backend.rows("DELETE FROM packages")
    backend.rows(AHEAD.format(-HOUR))
    backend.rows(DRAW.replace("'1s'", "'1min'"))  # however busy the machine is
    setting = "SELECT pg_advisory_xact_lock(2, 0)"
    run_while_blocked(backend, setting, partial(send, make_desk(), package("new")))
    assert follower.read() == ["new"]


HOUR = 3_600_000_000
# Ahead of the clock, as after a time when the server's clock was wrong.
AHEAD = "SELECT setval('galaxy_express_sequence', last_value + {}) FROM galaxy_express_sequence"


@POSTGRESQL
@pytest.mark.parametrize("back", [10, HOUR - 60_000_000])
def test_sequence_set_back(
    backend: Backend,
    desk: DeliveryDesk,
    make_desk: MakeDesk,
    open_database: OpenDatabase,
    back: int,
) -> None:
    """If an operator sets the sequence back, by less than the clock reveals, new decisions still
    have larger numbers than old ones, whether the same instance draws them or a new one."""
    backend.rows(AHEAD.format(HOUR))
    follower = Follower(open_database())
    new = make_desk()
    for number, each in enumerate([desk, desk, new]):
        send(each, *(package(f"{number}-{place}") for place in range(20)))
        follower.read()
        backend.rows(AHEAD.format(-back))
    send(new, package("last"))
    assert follower.read() == ["last"]
    assert len(follower.seen) == 61
    assert backend.stored() == backend.counted() == {("delivered", "personal"): 61}


@POSTGRESQL
def test_sequence_set_back_between_updates(
    backend: Backend, database: Database, desk: DeliveryDesk
) -> None:
    """If the sequence is set back, the history of preferences stays in order, too."""
    backend.rows(AHEAD.format(HOUR))
    for minute in range(3):
        backend.rows(AHEAD.format(-10))
        update_preferences(desk, update(minute, personal=minute == 1))
    request = PageRequest(ascending=True, after=None, limit=100)
    with database.read_connection() as connection:
        page = queries.find_updates_page(connection, "leela", request)
    assert [each.update.timestamp for each in page.items] == [at(0), at(1), at(2)]


def times(backend: Backend) -> tuple[list[int], list[int]]:
    """When packages were decided and updates received, in the order of each list."""
    decided, received = (
        [time for (time,) in backend.rows(f"SELECT {column} FROM {table} ORDER BY sequence")]  # noqa: S608 - constants
        for column, table in [("decided_at", "packages"), ("received_at", "preference_updates")]
    )
    return decided, received


def test_times_follow_the_order(backend: Backend, make_desk: MakeDesk) -> None:
    """The times of decisions and updates by several workers follow the order of the lists, and all
    of one transaction are equal."""

    def work(number: int) -> Callable[[], None]:
        desk = make_desk()

        def task() -> None:
            for minute in range(40):
                name = f"{number}-{minute}"
                packages = SendRequest([package(f"{name}-{place}") for place in range(3)])
                commit(desk, [packages, update(minute, name, personal=False)])

        return task

    run_concurrently([work(number) for number in range(4)])
    decided, received = times(backend)
    assert len(decided) == 480
    assert decided == sorted(decided)
    assert received == decided[::3] == decided[1::3] == decided[2::3]


@POSTGRESQL
def test_times_of_overlapping_transactions(
    backend: Backend, desk: DeliveryDesk, open_database: OpenDatabase
) -> None:
    """A transaction that began before another one, and inserts after it was committed, has an
    earlier time, and is listed first."""
    with open_database().transaction(rows=1) as connection:
        now = from_microseconds(connection.read_clock())
        send(desk, package("after"))
        queries.record_decisions(connection, [decide(package("late"), True, None, now)])
    decided, _ = times(backend)
    assert decided == sorted(decided)
    assert backend.rows("SELECT package_id FROM packages ORDER BY sequence") == [
        ("late",),
        ("after",),
    ]


@POSTGRESQL
def test_updates_are_numbered_when_they_are_applied(
    backend: Backend, desk: DeliveryDesk, make_desk: MakeDesk
) -> None:
    """An update that waits for another transaction with its recipient is listed after what was
    committed meanwhile, and has a later time."""
    run_while_blocked(
        backend,
        "SELECT pg_advisory_xact_lock(1, hashtext('leela'))",
        lambda: update_preferences(desk, update(personal=True)),
        during=lambda: update_preferences(make_desk(), update(recipient_id="fry", personal=True)),
    )
    _, received = times(backend)
    assert received == sorted(received)
    assert backend.rows("SELECT recipient_id FROM preference_updates ORDER BY sequence") == [
        ("fry",),
        ("leela",),
    ]


@POSTGRESQL
def test_rejected_requests_draw_no_numbers(backend: Backend, desk: DeliveryDesk) -> None:
    """A transaction without packages and updates draws no numbers, so the feed needn't wait for
    it."""
    backend.rows(AHEAD.format(-HOUR))  # drawing would set it to the clock
    before = backend.rows("SELECT last_value FROM galaxy_express_sequence")
    send(desk, rejected=1)
    assert backend.counted() == {("rejected", ""): 1}
    assert backend.rows("SELECT last_value FROM galaxy_express_sequence") == before


# The lock with which a transaction draws its numbers and reads the clock.
LOCK = "SELECT pg_try_advisory_xact_lock(4, 0)"


@POSTGRESQL
def test_transactions_do_not_wait_for_each_other(
    backend: Backend, database: Database, open_database: OpenDatabase
) -> None:
    """The lock with which a transaction draws its numbers is released immediately, and not when it
    ends."""
    with late_commit(open_database()):
        assert backend.rows(LOCK) == [(True,)]


@POSTGRESQL
@pytest.mark.parametrize("key", [2, 4])
def test_frozen_process_delays_others_briefly(
    backend: Backend, desk: DeliveryDesk, key: int
) -> None:
    """If a process of the server is frozen while it draws numbers, or sets the sequence to the
    clock, others wait for it for a second."""
    send(desk, package("a"))
    time.sleep(1.1)  # now the sequence is behind the clock
    with backend.transaction() as frozen:
        frozen.execute("SELECT pg_advisory_xact_lock(%s, 0)", (key,))
        started = time.monotonic()
        send(desk, package("b"))
        assert 1 <= time.monotonic() - started < 4
    decided, _ = times(backend)
    assert (len(decided), decided) == (2, sorted(decided))
