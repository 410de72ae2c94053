"""Values of the domain, made short."""

from datetime import UTC, datetime, timedelta

from galaxy_express.delivery import Conflict, Package, SendOutcome, SendResult
from galaxy_express.desk import Answer, DeliveryDesk, SendRequest
from galaxy_express.preferences import PreferenceUpdate, UpdatedPreferences

NOON = datetime(2142, 3, 1, 12, tzinfo=UTC)


def at(minute: int) -> datetime:
    """So many minutes after noon."""
    return NOON + timedelta(minutes=minute)


def package(
    package_id: str = "pkg-1",
    sender_id: str = "zap",
    recipient_id: str = "leela",
    package_type: str = "personal",
    timestamp: datetime = NOON,
) -> Package:
    """A personal package of Zap's for Leela, unless it is said otherwise."""
    return Package(package_id, sender_id, recipient_id, package_type, timestamp)


def update(minute: int = 0, recipient_id: str = "leela", **wanted: bool) -> PreferenceUpdate:
    """An update of Leela's, so many minutes after noon."""
    return PreferenceUpdate(recipient_id, at(minute), wanted)


def send(desk: DeliveryDesk, *packages: Package, refused: int = 0) -> list[SendOutcome]:
    """Send packages in one submission."""
    (answer,) = desk.commit([SendRequest(packages, refused)])
    return outcomes(answer)


def say(desk: DeliveryDesk, said: PreferenceUpdate) -> UpdatedPreferences:
    """Update a recipient's preferences."""
    (answer,) = desk.commit([said])
    assert isinstance(answer, UpdatedPreferences)
    return answer


def outcomes(answer: Answer) -> list[SendOutcome]:
    """The answer to a submission."""
    assert isinstance(answer, list)
    return answer


def in_words(outcome: SendOutcome) -> str:
    """``delivered`` or ``dropped``, with `` again`` for a retry, or ``conflict``."""
    if isinstance(outcome, Conflict):
        return "conflict"
    assert isinstance(outcome, SendResult)
    return outcome.decision.status.value + (" again" if outcome.replayed else "")
