"""``PUT`` and ``GET /recipients/{recipient_id}/preferences``."""

from datetime import UTC, datetime

import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import UPDATE, preferences_of, problem, send, totals, update

DEFAULTS = {
    "recipient_id": "leela",
    "personal_preference": True,
    "marketing_preference": True,
    "updated_at": None,
}


def update_body(minute: int, personal: bool, marketing: bool) -> dict[str, object]:
    """An update, a number of minutes after noon."""
    return {
        "timestamp": f"2142-03-01T12:{minute:02}:00Z",
        "personal_preference": personal,
        "marketing_preference": marketing,
    }


def preferences_body(minute: int, personal: bool, marketing: bool) -> dict[str, object]:
    """Leela's preferences, as in a response."""
    return {
        "recipient_id": "leela",
        "personal_preference": personal,
        "marketing_preference": marketing,
        "updated_at": f"2142-03-01T12:{minute:02}:00Z",
    }


def test_unknown_recipient_has_the_defaults(app: TestApp) -> None:
    """Before any update a recipient has the defaults: 200, never 404."""
    answer = app.get("/recipients/leela/preferences")
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == DEFAULTS
    assert list(answer.json) == list(DEFAULTS)


def test_packages_do_not_change_preferences(app: TestApp) -> None:
    """Sending a package to a recipient doesn't change the recipient's preferences."""
    send(app)
    assert app.get("/recipients/leela/preferences").json == DEFAULTS


def test_update_returns_the_current_preferences(app: TestApp) -> None:
    """The response is 200 with the current preferences and ``applied: true``."""
    answer = update(app, UPDATE)
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == preferences_body(0, True, False) | {"applied": True}
    assert list(answer.json) == [*DEFAULTS, "applied"]


def test_preferences_are_read_back(app: TestApp) -> None:
    """Reading returns the same preferences, without ``applied``."""
    update(app, UPDATE)
    assert app.get("/recipients/leela/preferences").json == preferences_body(0, True, False)


def test_newer_update_wins(app: TestApp) -> None:
    """The newest preferences are current."""
    update(app, update_body(1, True, False))
    assert update(app, update_body(2, False, True)).json == preferences_body(2, False, True) | {
        "applied": True
    }


def test_older_update_changes_nothing(app: TestApp) -> None:
    """A late update is 200 with the current preferences and ``applied: false``."""
    update(app, update_body(2, True, False))
    answer = update(app, update_body(1, False, True))
    assert answer.json == preferences_body(2, True, False) | {"applied": False}
    assert app.get("/recipients/leela/preferences").json == preferences_body(2, True, False)


def test_updates_are_ordered_to_the_microsecond(app: TestApp) -> None:
    """Updates are ordered to the microsecond, regardless of their offsets."""
    update(app, update_body(0, True, True) | {"timestamp": "2142-03-01T12:00:00.000001Z"})
    late = update_body(0, False, False) | {"timestamp": "2142-03-01T13:00:00+01:00"}
    assert not update(app, late).json["applied"]
    newer = update_body(0, False, False) | {"timestamp": "2142-03-01T11:00:00.000002-01:00"}
    assert update(app, newer).json["applied"]


def test_at_equal_timestamps_a_decline_wins(app: TestApp) -> None:
    """If two updates have the same timestamp, a type declined in either is declined."""
    for recipient_id, updates in (
        ("leela", [update_body(0, True, False), update_body(0, False, True)]),
        ("fry", [update_body(0, False, True), update_body(0, True, False)]),
    ):
        first, second = (update(app, body, recipient_id).json for body in updates)
        assert first["applied"]
        assert not second["applied"]
        assert (second["personal_preference"], second["marketing_preference"]) == (False, False)


def test_exact_repeat_gets_the_same_response(app: TestApp) -> None:
    """Until a newer update arrives, a repeat gets the same response as the first update."""
    first = update(app, UPDATE)
    assert update(app, UPDATE).body == first.body
    update(app, update_body(1, True, True))
    assert update(app, UPDATE).json == preferences_body(1, True, True) | {"applied": False}


def test_partly_superseded_update_is_not_applied(app: TestApp) -> None:
    """An update is applied only if all its preferences are current with its timestamp."""
    update(app, update_body(0, True, True))
    update(app, update_body(0, False, True))
    assert update(app, update_body(0, True, True)).json["applied"] is False
    assert update(app, update_body(0, False, True)).json["applied"] is True


def test_preferences_are_per_recipient(app: TestApp) -> None:
    """An update of one recipient doesn't change another's preferences."""
    update(app, UPDATE)
    assert app.get("/recipients/fry/preferences").json == DEFAULTS | {"recipient_id": "fry"}


def test_opt_out_and_opt_in(app: TestApp) -> None:
    """The next package after an opt-out is dropped, the next after an opt-in isn't."""
    statuses = []
    for minute, wanted in enumerate([True, False, True]):
        update(app, update_body(minute, wanted, True))
        statuses.append(send(app, package_id=str(minute)).json["status"])
    assert statuses == ["delivered", "dropped", "delivered"]


def test_recipient_may_be_repeated_in_the_body(app: TestApp) -> None:
    """A body may name the recipient if it is the one in the path."""
    assert update(app, UPDATE | {"recipient_id": "leela"}).json["applied"]
    answer = update(app, UPDATE | {"recipient_id": "fry"}, status=422)
    assert problem(answer) == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "code": "invalid",
        "detail": "a field is invalid",
        "errors": [{"pointer": "#/recipient_id", "detail": "must be the recipient_id in the path"}],
    }


@pytest.mark.parametrize(
    "recipient_id",
    ["a/b", "100%", "\U0001f680", "two words", "...", "a/preferences", "preferences", "x" * 255],
)
def test_any_recipient(app: TestApp, recipient_id: str) -> None:
    """Any valid id can be percent-encoded in the path, and repeated in the body."""
    updated = update(app, UPDATE | {"recipient_id": recipient_id}, recipient_id).json
    assert updated["recipient_id"] == recipient_id
    assert app.get(preferences_of(recipient_id)).json == {
        key: value for key, value in updated.items() if key != "applied"
    }
    send(app, recipient_id=recipient_id, package_type="marketing")
    assert totals(app) == (0, 1, 0)


@pytest.mark.parametrize("recipient_id", [".", ".."])
def test_dots_are_not_recipients(app: TestApp, recipient_id: str) -> None:
    """Clients resolve . and .. in paths; if they reach the server, they are 422."""
    for path in (preferences_of(recipient_id), preferences_of(recipient_id).replace(".", "%2E")):
        assert problem(app.get(path, status=422))["code"] == "invalid"
        assert problem(app.put_json(path, UPDATE, status=422))["code"] == "invalid"


def test_update_far_ahead_of_the_clock(backend: Backend, make_app: MakeApp) -> None:
    """With a limit, an update in the far future is 422, and the recipient can still opt out."""
    create_schema(backend.config)
    app = make_app({"preferences.max_ahead": "1 hour"})
    answer = update(app, UPDATE | {"timestamp": "9999-12-31T23:59:59Z"}, status=422)
    assert problem(answer)["errors"] == [
        {
            "pointer": "#/timestamp",
            "detail": "must not be more than 3600 s ahead of the server's clock",
        }
    ]
    now = datetime.now(UTC).isoformat()
    assert update(app, UPDATE | {"timestamp": now}).json["applied"]
    # Packages aren't compared with the clock, since nothing is ordered by their timestamp.
    send(app, timestamp="9999-12-31T23:59:59Z")


def test_without_a_limit_any_timestamp_is_accepted(app: TestApp) -> None:
    """By default nothing is compared with the server's clock."""
    assert update(app, UPDATE | {"timestamp": "9999-12-31T23:59:59Z"}).json["applied"]


@pytest.mark.parametrize(
    "path",
    [
        "/recipients//preferences",
        "/recipients/%20/preferences",
        "/recipients/leela%20/preferences",
        "/recipients/leela%0A/preferences",
        "/recipients/%C2%A0leela/preferences",
        "/recipients/%00/preferences",
        "/recipients/" + "x" * 256 + "/preferences",
        "/recipients/%FF/preferences",
        "/recipients/%ED%A0%80/preferences",
    ],
)
@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_invalid_recipient_id(app: TestApp, path: str, method: str) -> None:
    """An invalid recipient id is 422 for reads and updates."""
    answer = app.request(path, method=method, body=b"{}", status=422)
    body = problem(answer)
    assert body["title"] == "Unprocessable Content"
    assert "recipient_id in the path" in body["detail"]
    assert "errors" not in body


@pytest.mark.parametrize("value", [None, 0, 1, "true", "false", [], {}])
def test_preferences_must_be_booleans(app: TestApp, value: object) -> None:
    """Only true and false are preferences."""
    answer = update(app, UPDATE | {"marketing_preference": value}, status=422)
    assert problem(answer)["errors"] == [
        {"pointer": "#/marketing_preference", "detail": "must be true or false"}
    ]


def test_invalid_update(app: TestApp) -> None:
    """All errors are reported at once, and nothing is changed by the valid fields."""
    answer = update(app, {"marketing_preference": False, "freight_preference": True}, status=422)
    assert problem(answer)["errors"] == [
        {"pointer": "#/timestamp", "detail": "is required"},
        {"pointer": "#/personal_preference", "detail": "is required"},
        {"pointer": "#/freight_preference", "detail": "is not a known field"},
    ]
    assert app.get("/recipients/leela/preferences").json == DEFAULTS


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"a": 1, "a": 1}', b"\xff"])
def test_malformed_update(app: TestApp, body: bytes) -> None:
    """A body that isn't an unambiguous JSON object is 400."""
    assert problem(update(app, body, status=400))["title"] == "Bad Request"
    assert app.get("/recipients/leela/preferences").json == DEFAULTS


def test_updates_are_never_counted(app: TestApp) -> None:
    """Updates, including rejected ones, don't change the statistics."""
    update(app, UPDATE)
    update(app, UPDATE)
    update(app, b"{", status=400)
    update(app, {}, status=422)
    update(app, b" " * 65_537, status=413)
    assert totals(app) == (0, 0, 0)
