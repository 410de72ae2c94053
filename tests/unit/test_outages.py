"""Outages: logged once when they begin, and once when they are over."""

import logging

import pytest

from galaxy_express.web.outages import QUIET_SECONDS, Outages


class Away(Exception):
    """The database is away."""


class StillAway(Away):
    """The same kind of outage."""


class Slow(Exception):
    """Another kind of outage."""


class Clock:
    """A clock that a test sets."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still."""
    return Clock()


@pytest.fixture
def outages(clock: Clock, caplog: pytest.LogCaptureFixture) -> Outages:
    """The outages of a new process."""
    caplog.set_level(logging.INFO)
    return Outages(logging.getLogger("outages"), [Away, Slow], clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The level and the message of each line of the log."""
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_the_first_failure_is_logged(outages: Outages, caplog: pytest.LogCaptureFixture) -> None:
    """Of a thousand failures one is a line of the log."""
    for _ in range(1000):
        outages.note_failure(Away(), "away: %s", "no answer")
    assert lines(caplog) == [("ERROR", "away: no answer")]


def test_the_end_is_logged_with_the_count(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """When nothing has failed for a while, the next success ends the outage."""
    outages.note_failure(Away(), "away")
    clock.now += 3
    outages.note_failure(StillAway(), "away")
    outages.note_success()
    clock.now += QUIET_SECONDS
    outages.note_success()
    outages.note_success()
    assert lines(caplog)[1:] == [("INFO", "Away is over: 2 failed requests in 3.0 s")]


def test_successes_between_failures_end_nothing(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """While writes fail and reads succeed there is one outage."""
    for _ in range(100):
        outages.note_failure(Away(), "away")
        clock.now += 1
        outages.note_success()
    assert len(lines(caplog)) == 1


def test_the_next_outage_is_logged_anew(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure long after the last one is another outage, even if nothing succeeded."""
    outages.note_failure(Away(), "first")
    clock.now += QUIET_SECONDS
    outages.note_failure(Away(), "second")
    assert lines(caplog) == [
        ("ERROR", "first"),
        ("INFO", "Away is over: 1 failed requests in 0.0 s"),
        ("ERROR", "second"),
    ]


def test_each_kind_is_an_outage_of_its_own(
    outages: Outages, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow request is logged although the database is away."""
    outages.note_failure(Away(), "away")
    outages.note_failure(Slow(), "slow")
    assert [message for _, message in lines(caplog)] == ["away", "slow"]


def test_which_failures_are_known(outages: Outages, clock: Clock) -> None:
    """An exception is known from its outage's first failure until its end; others never are."""
    assert not outages.is_known(Away())
    outages.note_failure(Away(), "away")
    assert outages.is_known(StillAway())
    assert not outages.is_known(Slow())
    assert not outages.is_known(ValueError())
    assert not outages.is_known(None)
    clock.now += QUIET_SECONDS
    assert not outages.is_known(Away())
