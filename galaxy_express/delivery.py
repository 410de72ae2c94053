"""The decision: what becomes of a package. Pure, and the same for one or a thousand."""

from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class Status(StrEnum):
    """What was decided of a package."""

    DELIVERED = "delivered"
    DROPPED = "dropped"


class Package(NamedTuple):
    """A package as its sender described it.

    :param timestamp: when the sender says that it was sent, in UTC.
    """

    package_id: str
    sender_id: str
    recipient_id: str
    package_type: str
    timestamp: datetime

    def is_retry_of(self, other: "Package") -> bool:
        """Whether this is the same package as ``other``, submitted again.

        The timestamp is no part of it: a sender may stamp each attempt anew.
        """
        return (
            self.package_id == other.package_id
            and self.sender_id == other.sender_id
            and self.recipient_id == other.recipient_id
            and self.package_type == other.package_type
        )


class Decision(NamedTuple):
    """What was decided of a package, once and for all."""

    package: Package
    status: Status

    @property
    def reason(self) -> str | None:
        """Why it was dropped; ``None`` for a package that was delivered."""
        return "recipient_declined" if self.status is Status.DROPPED else None


class SendResult(NamedTuple):
    """The outcome of a send: the decision, and whether an earlier send had brought it about."""

    decision: Decision
    replayed: bool


class Conflict(NamedTuple):
    """The outcome of a send whose ``package_id`` stands for another package already."""

    package_id: str


SendOutcome = SendResult | Conflict


def decide(package: Package, wanted: bool) -> Decision:
    """Decide of a package that nothing is known of yet.

    :param wanted: whether its recipient wants its type, at this moment.
    """
    return Decision(package, Status.DELIVERED if wanted else Status.DROPPED)


def replay(package: Package, earlier: Decision) -> SendOutcome:
    """Answer a send whose ``package_id`` was decided before: with the first decision,
    whatever has changed since, unless the id stood for a different package."""
    if package.is_retry_of(earlier.package):
        return SendResult(earlier, replayed=True)
    return Conflict(package.package_id)
