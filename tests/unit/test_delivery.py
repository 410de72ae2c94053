"""The rules of a decision."""

from datetime import UTC, datetime, timedelta

import pytest

from galaxy_express.delivery import Conflict, Decision, Package, SendResult, Status, decide, replay

NOW = datetime(2142, 3, 1, 12, tzinfo=UTC)
YESTERDAY = NOW - timedelta(days=1)
PACKAGE = Package("pkg-1", "zap", "leela", "personal", NOW)


@pytest.mark.parametrize("chosen_at", [None, YESTERDAY])
def test_wanted_package_is_delivered(chosen_at: datetime | None) -> None:
    """A package is delivered to a recipient who wants its type, by choice or by default."""
    decision = decide(PACKAGE, True, chosen_at, NOW)
    assert decision == Decision(PACKAGE, Status.DELIVERED, decided_at=NOW, declined_at=None)
    assert decision.reason is None


def test_unwanted_package_is_dropped() -> None:
    """The decision on a package of a declined type has the reason, and the time at which the type
    was declined."""
    decision = decide(PACKAGE, False, YESTERDAY, NOW)
    assert decision == Decision(PACKAGE, Status.DROPPED, decided_at=NOW, declined_at=YESTERDAY)
    assert decision.reason == "recipient_declined"


def test_package_dropped_by_default() -> None:
    """If a type is unwanted by default, the decision has no time at which it was declined."""
    decision = decide(PACKAGE, False, None, NOW)
    assert decision == Decision(PACKAGE, Status.DROPPED, decided_at=NOW, declined_at=None)


@pytest.mark.parametrize("status", list(Status))
def test_retry_returns_the_first_decision(status: Status) -> None:
    """Every retry of a package returns its first decision."""
    first = Decision(PACKAGE, status, NOW, None)
    assert replay(PACKAGE, first) == SendResult(first, replayed=True)


def test_retry_may_have_another_timestamp() -> None:
    """A retry may have a new timestamp; the first one is kept."""
    first = Decision(PACKAGE, Status.DELIVERED, NOW, None)
    again = PACKAGE._replace(timestamp=datetime(2143, 1, 1, tzinfo=UTC))
    assert replay(again, first) == SendResult(first, replayed=True)


@pytest.mark.parametrize(
    "other",
    [
        PACKAGE._replace(sender_id="nixon"),
        PACKAGE._replace(recipient_id="fry"),
        PACKAGE._replace(package_type="marketing"),
    ],
)
def test_id_used_for_another_package_is_a_conflict(other: Package) -> None:
    """The same id with another sender, recipient or type is a different package."""
    assert replay(other, Decision(PACKAGE, Status.DELIVERED, NOW, None)) == Conflict("pkg-1")


def test_another_id_is_another_package() -> None:
    """Packages that differ only in their id are not retries of each other."""
    assert not PACKAGE._replace(package_id="pkg-2").is_retry_of(PACKAGE)
