"""Group commit: which write goes into which transaction, and who learns what about it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import chain

import gevent
import pytest
from gevent import Greenlet

from galaxy_express.group_commit import GroupCommit, Overloaded


class Write:
    """A write whose size is the length of its text. Its result is the text in capitals."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.size = len(text)
        self.result = ""


class Away(Exception):
    """The ledger can't be reached, whatever is to be written."""


class Locked(Exception):
    """Another transaction holds a lock."""


class Ledger:
    """Where writes are committed. It can be paused, and it can fail.

    :ivar groups: the texts that were committed, by transaction.
    :ivar attempts: the texts that were to be committed, by transaction.
    :ivar locked: the texts that another transaction keeps from being committed.
    :ivar poison: the texts that can't be committed.
    :ivar error: what is raised for these.
    :ivar noted: how many transactions had succeeded at each call of ``note``.
    """

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.attempts: list[list[str]] = []
        self.noted: list[int] = []
        self.locked: set[str] = set()
        self.poison: set[str] = set()
        self.error: BaseException = ArithmeticError("poison")
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def commit(self, writes: Sequence[Write]) -> None:
        """Commit all writes, or none."""
        texts = [write.text for write in writes]
        self.attempts.append(texts)
        self._may_go_on.wait()
        if self.locked.intersection(texts):
            raise Locked("locked")
        if self.poison.intersection(texts):
            raise self.error
        self.groups.append(texts)
        for write in writes:
            write.result = write.text.upper()

    def note(self) -> None:
        """Note that a transaction has ended."""
        self.noted.append(len(self.groups))

    def hold(self) -> None:
        """Pause all transactions."""
        self._may_go_on.clear()

    def go_on(self) -> None:
        """Resume all transactions."""
        self._may_go_on.set()


MakeQueue = Callable[..., GroupCommit[Write]]


@pytest.fixture
def ledger() -> Ledger:
    """Where the queues commit."""
    return Ledger()


@pytest.fixture
def make_queue(ledger: Ledger) -> Iterator[MakeQueue]:
    """Make queues, and close them after the test."""
    queues = []

    def make(
        max_group: int = 10, max_queued: int = 10, timeout: float = 30, patience: float = 30
    ) -> GroupCommit[Write]:
        queue: GroupCommit[Write] = GroupCommit(
            ledger.commit,
            shared_errors=Away,
            max_group=max_group,
            max_queued=max_queued,
            timeout=timedelta(seconds=timeout),
            on_commit=ledger.note,
            blocked_errors=Locked,
            keys=lambda write: [write.text],
            patience=timedelta(seconds=patience),
        )
        queues.append(queue)
        return queue

    yield make
    ledger.go_on()
    for queue in queues:
        queue.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Let other greenlets run until a condition holds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        gevent.sleep(0.001)


def commit(queue: GroupCommit[Write], text: str) -> str:
    """Commit a text, and return its result."""
    write = Write(text)
    queue.submit(write)
    return write.result


def submit(queue: GroupCommit[Write], *texts: str) -> list[Greenlet]:
    """Commit texts one after another, each in a greenlet of its own."""
    greenlets = [Greenlet(commit, queue, text) for text in texts]
    for greenlet in greenlets:
        greenlet.start()
    gevent.sleep(0)  # let each of them submit its write
    return greenlets


def submit_while_busy(
    queue: GroupCommit[Write], ledger: Ledger, *writes: str
) -> tuple[Greenlet, list[Greenlet]]:
    """Submit writes while the commit of another one, ``busy``, is paused."""
    attempts = len(ledger.attempts)
    ledger.hold()
    (busy,) = submit(queue, "busy")
    wait_until(lambda: len(ledger.attempts) == attempts + 1)
    return busy, submit(queue, *writes)


def answers(greenlets: list[Greenlet]) -> list[str]:
    """The results, in order."""
    return [greenlet.get(timeout=10) for greenlet in greenlets]


def test_a_lone_write_goes_at_once(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that is submitted while no commit runs is a group of its own."""
    queue = make_queue()
    assert commit(queue, "a") == "A"
    assert commit(queue, "b") == "B"
    assert ledger.groups == [["a"], ["b"]]


def test_writes_after_an_answer_share_the_next_commit(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """A client that writes again as soon as it is answered shares the next commit with those that
    waited for it."""
    queue = make_queue()
    ledger.hold()
    twice = gevent.spawn(lambda: commit(queue, "a") + commit(queue, "b"))
    wait_until(lambda: len(ledger.attempts) == 1)
    (waiting,) = submit(queue, "c")
    ledger.go_on()
    assert answers([twice, waiting]) == ["AB", "C"]
    assert ledger.groups == [["a"], ["c", "b"]]


def test_what_queues_during_a_commit_is_the_next_group(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """Writes submitted while a commit runs share the next one, in the order of submission."""
    busy, waiting = submit_while_busy(make_queue(), ledger, "a", "b", "c")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "A", "B", "C"]
    assert ledger.groups == [["busy"], ["a", "b", "c"]]


def test_nobody_is_answered_before_the_commit_ends(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A request waits for the commit that its write is part of."""
    busy, waiting = submit_while_busy(make_queue(), ledger, "a")
    gevent.sleep(0.05)
    assert not any(greenlet.ready() for greenlet in [busy, *waiting])


def test_the_event_loop_goes_on_during_a_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A commit doesn't block the event loop, which ends this one."""
    queue = make_queue()
    ledger.hold()
    gevent.spawn_later(0.01, ledger.go_on)
    assert commit(queue, "a") == "A"


def test_a_group_has_its_limit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """No group exceeds the limit, and no write overtakes another."""
    busy, waiting = submit_while_busy(make_queue(max_group=5), ledger, "aa", "bb", "cc", "d", "ee")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "AA", "BB", "CC", "D", "EE"]
    assert ledger.groups == [["busy"], ["aa", "bb"], ["cc", "d", "ee"]]


def test_a_write_over_the_limit_goes_alone(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write larger than the limit is a group of its own."""
    busy, waiting = submit_while_busy(
        make_queue(max_group=3, max_queued=100), ledger, "a", "bbbb", "c"
    )
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "A", "BBBB", "C"]
    assert ledger.groups == [["busy"], ["a"], ["bbbb"], ["c"]]


def test_a_full_queue_rejects_at_once(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that would exceed the queue's limit is rejected while the others still wait."""
    queue = make_queue(max_queued=4)
    busy, waiting = submit_while_busy(queue, ledger, "aa", "bb")
    with pytest.raises(Overloaded, match="too many"):
        commit(queue, "c")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "AA", "BB"]
    assert ledger.groups == [["busy"], ["aa", "bb"]]


def test_a_queue_accepts_writes_again(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A queue that was full accepts writes once the waiting ones are committed."""
    queue = make_queue(max_queued=4)
    busy, waiting = submit_while_busy(queue, ledger, "aaaa")
    ledger.go_on()
    answers([busy, *waiting])
    busy, waiting = submit_while_busy(queue, ledger, "bb", "cc")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "BB", "CC"]


def test_a_write_over_the_bound_may_wait_alone(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write larger than the queue's limit is accepted if nothing else waits."""
    busy, waiting = submit_while_busy(make_queue(max_queued=3), ledger, "aaaaaa")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "AAAAAA"]


def test_the_time_is_bounded(make_queue: MakeQueue, ledger: Ledger) -> None:
    """No write waits longer than the timeout, whether or not its commit is running."""
    busy, waiting = submit_while_busy(make_queue(timeout=0.05), ledger, "a")
    for greenlet in [busy, *waiting]:
        with pytest.raises(Overloaded, match="too long"):
            greenlet.get(timeout=10)


def test_an_abandoned_write_is_not_committed(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that nobody waits for is left out; the others of its group are committed."""
    queue = make_queue()
    busy, (first, second, third) = submit_while_busy(queue, ledger, "a", "b", "c")
    second.kill()
    ledger.go_on()
    assert answers([busy, first, third]) == ["BUSY", "A", "C"]
    assert ledger.groups == [["busy"], ["a", "c"]]


def test_an_abandoned_group_is_not_committed(make_queue: MakeQueue, ledger: Ledger) -> None:
    """If nobody waits for a group it is skipped, and the queue goes on."""
    queue = make_queue()
    busy, waiting = submit_while_busy(queue, ledger, "a", "b")
    gevent.killall(waiting)
    ledger.go_on()
    assert answers([busy]) == ["BUSY"]
    assert commit(queue, "c") == "C"
    assert ledger.groups == [["busy"], ["c"]]


def test_a_write_abandoned_during_its_commit_is_committed(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """A running commit can't be cancelled: a retry finds its outcome."""
    queue = make_queue()
    busy, _ = submit_while_busy(queue, ledger)
    busy.kill()
    ledger.go_on()
    assert commit(queue, "a") == "A"
    assert ledger.groups == [["busy"], ["a"]]


@pytest.mark.parametrize("poison", [{"a"}, {"c"}, {"e"}, {"b", "d"}, set("abcde")])
def test_a_write_that_cannot_be_committed_fails_alone(
    make_queue: MakeQueue, ledger: Ledger, poison: set[str]
) -> None:
    """Writes that can't be committed fail, and all others of their group are committed."""
    ledger.poison = poison
    busy, waiting = submit_while_busy(make_queue(), ledger, *"abcde")
    ledger.go_on()
    for text, greenlet in zip("abcde", waiting, strict=True):
        if text in poison:
            with pytest.raises(ArithmeticError):
                greenlet.get(timeout=10)
        else:
            assert greenlet.get(timeout=10) == text.upper()
    assert answers([busy]) == ["BUSY"]
    assert sorted(chain(*ledger.groups)) == sorted({"busy", *"abcde"} - poison)


def test_an_error_that_all_writes_share_fails_the_group_at_once(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """When the database is away, its writes aren't tried again one by one."""
    ledger.poison, ledger.error = {"a"}, Away("away")
    _, waiting = submit_while_busy(make_queue(), ledger, *"abc")
    ledger.go_on()
    for greenlet in waiting:
        with pytest.raises(Away, match="away"):
            greenlet.get(timeout=10)
    assert ledger.attempts == [["busy"], ["a", "b", "c"]]


@pytest.mark.parametrize("error", [Away("away"), SystemExit("exit")])
def test_each_waiter_gets_an_exception_of_its_own(
    make_queue: MakeQueue, ledger: Ledger, error: BaseException
) -> None:
    """The exception of one request never shows what another request was doing."""
    ledger.poison, ledger.error = {"a"}, error
    _, waiting = submit_while_busy(make_queue(), ledger, *"ab")
    ledger.go_on()
    first, second = (greenlet_error(greenlet) for greenlet in waiting)
    assert first is not second
    assert type(first) is type(second) is type(error)
    assert first.args == second.args == error.args
    assert first.__cause__ is second.__cause__ is error
    assert first.__traceback__ is not second.__traceback__


def greenlet_error(greenlet: Greenlet) -> BaseException:
    """Wait for a greenlet to fail, and return its exception."""
    with pytest.raises((Away, SystemExit)) as raised:
        greenlet.get(timeout=10)
    return raised.value


@pytest.mark.parametrize("error", [ArithmeticError(), Away(), SystemExit()])
def test_work_goes_on_after_a_failure(
    make_queue: MakeQueue, ledger: Ledger, error: BaseException
) -> None:
    """A commit that fails, however badly, leaves the queue working."""
    queue = make_queue()
    ledger.poison, ledger.error = {"a"}, error
    with pytest.raises(type(error)):
        commit(queue, "a")
    ledger.poison = set()
    assert commit(queue, "a") == "A"


def test_what_follows_a_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """The callback is called once after each commit."""
    queue = make_queue()
    for text in "abc":
        commit(queue, text)
    wait_until(lambda: ledger.noted == [1, 2, 3])


def test_closing_waits_for_the_running_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """Closing the queue waits for the running commit."""
    queue = make_queue()
    submit_while_busy(queue, ledger)
    threading.Timer(0.05, ledger.go_on).start()
    queue.close()
    assert ledger.groups == [["busy"]]


# Locks of other transactions


def test_only_what_is_blocked_waits(ledger: Ledger, make_queue: MakeQueue) -> None:
    """The others of a group that meets a lock are committed, and so is the rest when it is free."""
    queue = make_queue()
    ledger.locked = {"c"}
    waiting = submit(queue, *"abcdefg")
    wait_until(lambda: sum(waiter.ready() for waiter in waiting) == 6)
    assert sorted(chain(*ledger.groups)) == list("abdefg")
    assert not waiting[2].ready()
    ledger.locked = set()
    assert [waiter.get(timeout=10) for waiter in waiting] == list("ABCDEFG")
    assert sorted(chain(*ledger.groups)) == list("abcdefg")


def test_writes_of_a_blocked_key_are_set_aside(ledger: Ledger, make_queue: MakeQueue) -> None:
    """What is known to be blocked joins no group, and all of it is committed at once."""
    queue = make_queue()
    ledger.locked = {"a"}
    first = submit(queue, "a")
    wait_until(lambda: len(ledger.attempts) > 0)
    wait_until(lambda: bool(queue._aside))
    others = submit(queue, "a", "b", "a", "c")
    wait_until(lambda: others[1].ready() and others[3].ready())
    assert not any("a" in attempt and set(attempt) != {"a"} for attempt in ledger.attempts)
    ledger.locked = set()
    assert [waiter.get(timeout=10) for waiter in (*first, others[0], others[2])] == ["A"] * 3
    wait_until(lambda: not queue._aside)
    assert commit(queue, "a") == "A"


def test_patience_has_an_end(ledger: Ledger, make_queue: MakeQueue) -> None:
    """A write that stays blocked fails with the error of its lock, and leaves nothing behind."""
    queue = make_queue(patience=0.2, max_queued=2)
    ledger.locked = {"a"}
    waiters = submit(queue, "a", "b")
    gevent.joinall(waiters, timeout=10)
    assert isinstance(waiters[0].exception, Locked)
    assert waiters[1].value == "B"
    assert not queue._aside
    for text in "cdef":
        assert commit(queue, text) == text.upper()


def test_blocked_writes_fill_the_queue(ledger: Ledger, make_queue: MakeQueue) -> None:
    """What is blocked counts as waiting, but for the group that met the lock first."""
    queue = make_queue(max_queued=2)
    ledger.locked = {"a", "b", "c"}
    waiters = submit(queue, "a")
    wait_until(lambda: bool(queue._aside))
    waiters += submit(queue, "b", "c")
    with pytest.raises(Overloaded):
        commit(queue, "d")
    ledger.locked = set()
    assert [waiter.get(timeout=10) for waiter in waiters] == ["A", "B", "C"]
    assert commit(queue, "d") == "D"


def test_a_commit_that_takes_too_long_is_seen(ledger: Ledger, make_queue: MakeQueue) -> None:
    """A check fails while a commit is under way for longer than a write may take."""
    queue = make_queue(timeout=0.05)
    queue.check()
    ledger.hold()
    with pytest.raises(Overloaded):
        commit(queue, "a")
    with pytest.raises(Overloaded):
        queue.check()
    ledger.go_on()
    wait_until(lambda: queue._started is None)
    queue.check()
