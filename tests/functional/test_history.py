"""``PATCH`` of preferences, and ``GET /recipients/{recipient_id}/preferences/history``."""

from typing import Any
from urllib.parse import urlencode

import pytest
from webtest import TestApp

from tests.functional.client import (
    RECENTLY,
    UPDATE,
    preferences_of,
    problem,
    send,
    totals,
    update,
)

NOON = "2142-03-01T12:00:00Z"
LATER = "2142-03-01T13:00:00Z"
EARLIER = "2142-03-01T11:00:00Z"


def patch(app: TestApp, body: object, recipient_id: str = "leela", status: int = 200) -> Any:
    """Update some of a recipient's preferences."""
    return app.patch_json(preferences_of(recipient_id), body, status=status)


def history(app: TestApp, recipient_id: str = "leela", **parameters: Any) -> dict[str, Any]:
    """A page of the history of a recipient's preferences."""
    query = urlencode(parameters)
    body: dict[str, Any] = app.get(f"{preferences_of(recipient_id)}/history?{query}").json
    return body


def test_patch_changes_what_it_names(app: TestApp) -> None:
    """A patch changes only the preferences that it names; the response has all of them."""
    update(app, UPDATE)
    assert patch(app, {"timestamp": LATER, "personal_preference": False}).json == {
        "recipient_id": "leela",
        "personal_preference": False,
        "marketing_preference": False,
        "updated_at": LATER,
        "applied": True,
    }
    assert send(app, package_id="a", package_type="personal").json["declined_at"] == LATER
    assert send(app, package_id="b", package_type="marketing").json["declined_at"] == NOON


def test_patch_of_a_new_recipient(app: TestApp) -> None:
    """A type that no update has named keeps its default."""
    answer = patch(app, {"timestamp": NOON, "marketing_preference": False})
    assert answer.json["personal_preference"] is True
    assert answer.json["marketing_preference"] is False


def test_older_patch(app: TestApp) -> None:
    """A patch older than the preferences that it names changes nothing."""
    update(app, UPDATE)
    stale = patch(app, {"timestamp": EARLIER, "marketing_preference": True}).json
    assert (stale["marketing_preference"], stale["applied"]) == (False, False)


def test_patch_between_two_updates(app: TestApp) -> None:
    """Updates are ordered per type: an older patch of another type is applied."""
    patch(app, {"timestamp": LATER, "personal_preference": False})
    assert patch(app, {"timestamp": NOON, "marketing_preference": False}).json["applied"] is True


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"timestamp": NOON}, ["#"]),
        ({"timestamp": NOON, "recipient_id": "leela"}, ["#"]),
        ({"personal_preference": True}, ["#/timestamp"]),
        ({}, ["#", "#/timestamp"]),
        ({"timestamp": "noon", "colour": 1}, ["#", "#/timestamp", "#/colour"]),
        ({"timestamp": NOON, "personal_preference": None}, ["#/personal_preference"]),
        ({"timestamp": NOON, "personal_preference": "true"}, ["#/personal_preference"]),
        ({"timestamp": NOON, "personal_preference": True, "colour": 1}, ["#/colour"]),
        (
            {"timestamp": NOON, "personal_preference": True, "recipient_id": "fry"},
            ["#/recipient_id"],
        ),
    ],
)
def test_invalid_patch(app: TestApp, body: object, pointers: list[str]) -> None:
    """An invalid patch is an error that names all fields; nothing is changed or counted."""
    answer = patch(app, body, status=422)
    assert [error["pointer"] for error in problem(answer)["errors"]] == pointers
    assert history(app)["updates"] == []
    assert totals(app) == (0, 0, 0)


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"5"])
def test_malformed_patch(app: TestApp, body: bytes) -> None:
    """A patch that isn't a JSON object is 400."""
    app.request(preferences_of("leela"), method="PATCH", body=body, status=400)


def test_history_has_every_update(app: TestApp) -> None:
    """Every valid update is listed with the preferences that it named, even stale ones."""
    update(app, UPDATE)
    patch(app, {"timestamp": LATER, "marketing_preference": True})
    update(app, UPDATE | {"timestamp": EARLIER})
    assert history(app, order="asc")["updates"] == [
        {
            "timestamp": NOON,
            "received_at": RECENTLY,
            "personal_preference": True,
            "marketing_preference": False,
            "applied": True,
        },
        {
            "timestamp": LATER,
            "received_at": RECENTLY,
            "marketing_preference": True,
            "applied": True,
        },
        {
            "timestamp": EARLIER,
            "received_at": RECENTLY,
            "personal_preference": True,
            "marketing_preference": False,
            "applied": False,
        },
    ]
    assert history(app)["updates"] == history(app, order="asc")["updates"][::-1]


def test_repeat_is_not_recorded_again(app: TestApp) -> None:
    """An update that only repeats current preferences, all or some, is not recorded again."""
    update(app, UPDATE)
    update(app, UPDATE)
    patch(app, {"timestamp": NOON, "marketing_preference": False})
    assert len(history(app)["updates"]) == 1
    # Only part of this update is a repeat.
    patch(app, {"timestamp": LATER, "personal_preference": False})
    update(app, UPDATE)
    assert [found["applied"] for found in history(app)["updates"]] == [False, True, True]


def test_applied_is_the_original_result(app: TestApp) -> None:
    """A later update doesn't change ``applied`` of an earlier one in the history."""
    update(app, UPDATE)
    update(app, UPDATE | {"timestamp": LATER, "marketing_preference": True})
    assert [found["applied"] for found in history(app)["updates"]] == [True, True]


def test_invalid_updates_are_not_in_the_history(app: TestApp) -> None:
    """An update that was rejected is not recorded."""
    update(app, UPDATE | {"timestamp": "yesterday"}, status=422)
    assert history(app) == {"updates": [], "next": None}


def test_history_is_per_recipient(app: TestApp) -> None:
    """A history has only the updates of its recipient."""
    for recipient_id in ("leela", "a/b ü"):
        update(app, UPDATE, recipient_id)
    assert len(history(app, "a/b ü")["updates"]) == 1
    assert history(app, "fry")["updates"] == []


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_of_the_history(app: TestApp, order: str) -> None:
    """The history is paged, in both orders."""
    timestamps = [f"2142-03-01T12:00:{second:02}Z" for second in range(5)]
    for timestamp in timestamps:
        patch(app, {"timestamp": timestamp, "personal_preference": True})
    seen: list[str] = []
    parameters: dict[str, Any] = {"order": order, "limit": 2}
    while len(seen) < 5:
        body = history(app, **parameters)
        seen += [found["timestamp"] for found in body["updates"]]
        parameters["after"] = body["next"]
    assert seen == (timestamps if order == "asc" else timestamps[::-1])
    if order == "desc":
        assert body["next"] is None
    else:
        patch(app, {"timestamp": LATER, "personal_preference": True})
        assert [found["timestamp"] for found in history(app, **parameters)["updates"]] == [LATER]


@pytest.mark.parametrize("query", ["recipient_id=leela", "limit=0", "order=up", "after=x"])
def test_invalid_parameters_of_the_history(app: TestApp, query: str) -> None:
    """The parameters are those of the list of packages, without the recipient."""
    name = query.partition("=")[0]
    answer = app.get(f"{preferences_of('leela')}/history?{query}", status=422)
    assert [error["parameter"] for error in problem(answer)["errors"]] == [name]


@pytest.mark.parametrize("recipient", ["%20", "..", "%FF"])
def test_history_of_an_invalid_recipient(app: TestApp, recipient: str) -> None:
    """The history of a recipient with an invalid id is 422."""
    answer = app.get(f"/recipients/{recipient}/preferences/history", status=422)
    assert problem(answer)["code"] == "invalid"
