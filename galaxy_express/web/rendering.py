"""Renders the bodies of responses; they become JSON later."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, WithJsonSchema
from typing_extensions import TypedDict

from galaxy_express.delivery import REJECTED, CounterKey, Decision, SendResult, Status
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.preferences import Preferences, ReceivedUpdate
from galaxy_express.web.fields import Identifier, TimestampInUtc

_DECIDED_AT = (
    "When it was decided, by the clock of the machine with the database; null if it was decided"
    " before version 1.1."
)
_DECLINED_AT = (
    "The timestamp of the preference that caused the drop; null if it was delivered, or if "
    "its type is unwanted by default and the recipient has no preference."
)
#: The description of ``next``, in each page.
NEXT = (
    "The cursor of the next page, for the parameter `after`. In descending order it is null on the "
    "last page; in ascending order it is never null, so that later decisions can be read with it."
)


class DecisionBody(TypedDict):
    """The decision on a package."""

    package_id: Identifier
    status: Annotated[str, WithJsonSchema({"type": "string", "enum": list(Status)})]
    reason: Annotated[
        str | None,
        WithJsonSchema(
            {
                "type": ["string", "null"],
                "enum": ["recipient_declined", None],
                "description": "Why it was dropped.",
            }
        ),
    ]
    sender_id: Identifier
    recipient_id: Identifier
    package_type: str
    timestamp: TimestampInUtc
    decided_at: Annotated[TimestampInUtc | None, Field(description=_DECIDED_AT)]
    declined_at: Annotated[TimestampInUtc | None, Field(description=_DECLINED_AT)]


class SendResultBody(DecisionBody):
    """The decision on a package of a batch."""

    replayed: Annotated[bool, Field(description="Whether the package had been decided before.")]


class PackagesPage(TypedDict):
    """A page of decisions."""

    packages: list[DecisionBody]
    next: Annotated[str | None, Field(description=NEXT)]


class TypeTotals(TypedDict):
    """The numbers of delivered and dropped packages of one type."""

    delivered: int
    dropped: int


class StatisticsBody(TypedDict):
    """The totals."""

    packages_delivered: int
    packages_dropped: int
    requests_rejected: int
    by_type: dict[str, TypeTotals]


def decision_body(decision: Decision) -> DecisionBody:
    """Render a decision; the result is the same for every retry."""
    package = decision.package
    return {
        "package_id": package.package_id,
        "status": decision.status.value,
        "reason": decision.reason,
        "sender_id": package.sender_id,
        "recipient_id": package.recipient_id,
        "package_type": package.package_type,
        "timestamp": package.timestamp,
        "decided_at": decision.decided_at,
        "declined_at": decision.declined_at,
    }


def send_result_body(result: SendResult) -> SendResultBody:
    """Render the outcome of a send in a batch."""
    return {**decision_body(result.decision), "replayed": result.replayed}


def preferences_body(
    package_types: PackageTypeRegistry, recipient_id: str, preferences: Preferences
) -> dict[str, object]:
    """Render a recipient's current preferences, including defaults."""
    newest = max((current.timestamp for current in preferences.values()), default=None)
    body: dict[str, object] = {"recipient_id": recipient_id}
    for package_type in package_types:
        current = preferences.get(package_type.name)
        wanted = package_type.is_wanted(current.wanted if current else None)
        body[package_type.preference_field] = wanted
    body["updated_at"] = newest
    return body


def received_update_body(received: ReceivedUpdate) -> dict[str, object]:
    """Render an update in the history."""
    update = received.update
    body: dict[str, object] = {
        "timestamp": update.timestamp,
        "received_at": received.received_at,
    }
    # Includes types that are no longer registered.
    body |= {f"{name}_preference": wanted for name, wanted in update.wanted.items()}
    return body | {"applied": received.applied}


def statistics_body(
    package_types: PackageTypeRegistry, totals: Mapping[CounterKey, int]
) -> StatisticsBody:
    """Render the totals."""
    counted = {package_type for _, package_type in totals.keys() - {REJECTED}}
    by_type: dict[str, TypeTotals] = {
        name: {
            "delivered": totals.get(("delivered", name), 0),
            "dropped": totals.get(("dropped", name), 0),
        }
        for name in sorted(counted | {*package_types.names})
    }
    return {
        "packages_delivered": sum(row["delivered"] for row in by_type.values()),
        "packages_dropped": sum(row["dropped"] for row in by_type.values()),
        "requests_rejected": totals.get(REJECTED, 0),
        "by_type": by_type,
    }
