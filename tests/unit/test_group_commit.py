"""Group commit: how writes are grouped into transactions, and the result that each one gets."""

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


class Unreachable(Exception):
    """The ledger is unreachable, so that no write can succeed."""


class LeftOut(Unreachable):
    """The ledger leaves out a write; others may succeed."""


class Locked(Exception):
    """Another transaction holds a lock."""


class Ledger:
    """Commits writes in memory. It can be paused, and it can be made to fail.

    :ivar groups: the committed texts, grouped by transaction.
    :ivar attempts: the texts of each attempted transaction.
    :ivar locked: the texts that are locked by another transaction.
    :ivar poison: the texts that fail to commit.
    :ivar error: the exception raised for these.
    :ivar noted: the number of committed transactions at each call of ``note``.
    """

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.attempts: list[list[str]] = []
        self.noted: list[int] = []
        self.locked: set[str] = set()
        self.poison: set[str] = set()
        self.error: BaseException = ArithmeticError("poison")
        self._resumed = threading.Event()
        self._resumed.set()

    def commit(self, writes: Sequence[Write]) -> None:
        """Commit all writes, or none."""
        texts = [write.text for write in writes]
        self.attempts.append(texts)
        self._resumed.wait()
        if self.locked.intersection(texts):
            raise Locked("locked")
        if self.poison.intersection(texts):
            raise self.error
        self.groups.append(texts)
        for write in writes:
            write.result = write.text.upper()

    def note(self) -> None:
        """Record that a transaction has ended."""
        self.noted.append(len(self.groups))

    def pause(self) -> None:
        """Pause all transactions."""
        self._resumed.clear()

    def resume(self) -> None:
        """Resume all transactions."""
        self._resumed.set()


MakeQueue = Callable[..., GroupCommit[Write]]


@pytest.fixture
def ledger() -> Ledger:
    """The ledger that the queues commit to."""
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
            shared_errors=Unreachable,
            max_group=max_group,
            max_queued=max_queued,
            timeout=timedelta(seconds=timeout),
            on_commit=ledger.note,
            blocked_errors=Locked,
            single_errors=(LeftOut, Locked),
            keys=lambda write: [write.text],
            patience=timedelta(seconds=patience),
        )
        queues.append(queue)
        return queue

    yield make
    ledger.resume()
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


def submit(queue: GroupCommit[Write], *texts: str) -> "list[Greenlet[..., str]]":
    """Submit each text in its own greenlet, in order."""
    greenlets = [Greenlet(commit, queue, text) for text in texts]
    for greenlet in greenlets:
        greenlet.start()
    gevent.sleep(0)  # let each of them submit its write
    return greenlets


def submit_while_busy(
    queue: GroupCommit[Write], ledger: Ledger, *writes: str
) -> "tuple[Greenlet[..., str], list[Greenlet[..., str]]]":
    """Submit writes while the commit of another write, ``busy``, is paused."""
    attempts = len(ledger.attempts)
    ledger.pause()
    (busy,) = submit(queue, "busy")
    wait_until(lambda: len(ledger.attempts) == attempts + 1)
    return busy, submit(queue, *writes)


def results(greenlets: "list[Greenlet[..., str]]") -> list[str]:
    """Wait for the greenlets, and return their results in order."""
    return [greenlet.get(timeout=10) for greenlet in greenlets]


def test_lone_write_is_committed_immediately(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that is submitted while no commit runs is a group of its own."""
    queue = make_queue()
    assert commit(queue, "a") == "A"
    assert commit(queue, "b") == "B"
    assert ledger.groups == [["a"], ["b"]]


def test_next_write_of_a_client_joins_the_next_commit(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """A client that writes again right after its first result joins the next group, together with
    the writes that were already waiting."""
    queue = make_queue()
    ledger.pause()
    both = gevent.spawn(lambda: commit(queue, "a") + commit(queue, "b"))
    wait_until(lambda: len(ledger.attempts) == 1)
    (waiting,) = submit(queue, "c")
    ledger.resume()
    assert results([both, waiting]) == ["AB", "C"]
    assert ledger.groups == [["a"], ["c", "b"]]


def test_writes_queued_during_a_commit_form_the_next_group(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """Writes submitted while a commit runs share the next one, in the order of submission."""
    busy, waiting = submit_while_busy(make_queue(), ledger, "a", "b", "c")
    ledger.resume()
    assert results([busy, *waiting]) == ["BUSY", "A", "B", "C"]
    assert ledger.groups == [["busy"], ["a", "b", "c"]]


def test_write_returns_only_after_its_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """``submit`` doesn't return before the commit of its group has ended."""
    busy, waiting = submit_while_busy(make_queue(), ledger, "a")
    gevent.sleep(0.05)
    assert not any(greenlet.ready() for greenlet in [busy, *waiting])


def test_commit_does_not_block_the_event_loop(make_queue: MakeQueue, ledger: Ledger) -> None:
    """The event loop keeps running during a commit: here, a timer on it resumes the commit."""
    queue = make_queue()
    ledger.pause()
    gevent.spawn_later(0.01, ledger.resume)
    assert commit(queue, "a") == "A"


def test_group_size_is_limited(make_queue: MakeQueue, ledger: Ledger) -> None:
    """No group exceeds the limit, and no write overtakes another."""
    busy, waiting = submit_while_busy(make_queue(max_group=5), ledger, "aa", "bb", "cc", "d", "ee")
    ledger.resume()
    assert results([busy, *waiting]) == ["BUSY", "AA", "BB", "CC", "D", "EE"]
    assert ledger.groups == [["busy"], ["aa", "bb"], ["cc", "d", "ee"]]


def test_write_over_the_group_limit_is_committed_alone(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """A write larger than the limit is a group of its own."""
    busy, waiting = submit_while_busy(
        make_queue(max_group=3, max_queued=100), ledger, "a", "bbbb", "c"
    )
    ledger.resume()
    assert results([busy, *waiting]) == ["BUSY", "A", "BBBB", "C"]
    assert ledger.groups == [["busy"], ["a"], ["bbbb"], ["c"]]


def test_full_queue_rejects_immediately(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that would exceed the queue's limit is rejected without waiting."""
    queue = make_queue(max_queued=4)
    busy, waiting = submit_while_busy(queue, ledger, "aa", "bb")
    with pytest.raises(Overloaded, match="too many"):
        commit(queue, "c")
    ledger.resume()
    assert results([busy, *waiting]) == ["BUSY", "AA", "BB"]
    assert ledger.groups == [["busy"], ["aa", "bb"]]


def test_queue_accepts_writes_after_it_was_full(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A queue that was full accepts writes once the waiting ones are committed."""
    queue = make_queue(max_queued=4)
    busy, waiting = submit_while_busy(queue, ledger, "aaaa")
    ledger.resume()
    results([busy, *waiting])
    busy, waiting = submit_while_busy(queue, ledger, "bb", "cc")
    ledger.resume()
    assert results([busy, *waiting]) == ["BUSY", "BB", "CC"]


def test_write_over_the_queue_limit_may_wait_alone(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write larger than the queue's limit is accepted if nothing else waits."""
    busy, waiting = submit_while_busy(make_queue(max_queued=3), ledger, "aaaaaa")
    ledger.resume()
    assert results([busy, *waiting]) == ["BUSY", "AAAAAA"]


def test_waiting_time_is_limited(make_queue: MakeQueue, ledger: Ledger) -> None:
    """No write waits longer than the timeout, whether or not its commit is running."""
    busy, waiting = submit_while_busy(make_queue(timeout=0.05), ledger, "a")
    for greenlet in [busy, *waiting]:
        with pytest.raises(Overloaded, match="too long"):
            greenlet.get(timeout=10)


def test_result_is_not_lost_if_the_event_loop_is_busy(make_queue: MakeQueue) -> None:
    """A write that is committed in time has its result, even if the event loop is busy until after
    the timeout."""
    (greenlet,) = submit(make_queue(timeout=0.1), "a")
    gevent.sleep(0)  # let the commit start
    time.sleep(0.3)
    assert results([greenlet]) == ["A"]


def test_abandoned_write_is_not_committed(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A write that nobody waits for is left out; the others of its group are committed."""
    queue = make_queue()
    busy, (first, second, third) = submit_while_busy(queue, ledger, "a", "b", "c")
    second.kill()
    ledger.resume()
    assert results([busy, first, third]) == ["BUSY", "A", "C"]
    assert ledger.groups == [["busy"], ["a", "c"]]


def test_abandoned_group_is_not_committed(make_queue: MakeQueue, ledger: Ledger) -> None:
    """A group that nobody waits for any more is skipped, and the queue keeps working."""
    queue = make_queue()
    busy, waiting = submit_while_busy(queue, ledger, "a", "b")
    gevent.killall(waiting)
    ledger.resume()
    assert results([busy]) == ["BUSY"]
    assert commit(queue, "c") == "C"
    assert ledger.groups == [["busy"], ["c"]]


def test_write_abandoned_during_its_commit_is_committed(
    make_queue: MakeQueue, ledger: Ledger
) -> None:
    """A running commit isn't cancelled when its caller goes away."""
    queue = make_queue()
    busy, _ = submit_while_busy(queue, ledger)
    busy.kill()
    ledger.resume()
    assert commit(queue, "a") == "A"
    assert ledger.groups == [["busy"], ["a"]]


@pytest.mark.parametrize("error", [ArithmeticError("poison"), LeftOut("left out")])
@pytest.mark.parametrize("poison", [{"a"}, {"c"}, {"e"}, {"b", "d"}, set("abcde")])
def test_failing_write_fails_alone(
    make_queue: MakeQueue, ledger: Ledger, poison: set[str], error: Exception
) -> None:
    """Only the writes that can't be committed fail; the rest of their group is committed."""
    ledger.poison, ledger.error = poison, error
    busy, waiting = submit_while_busy(make_queue(), ledger, *"abcde")
    ledger.resume()
    for text, greenlet in zip("abcde", waiting, strict=True):
        if text in poison:
            with pytest.raises(type(error)):
                greenlet.get(timeout=10)
        else:
            assert greenlet.get(timeout=10) == text.upper()
    assert results([busy]) == ["BUSY"]
    assert sorted(chain(*ledger.groups)) == sorted({"busy", *"abcde"} - poison)


def test_shared_error_fails_the_whole_group(make_queue: MakeQueue, ledger: Ledger) -> None:
    """If the database is unreachable, the writes of a group aren't retried one by one."""
    ledger.poison, ledger.error = {"a"}, Unreachable("unreachable")
    _, waiting = submit_while_busy(make_queue(), ledger, *"abc")
    ledger.resume()
    for greenlet in waiting:
        with pytest.raises(Unreachable, match="unreachable"):
            greenlet.get(timeout=10)
    assert ledger.attempts == [["busy"], ["a", "b", "c"]]


@pytest.mark.parametrize("error", [Unreachable("unreachable"), SystemExit("exit")])
def test_each_waiter_gets_its_own_exception(
    make_queue: MakeQueue, ledger: Ledger, error: BaseException
) -> None:
    """Waiters don't share an exception, so that no traceback mixes frames of several requests."""
    ledger.poison, ledger.error = {"a"}, error
    _, waiting = submit_while_busy(make_queue(), ledger, *"ab")
    ledger.resume()
    first, second = (greenlet_error(greenlet) for greenlet in waiting)
    assert first is not second
    assert type(first) is type(second) is type(error)
    assert first.args == second.args == error.args
    assert first.__cause__ is second.__cause__ is error
    assert first.__traceback__ is not second.__traceback__


def greenlet_error(greenlet: "Greenlet[..., str]") -> BaseException:
    """Wait for a greenlet to fail, and return its exception."""
    with pytest.raises((Unreachable, SystemExit)) as raised:
        greenlet.get(timeout=10)
    return raised.value


@pytest.mark.parametrize("error", [ArithmeticError(), Unreachable(), SystemExit()])
def test_queue_works_after_a_failure(
    make_queue: MakeQueue, ledger: Ledger, error: BaseException
) -> None:
    """The queue keeps working after a failed commit, whatever was raised."""
    queue = make_queue()
    ledger.poison, ledger.error = {"a"}, error
    with pytest.raises(type(error)):
        commit(queue, "a")
    ledger.poison = set()
    assert commit(queue, "a") == "A"


def test_failures_that_are_suspicious(make_queue: MakeQueue, ledger: Ledger) -> None:
    """An error that no single write causes is a failure of the queue at once; one that a write does
    cause only if several writes in a row fail. The next commit ends it."""
    queue = make_queue()
    for text, error, is_failure in [
        ("a", LeftOut(), False),
        ("b", ArithmeticError(), False),
        ("c", LeftOut(), False),
        ("d", LeftOut(), True),
        ("e", ArithmeticError(), True),
        ("", None, False),
        ("f", LeftOut(), False),
        ("g", Unreachable(), True),
        ("", None, False),
    ]:
        ledger.poison, ledger.error = {text}, error or ArithmeticError()
        if error is None:
            commit(queue, "good")
        else:
            with pytest.raises(type(error)):
                commit(queue, text)
        assert (queue.failure is not None) is is_failure, text


def test_callback_runs_after_each_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """The callback is called once after each commit."""
    queue = make_queue()
    for text in "abc":
        commit(queue, text)
    wait_until(lambda: ledger.noted == [1, 2, 3])


def test_closing_waits_for_the_running_commit(make_queue: MakeQueue, ledger: Ledger) -> None:
    """Closing the queue waits for the running commit."""
    queue = make_queue()
    submit_while_busy(queue, ledger)
    threading.Timer(0.05, ledger.resume).start()
    queue.close()
    assert ledger.groups == [["busy"]]


# Locks of other transactions


def test_only_blocked_writes_wait(ledger: Ledger, make_queue: MakeQueue) -> None:
    """If one write of a group is blocked, the others are committed, and it follows later."""
    queue = make_queue()
    ledger.locked = {"c"}
    waiting = submit(queue, *"abcdefg")
    wait_until(lambda: sum(waiter.ready() for waiter in waiting) == 6)
    assert sorted(chain(*ledger.groups)) == list("abdefg")
    assert not waiting[2].ready()
    ledger.locked = set()
    assert [waiter.get(timeout=10) for waiter in waiting] == list("ABCDEFG")
    assert sorted(chain(*ledger.groups)) == list("abcdefg")


def test_writes_to_a_blocked_key_are_set_aside(ledger: Ledger, make_queue: MakeQueue) -> None:
    """Writes to a key known to be blocked join no group; they are committed together later."""
    queue = make_queue()
    ledger.locked = {"a"}
    first = submit(queue, "a")
    wait_until(lambda: len(ledger.attempts) > 1)  # so it has been set aside
    others = submit(queue, "a", "b", "a", "c")
    wait_until(lambda: others[1].ready() and others[3].ready())
    assert not any("a" in attempt and set(attempt) != {"a"} for attempt in ledger.attempts)
    ledger.locked = set()
    assert [waiter.get(timeout=10) for waiter in (*first, others[0], others[2])] == ["A"] * 3
    assert commit(queue, "a") == "A"


def test_blocked_write_times_out(ledger: Ledger, make_queue: MakeQueue) -> None:
    """A write that stays blocked fails with the lock's error after the time limit."""
    queue = make_queue(patience=0.2, max_queued=2)
    ledger.locked = {"a"}
    waiters = submit(queue, "a", "b")
    gevent.joinall(waiters, timeout=10)
    assert isinstance(waiters[0].exception, Locked)
    assert waiters[1].value == "B"
    for text in "cdef":
        assert commit(queue, text) == text.upper()


def test_blocked_writes_fill_the_queue(ledger: Ledger, make_queue: MakeQueue) -> None:
    """Blocked writes count towards the queue's limit, except the first group that was blocked."""
    queue = make_queue(max_queued=2)
    ledger.locked = {"a", "b", "c"}
    waiters = submit(queue, "a")
    wait_until(lambda: len(ledger.attempts) > 1)  # so it has been set aside
    waiters += submit(queue, "b", "c")
    with pytest.raises(Overloaded):
        commit(queue, "d")
    ledger.locked = set()
    assert [waiter.get(timeout=10) for waiter in waiters] == ["A", "B", "C"]
    assert commit(queue, "d") == "D"


def test_check_fails_during_a_slow_commit(ledger: Ledger, make_queue: MakeQueue) -> None:
    """``check`` fails while a commit takes longer than the timeout."""
    queue = make_queue(timeout=0.05)
    queue.check()
    ledger.pause()
    with pytest.raises(Overloaded):
        commit(queue, "a")
    with pytest.raises(Overloaded):
        queue.check()
    ledger.resume()
    wait_until(lambda: bool(ledger.noted))
    queue.check()
