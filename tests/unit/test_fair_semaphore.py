"""The turnstile: who is let in, and when."""

import time
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

from galaxy_express.storage.fair_semaphore import FairSemaphore


def test_so_many_at_a_time() -> None:
    """As many are in as there are places, and who leaves makes room for another."""
    turnstile = FairSemaphore(2, timeout=10)
    is_in = Event()

    def enter() -> None:
        with turnstile.place():
            is_in.set()

    with ThreadPoolExecutor(1) as threads:
        with turnstile.place():
            with turnstile.place():
                third = threads.submit(enter)
                assert not is_in.wait(0.05)
            assert is_in.wait(10)
        third.result(10)


def test_nobody_is_overtaken() -> None:
    """Who leaves and comes back at once is let in after who has waited."""
    turnstile = FairSemaphore(1, timeout=10)
    order = []

    def enter(name: str) -> None:
        with turnstile.place():
            order.append(name)

    with ThreadPoolExecutor(1) as threads:
        with turnstile.place():
            waiting = threads.submit(enter, "who waited")
            time.sleep(0.05)
        enter("who came back")
        waiting.result(10)
    assert order == ["who waited", "who came back"]


def test_waiting_has_an_end() -> None:
    """Who waits for too long gives up, and holds nobody up later."""
    turnstile = FairSemaphore(1, timeout=0.05)
    with turnstile.place(), pytest.raises(TimeoutError), turnstile.place():
        pass
    for _ in range(2):
        with turnstile.place():
            pass
