"""The bodies of responses."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from galaxy_express.delivery import Decision, Package, Status
from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry
from galaxy_express.preferences import Preference
from galaxy_express.web.rendering import decision_body, preferences_body, statistics_body
from galaxy_express.web.responses import json_response

NOON = datetime(2142, 3, 1, 12, tzinfo=UTC)
MORE_TYPES = PackageTypeRegistry(
    [
        *PACKAGE_TYPES,
        PackageType("freight", wanted_by_default=False),
        PackageType("tax", declinable=False),
    ]
)


@pytest.mark.parametrize(
    ("status", "reason"), [(Status.DELIVERED, None), (Status.DROPPED, "recipient_declined")]
)
def test_body_of_a_decision(status: Status, reason: str | None) -> None:
    """The body of a decision has the package, its status, the reason, and both times."""
    package = Package("pkg-1", "zap", "leela", "personal", NOON)
    decision = Decision(package, status, NOON + timedelta(seconds=1.5), NOON)
    assert json.loads(json_response(decision_body(decision)).body) == {
        "package_id": "pkg-1",
        "status": str(status),
        "reason": reason,
        "sender_id": "zap",
        "recipient_id": "leela",
        "package_type": "personal",
        "timestamp": "2142-03-01T12:00:00Z",
        "decided_at": "2142-03-01T12:00:01.500000Z",
        "declined_at": "2142-03-01T12:00:00Z",
    }


def test_default_preferences() -> None:
    """A recipient who sent no update has the defaults, and no `updated_at`."""
    assert preferences_body(MORE_TYPES, "leela", {}) == {
        "recipient_id": "leela",
        "personal_preference": True,
        "marketing_preference": True,
        "freight_preference": False,
        "tax_preference": True,
        "updated_at": None,
    }


def test_body_of_preferences() -> None:
    """The body has the current preferences, and the newest of their timestamps."""
    later = datetime(2142, 3, 2, 12, tzinfo=UTC)
    preferences = {
        "personal": Preference(False, later),
        "marketing": Preference(True, NOON),
        "forgotten": Preference(True, NOON),  # a type that is no longer registered
    }
    assert preferences_body(PACKAGE_TYPES, "leela", preferences) == {
        "recipient_id": "leela",
        "personal_preference": False,
        "marketing_preference": True,
        "updated_at": later,
    }


def test_statistics_without_packages() -> None:
    """Every registered type has a row from the start."""
    nothing = {"delivered": 0, "dropped": 0}
    assert statistics_body(PACKAGE_TYPES, {}) == {
        "packages_delivered": 0,
        "packages_dropped": 0,
        "requests_rejected": 0,
        "by_type": {"marketing": nothing, "personal": nothing},
    }


def test_statistics_are_added_up() -> None:
    """The totals are the sums of the rows, including types that are no longer registered."""
    totals = {
        ("delivered", "personal"): 7,
        ("delivered", "marketing"): 5,
        ("dropped", "marketing"): 3,
        ("dropped", "forgotten"): 2,
        ("rejected", ""): 4,
    }
    body = statistics_body(PACKAGE_TYPES, totals)
    assert body == {
        "packages_delivered": 12,
        "packages_dropped": 5,
        "requests_rejected": 4,
        "by_type": {
            "forgotten": {"delivered": 0, "dropped": 2},
            "marketing": {"delivered": 5, "dropped": 3},
            "personal": {"delivered": 7, "dropped": 0},
        },
    }
    assert list(body["by_type"]) == ["forgotten", "marketing", "personal"]
