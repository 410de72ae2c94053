"""The rules of a decision."""

from datetime import UTC, datetime

import pytest

from galaxy_express.delivery import Conflict, Decision, Package, SendResult, Status, decide, replay

PACKAGE = Package("pkg-1", "zap", "leela", "personal", datetime(2142, 3, 1, 12, tzinfo=UTC))


def test_a_wanted_package_is_delivered() -> None:
    """A package is delivered to a recipient who wants its type."""
    decision = decide(PACKAGE, wanted=True)
    assert decision == Decision(PACKAGE, Status.DELIVERED)
    assert decision.reason is None


def test_an_unwanted_package_is_dropped() -> None:
    """A package of a declined type is dropped, and the decision gives the reason."""
    decision = decide(PACKAGE, wanted=False)
    assert decision == Decision(PACKAGE, Status.DROPPED)
    assert decision.reason == "recipient_declined"


@pytest.mark.parametrize("status", list(Status))
def test_a_retry_is_answered_with_the_first_decision(status: Status) -> None:
    """The first decision on a package is the answer to every retry."""
    first = Decision(PACKAGE, status)
    assert replay(PACKAGE, first) == SendResult(first, replayed=True)


def test_a_retry_may_have_another_timestamp() -> None:
    """Senders may stamp each attempt anew; the first timestamp is kept."""
    first = Decision(PACKAGE, Status.DELIVERED)
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
def test_an_id_used_for_another_package_is_a_conflict(other: Package) -> None:
    """The same id with another sender, recipient or type is a different package."""
    assert replay(other, Decision(PACKAGE, Status.DELIVERED)) == Conflict("pkg-1")


def test_another_id_is_another_package() -> None:
    """Packages that differ only in their id are not retries of each other."""
    assert not PACKAGE._replace(package_id="pkg-2").is_retry_of(PACKAGE)
