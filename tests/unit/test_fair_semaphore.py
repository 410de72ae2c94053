"""The fair semaphore: capacity, order and timeouts."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from galaxy_express.storage.fair_semaphore import FairSemaphore


def wait_for_waiter(semaphore: FairSemaphore) -> None:
    """Wait until the semaphore has a waiter."""
    deadline = time.monotonic() + 10
    while not semaphore._waiters:  # noqa: SLF001 - nothing else shows it
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_capacity() -> None:
    """The semaphore admits as many as its capacity, and one more after each release."""
    semaphore = FairSemaphore(2, timeout=10)
    admitted = Event()

    def enter() -> None:
        with semaphore.acquire():
            admitted.set()

    with ThreadPoolExecutor(1) as threads:
        with semaphore.acquire():
            with semaphore.acquire():
                third = threads.submit(enter)
                wait_for_waiter(semaphore)
                assert not admitted.is_set()
            assert admitted.wait(10)
        third.result(10)


def test_order() -> None:
    """A newcomer does not overtake a waiter."""
    semaphore = FairSemaphore(1, timeout=10)
    order = []

    def enter(name: str) -> None:
        with semaphore.acquire():
            order.append(name)

    with ThreadPoolExecutor(1) as threads:
        with semaphore.acquire():
            waiting = threads.submit(enter, "waiter")
            wait_for_waiter(semaphore)
        enter("newcomer")
        waiting.result(10)
    assert order == ["waiter", "newcomer"]


def test_timeout() -> None:
    """A waiter that times out takes no slot."""
    semaphore = FairSemaphore(1, timeout=0.05)
    with semaphore.acquire(), pytest.raises(TimeoutError), semaphore.acquire():
        pass
    for _ in range(2):
        with semaphore.acquire():
            pass


# Interrupted waiters are greenlets, as in a server, where gevent has patched locks.
GREENLETS = """
from gevent import monkey
monkey.patch_all()
import gevent
from galaxy_express.storage.fair_semaphore import FairSemaphore

semaphore = FairSemaphore(1, timeout=10)

def enter():
    with semaphore.acquire():
        pass

def run_out_of_time():
    with gevent.Timeout(0.001, False):
        enter()

{interrupt}
with gevent.Timeout(1), semaphore.acquire():
    print("admitted")
"""


@pytest.mark.parametrize(
    "interrupt",
    [
        pytest.param(
            """
with semaphore.acquire():
    waiter = gevent.spawn(enter)
    gevent.sleep(0)
    waiter.kill()
""",
            id="killed while it waits",
        ),
        pytest.param(
            """
with semaphore.acquire():
    gevent.spawn(run_out_of_time).join()
""",
            id="timed out by the caller",
        ),
        pytest.param(
            """
with semaphore.acquire():
    waiter = gevent.spawn(enter)
    gevent.sleep(0)
waiter.kill()
""",
            id="killed after it was admitted, before it runs",
        ),
        pytest.param(
            """
with semaphore.acquire():
    first, second = gevent.spawn(enter), gevent.spawn(enter)
    gevent.sleep(0)
first.kill()
with gevent.Timeout(1):
    second.get()
""",
            id="killed, so that its slot goes to the next waiter",
        ),
    ],
)
def test_interrupted_waiter(interrupt: str) -> None:
    """A waiter that is interrupted at any moment doesn't keep a slot."""
    script = [sys.executable, "-c", GREENLETS.format(interrupt=interrupt)]
    assert subprocess.run(script, stdout=subprocess.PIPE, check=True).stdout == b"admitted\n"
