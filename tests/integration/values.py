"""Short constructors of domain values, and helpers that pass them to a desk."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from galaxy_express.delivery import Conflict, Package, SendOutcome, SendResult
from galaxy_express.desk import DeliveryDesk, SendRequest, UpdateRequest
from galaxy_express.preferences import PreferenceUpdate, UpdatedPreferences

NOON = datetime(2142, 3, 1, 12, tzinfo=UTC)


def at(minute: int) -> datetime:
    """Noon plus a number of minutes."""
    return NOON + timedelta(minutes=minute)


def package(
    package_id: str = "pkg-1",
    sender_id: str = "zap",
    recipient_id: str = "leela",
    package_type: str = "personal",
    timestamp: datetime = NOON,
) -> Package:
    """A package; by default a personal one from Zap to Leela."""
    return Package(package_id, sender_id, recipient_id, package_type, timestamp)


def update(minute: int = 0, recipient_id: str = "leela", **wanted: bool) -> PreferenceUpdate:
    """An update by Leela, a number of minutes after noon."""
    return PreferenceUpdate(recipient_id, at(minute), wanted)


Write = SendRequest | PreferenceUpdate
Result = list[SendOutcome] | UpdatedPreferences


def commit(desk: DeliveryDesk, writes: Sequence[Write]) -> list[Result]:
    """Commit writes in one transaction, and return the result of each."""
    requests = [
        UpdateRequest(write) if isinstance(write, PreferenceUpdate) else write for write in writes
    ]
    desk.commit(requests)
    return [
        request.result if isinstance(request, UpdateRequest) else request.outcomes
        for request in requests
    ]


def send(desk: DeliveryDesk, *packages: Package, rejected: int = 0) -> list[SendOutcome]:
    """Send packages in one request."""
    request = SendRequest(packages, rejected)
    desk.commit([request])
    return request.outcomes


def update_preferences(desk: DeliveryDesk, update: PreferenceUpdate) -> UpdatedPreferences:
    """Update a recipient's preferences."""
    request = UpdateRequest(update)
    desk.commit([request])
    return request.result


def outcomes(result: Result) -> list[SendOutcome]:
    """The result of a send request."""
    assert isinstance(result, list)
    return result


def describe(outcome: SendOutcome) -> str:
    """``delivered`` or ``dropped``, with `` again`` for a retry, or ``conflict``."""
    if isinstance(outcome, Conflict):
        return "conflict"
    assert isinstance(outcome, SendResult)
    return outcome.decision.status.value + (" again" if outcome.replayed else "")
