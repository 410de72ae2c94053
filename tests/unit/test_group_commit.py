"""Group commit: what goes into which transaction, and who hears what of it."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

import gevent
import pytest
from gevent import Greenlet

from galaxy_express.group_commit import GroupCommit, Overloaded


class Ledger:
    """What is committed to: it can be held up, and it refuses the writes named in ``cursed``,
    by raising ``curse``, and answers nothing to those in ``forgotten``.

    :ivar groups: the writes that were committed, by transaction.
    :ivar begun: how many transactions have begun.
    :ivar noted: how many transactions there had been, each time that the end of one was noted.
    """

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = 0
        self.noted: list[int] = []
        self.cursed: set[str] = set()
        self.curse: type[BaseException] = ArithmeticError
        self.forgotten: set[str] = set()
        self._may_go_on = threading.Event()
        self._may_go_on.set()

    def commit(self, writes: Sequence[str]) -> list[str]:
        """Commit all writes, or none."""
        self.begun += 1
        self._may_go_on.wait()
        if self.cursed.intersection(writes):
            raise self.curse(f"{self.cursed} can't be committed")
        self.groups.append(list(writes))
        return [write.upper() for write in writes if write not in self.forgotten]

    def note(self) -> None:
        """Note the end of a transaction."""
        self.noted.append(len(self.groups))

    def hold(self) -> None:
        """Let no transaction end."""
        self._may_go_on.clear()

    def go_on(self) -> None:
        """Let transactions end."""
        self._may_go_on.set()


MakeQueue = Callable[..., GroupCommit[str, str]]


@pytest.fixture
def ledger() -> Ledger:
    """What the queue commits to."""
    return Ledger()


@pytest.fixture
def make_queue(ledger: Ledger) -> Iterator[MakeQueue]:
    """Make a queue in which a write weighs as much as it is long."""
    queues = []

    def make(
        max_group: int = 10, max_queued: int = 10, timeout: float = 30
    ) -> GroupCommit[str, str]:
        queue: GroupCommit[str, str] = GroupCommit(
            ledger.commit,
            weigh=len,
            max_group=max_group,
            max_queued=max_queued,
            timeout=timedelta(seconds=timeout),
            after_commit=ledger.note,
        )
        queues.append(queue)
        return queue

    yield make
    ledger.go_on()
    for queue in queues:
        queue.close()


def wait_until(condition: Callable[[], bool]) -> None:
    """Let the others run until it is so."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        gevent.sleep(0.001)


def submit(queue: GroupCommit[str, str], *writes: str) -> list[Greenlet]:
    """Submit writes one after the other, each by a request of its own."""
    greenlets = [Greenlet(queue.submit, write) for write in writes]
    for greenlet in greenlets:
        greenlet.start()
    gevent.sleep(0)  # each of them has its turn before this goes on
    return greenlets


def submit_while_busy(
    queue: GroupCommit[str, str], ledger: Ledger, *writes: str
) -> tuple[Greenlet, list[Greenlet]]:
    """Submit writes while the commit of another, ``busy``, is under way and is held up."""
    begun = ledger.begun
    ledger.hold()
    (busy,) = submit(queue, "busy")
    wait_until(lambda: ledger.begun == begun + 1)
    return busy, submit(queue, *writes)


def answers(greenlets: list[Greenlet]) -> list[str]:
    """What the requests were answered."""
    return [greenlet.get(timeout=10) for greenlet in greenlets]


def test_a_lone_write_goes_at_once(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that finds nothing under way is a group of its own, and waits for no other."""
    queue = make_queue()
    assert queue.submit("a") == "A"
    assert queue.submit("b") == "B"
    assert ledger.groups == [["a"], ["b"]]


def test_what_queues_during_a_commit_is_the_next_group(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """Writes submitted while a commit runs share the next, in the order of submission."""
    busy, waiting = submit_while_busy(make_queue(), ledger, "a", "b", "c")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "A", "B", "C"]
    assert ledger.groups == [["busy"], ["a", "b", "c"]]


def test_nobody_is_answered_before_the_commit_ends(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A request waits for the commit that holds its write."""
    busy, waiting = submit_while_busy(make_queue(), ledger, "a")
    gevent.sleep(0.05)
    assert not any(greenlet.ready() for greenlet in [busy, *waiting])


def test_the_event_loop_goes_on_during_a_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """Commits run in a thread of their own; were it the loop's, nobody could let this one end."""
    queue = make_queue()
    ledger.hold()
    gevent.spawn_later(0.01, ledger.go_on)
    assert queue.submit("a") == "A"


def test_a_group_has_its_limit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """No group weighs more than the limit, and no write overtakes another."""
    busy, waiting = submit_while_busy(make_queue(max_group=5), ledger, "aa", "bb", "cc", "d", "ee")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "AA", "BB", "CC", "D", "EE"]
    assert ledger.groups == [["busy"], ["aa", "bb"], ["cc", "d", "ee"]]


def test_a_write_over_the_limit_goes_alone(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that weighs more than a group may is a group of its own."""
    busy, waiting = submit_while_busy(
        make_queue(max_group=3, max_queued=100), ledger, "a", "bbbb", "c"
    )
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "A", "BBBB", "C"]
    assert ledger.groups == [["busy"], ["a"], ["bbbb"], ["c"]]


def test_a_full_queue_refuses_at_once(make_queue: MakeQueue, ledger: Ledger) -> None:
    """What would wait past the limit is refused while the others still wait."""
    queue = make_queue(max_queued=4)
    busy, waiting = submit_while_busy(queue, ledger, "aa", "bb")
    with pytest.raises(Overloaded, match="too many"):
        queue.submit("c")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "AA", "BB"]
    assert ledger.groups == [["busy"], ["aa", "bb"]]


def test_room_comes_back(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A queue that was full takes writes again once those that waited are committed."""
    queue = make_queue(max_queued=4)
    busy, waiting = submit_while_busy(queue, ledger, "aaaa")
    ledger.go_on()
    answers([busy, *waiting])
    busy, waiting = submit_while_busy(queue, ledger, "bb", "cc")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "BB", "CC"]


def test_a_write_over_the_bound_may_wait_alone(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that weighs more than may wait is taken if nothing else waits."""
    busy, waiting = submit_while_busy(make_queue(max_queued=3), ledger, "aaaaaa")
    ledger.go_on()
    assert answers([busy, *waiting]) == ["BUSY", "AAAAAA"]


def test_the_time_is_bounded(make_queue: MakeQueue, ledger: Ledger) -> None:
    """Nobody waits for longer than the limit, whether the commit is under way or not."""
    busy, waiting = submit_while_busy(make_queue(timeout=0.05), ledger, "a")
    for greenlet in [busy, *waiting]:
        with pytest.raises(Overloaded, match="too long"):
            greenlet.get(timeout=10)


def test_what_was_given_up_is_not_committed(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that nobody waits for any more is left out, and those around it are not."""
    queue = make_queue()
    busy, (first, second, third) = submit_while_busy(queue, ledger, "a", "b", "c")
    second.kill()
    ledger.go_on()
    assert answers([busy, first, third]) == ["BUSY", "A", "C"]
    assert ledger.groups == [["busy"], ["a", "c"]]


def test_a_group_that_was_given_up_whole_is_no_commit(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """Where nobody waits any more there is nothing to commit, and the queue goes on."""
    queue = make_queue()
    busy, waiting = submit_while_busy(queue, ledger, "a", "b")
    gevent.killall(waiting)
    ledger.go_on()
    assert answers([busy]) == ["BUSY"]
    assert queue.submit("c") == "C"
    assert ledger.groups == [["busy"], ["c"]]


def test_a_write_given_up_during_its_commit_is_committed(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """What is under way can't be called back: a retry finds its outcome."""
    queue = make_queue()
    busy, _ = submit_while_busy(queue, ledger)
    busy.kill()
    ledger.go_on()
    assert queue.submit("a") == "A"
    assert ledger.groups == [["busy"], ["a"]]


def test_a_failure_reaches_all_of_its_group_and_no_other(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """Everyone in a group that fails hears why; the groups before and after are untouched."""
    ledger.cursed = {"bb"}
    busy, (a, b, c, d) = submit_while_busy(make_queue(max_group=4), ledger, "aa", "bb", "cc", "d")
    ledger.go_on()
    assert answers([busy, c, d]) == ["BUSY", "CC", "D"]
    for greenlet in (a, b):
        with pytest.raises(ArithmeticError, match="bb"):
            greenlet.get(timeout=10)
    assert ledger.groups == [["busy"], ["cc", "d"]]


@pytest.mark.parametrize("curse", [ArithmeticError, SystemExit])
def test_work_goes_on_after_a_failure(
    make_queue: MakeQueue, ledger: Ledger, curse: type[BaseException]
) -> None:
    """A commit that fails, however badly, leaves the queue as it was."""
    queue = make_queue()
    ledger.cursed, ledger.curse = {"a"}, curse
    with pytest.raises(curse):
        queue.submit("a")
    ledger.cursed = set()
    assert queue.submit("a") == "A"


def test_work_goes_on_without_an_answer(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A commit that forgets an answer is a failure like any other, and nobody gets another's."""
    queue = make_queue()
    ledger.forgotten = {"a"}
    busy, (a, b) = submit_while_busy(queue, ledger, "a", "b")
    ledger.go_on()
    for greenlet in (a, b):
        with pytest.raises(AssertionError, match="1 answers to 2 writes"):
            greenlet.get(timeout=10)
    assert answers([busy]) == ["BUSY"]
    assert queue.submit("c") == "C"


def test_what_follows_a_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """What is to be done after each commit is done once for each."""
    queue = make_queue()
    for write in "abc":
        queue.submit(write)
    wait_until(lambda: ledger.noted == [1, 2, 3])


def test_closing_waits_for_the_commit_under_way(make_queue: MakeQueue, ledger: Ledger) -> None:
    """Closing the queue lets the commit that runs come to its end."""
    queue = make_queue()
    submit_while_busy(queue, ledger)
    threading.Timer(0.05, ledger.go_on).start()
    queue.close()
    assert ledger.groups == [["busy"]]
