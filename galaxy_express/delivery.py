"""The rules of a decision: pure functions that decide a package."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

#: The key of a counter: an outcome and a package type. The type is empty for ``REJECTED``.
CounterKey = tuple[str, str]

#: Counts rejected requests. They never became a package, so they have no type.
REJECTED: CounterKey = ("rejected", "")


class Status(StrEnum):
    """The outcome of a decision."""

    DELIVERED = "delivered"
    DROPPED = "dropped"


class Package(NamedTuple):
    """A package as its sender described it.

    :param timestamp: when the package was sent, according to its sender, in UTC.
    """

    package_id: str
    sender_id: str
    recipient_id: str
    package_type: str
    timestamp: datetime

    def is_retry_of(self, other: "Package") -> bool:
        """Return whether this is the same package as ``other``, submitted again.

        The timestamp is ignored: senders may use a new one for each attempt.
        """
        return (
            self.package_id == other.package_id
            and self.sender_id == other.sender_id
            and self.recipient_id == other.recipient_id
            and self.package_type == other.package_type
        )


class Decision(NamedTuple):
    """The final decision about a package.

    :param decided_at: when it was made, in UTC; ``None`` if that was not recorded.
    :param declined_at: the timestamp of the preference that caused the drop, in UTC;
        ``None`` if it was delivered, or dropped by default.
    """

    package: Package
    status: Status
    decided_at: datetime | None
    declined_at: datetime | None

    @property
    def reason(self) -> str | None:
        """Why the package was dropped; ``None`` if it was delivered."""
        return "recipient_declined" if self.status is Status.DROPPED else None


class SendResult(NamedTuple):
    """The outcome of a send: the decision, and whether it was made by an earlier send."""

    decision: Decision
    replayed: bool


class Conflict(NamedTuple):
    """The outcome of a send whose ``package_id`` already belongs to a different package."""

    package_id: str


SendOutcome = SendResult | Conflict


def decide(
    package: Package, wanted: bool, chosen_at: datetime | None, decided_at: datetime
) -> Decision:
    """Decide a package that has not been seen before.

    :param wanted: whether its recipient wants packages of its type at this moment.
    :param chosen_at: the timestamp of the recipient's preference; ``None`` if there is none.
    """
    if wanted:
        return Decision(package, Status.DELIVERED, decided_at, None)
    return Decision(package, Status.DROPPED, decided_at, chosen_at)


def replay(package: Package, earlier: Decision) -> SendOutcome:
    """Return the outcome of a send whose ``package_id`` was decided before.

    :param earlier: the first decision for that id. It is final, whatever has changed since.
    :returns: that decision, or a conflict if the id belongs to a different package.
    """
    if package.is_retry_of(earlier.package):
        return SendResult(earlier, replayed=True)
    return Conflict(package.package_id)
