"""Each cause of an outage is logged once, and the end of the outage."""

import logging

import pytest

from galaxy_express.web.outages import MAX_CAUSES, QUIET_SECONDS, Outages


class Unreachable(Exception):
    """The database is unreachable."""

    cause: str | None = None


class NotAllowed(Unreachable):
    """The same kind of outage, with another cause."""


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
    """A clock that stands still by default."""
    return Clock()


@pytest.fixture
def outages(clock: Clock, caplog: pytest.LogCaptureFixture) -> Outages:
    """The outages of a new process."""
    caplog.set_level(logging.INFO)
    return Outages(logging.getLogger("outages"), [Unreachable, Slow], clock)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """The level and the message of each line of the log."""
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_first_failure_is_logged(outages: Outages, caplog: pytest.LogCaptureFixture) -> None:
    """Only the first of a thousand failures is logged."""
    for _ in range(1000):
        outages.note_failure(Unreachable(), "unreachable: %s", "no response")
    assert lines(caplog) == [("ERROR", "unreachable: no response")]


def test_end_is_logged_with_the_number_of_failures(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The first success after a while without failures ends the outage."""
    outages.note_failure(Unreachable(), "unreachable")
    clock.now += 3
    outages.note_failure(Unreachable(), "unreachable")
    outages.note_success()
    clock.now += QUIET_SECONDS
    outages.note_success()
    outages.note_success()
    assert lines(caplog)[1:] == [("INFO", "Unreachable is over: 2 failed requests in 3.0 s")]


def test_successes_between_failures_do_not_end_an_outage(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """Failing writes among succeeding reads are a single outage."""
    for _ in range(100):
        outages.note_failure(Unreachable(), "unreachable")
        clock.now += 1
        outages.note_success()
    assert len(lines(caplog)) == 1


def test_next_outage_is_logged_separately(
    outages: Outages, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A failure long after the last one is a new outage, even without a success in between."""
    outages.note_failure(Unreachable(), "first")
    clock.now += QUIET_SECONDS
    outages.note_failure(Unreachable(), "second")
    assert lines(caplog) == [
        ("ERROR", "first"),
        ("INFO", "Unreachable is over: 1 failed requests in 0.0 s"),
        ("ERROR", "second"),
    ]


def test_each_kind_of_error_is_a_separate_outage(
    outages: Outages, caplog: pytest.LogCaptureFixture
) -> None:
    """A slow request is logged even during an outage of the database."""
    outages.note_failure(Unreachable(), "unreachable")
    outages.note_failure(Slow(), "slow")
    assert [message for _, message in lines(caplog)] == ["unreachable", "slow"]


def test_each_cause_is_logged_once(outages: Outages, caplog: pytest.LogCaptureFixture) -> None:
    """A later cause is logged during an outage; all causes together are one outage."""
    for error in (Unreachable("locked"), NotAllowed("locked"), Unreachable("full")) * 2:
        outages.note_failure(error, "%s", f"{type(error).__name__} {error}")
    assert [message for _, message in lines(caplog)] == [
        "Unreachable locked",
        "NotAllowed locked",
        "Unreachable full",
    ]


def test_messages_that_only_differ_in_data(
    outages: Outages, caplog: pytest.LogCaptureFixture
) -> None:
    """Failures with the same cause are logged once, whichever numbers or rows they name."""
    for number in range(1000):
        outages.note_failure(Unreachable(f"process {number} has a lock"), "locked")
        error = Unreachable(f"row {chr(number)}")
        error.cause = "a trigger"
        outages.note_failure(error, "rejected")
    assert [message for _, message in lines(caplog)] == ["locked", "rejected"]


def test_number_of_causes_is_bounded(outages: Outages, caplog: pytest.LogCaptureFixture) -> None:
    """Only the first causes of an outage are logged."""
    for number in range(100):
        outages.note_failure(Unreachable("x" * number), "cause")
    assert len(lines(caplog)) == MAX_CAUSES
    assert outages.is_known(Unreachable("another"))


def test_known_failures(outages: Outages, clock: Clock) -> None:
    """An exception is known from the first failure of its cause until the end of the outage."""
    assert not outages.is_known(Unreachable())
    outages.note_failure(Unreachable(), "unreachable")
    assert outages.is_known(Unreachable())
    assert not outages.is_known(NotAllowed())
    assert not outages.is_known(Slow())
    assert not outages.is_known(ValueError())
    assert not outages.is_known(None)
    clock.now += QUIET_SECONDS
    assert not outages.is_known(Unreachable())
