"""Deadlines: errors in greenlets that take too long."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import gevent
import pytest
from gevent.event import Event

from galaxy_express.deadlines import Deadlines

# Nobody waits longer, so a deadline that doesn't work fails the test.
LONG = 20


class Late(Exception):
    """Raised in greenlets that are late."""


@pytest.fixture
def deadlines() -> Iterator[Deadlines]:
    """Deadlines of 20 milliseconds."""
    deadlines = Deadlines(timedelta(milliseconds=20))
    yield deadlines
    deadlines.close()


def test_late(deadlines: Deadlines) -> None:
    """The error is raised where a greenlet waits when its deadline passes."""
    deadlines.start(Late)
    with pytest.raises(Late):
        gevent.sleep(LONG)


def test_in_time(deadlines: Deadlines) -> None:
    """A greenlet that has stopped its deadline gets no error; stopping it again has no effect."""
    deadline = deadlines.start(Late)
    deadlines.stop(deadline)
    deadlines.stop(deadline)
    gevent.sleep(0.1)


def test_several(deadlines: Deadlines) -> None:
    """Each of several late greenlets gets the error, except those whose deadline is stopped by one
    that gets it first."""
    first_is_late = Event()

    def wait(event: Event) -> str:
        deadline = deadlines.start(Late)
        try:
            event.wait(LONG)
        except Late:
            deadlines.stop(third_deadline)
            first_is_late.set()
            return "late"
        finally:
            deadlines.stop(deadline)
        return "in time"

    late = [gevent.spawn(wait, Event()) for _ in range(2)]
    gevent.sleep(0)
    third_deadline = deadlines.start(Late)
    assert first_is_late.wait(LONG)
    gevent.sleep(0.1)
    assert [greenlet.get(timeout=LONG) for greenlet in late] == ["late", "late"]


def test_event_loop_without_deadlines() -> None:
    """After the last deadline was stopped or has passed, nothing keeps the event loop busy."""

    def check() -> bool:
        deadlines = Deadlines(timedelta(milliseconds=20))
        deadlines.stop(deadlines.start(Late))
        late = gevent.spawn(deadlines.start, Late)
        is_idle = gevent.wait(timeout=LONG)
        gevent.get_hub().destroy(destroy_loop=True)
        return bool(is_idle and late.successful())

    with ThreadPoolExecutor() as pool:  # a new thread has an event loop of its own
        assert pool.submit(check).result()
