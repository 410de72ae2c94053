"""``POST /packages/batch``."""

import json

import pytest
from webtest import TestApp

from tests.functional.client import (
    DECISION,
    PACKAGE,
    UPDATE,
    post,
    problem,
    read,
    send,
    send_batch,
    totals,
    update,
)

FIRST = {"replayed": False}
AGAIN = {"replayed": True}


def package(package_id: str, **changes: object) -> dict[str, object]:
    """A package with an id."""
    return PACKAGE | {"package_id": package_id} | changes


def test_results_are_in_order(app: TestApp) -> None:
    """The response is 200 with an array of decisions, the same as for single sends."""
    update(app, UPDATE)
    answer = send_batch(app, package("a"), package("b", package_type="marketing"), package("c"))
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == [
        DECISION | {"package_id": "a"} | FIRST,
        DECISION
        | {
            "package_id": "b",
            "package_type": "marketing",
            "status": "dropped",
            "reason": "recipient_declined",
            "declined_at": UPDATE["timestamp"],
        }
        | FIRST,
        DECISION | {"package_id": "c"} | FIRST,
    ]
    assert [read(app, package_id).json | FIRST for package_id in "abc"] == answer.json


def test_empty_batch(app: TestApp) -> None:
    """An empty batch has no results."""
    assert send_batch(app).body == b"[]"


def test_rejected_item_does_not_affect_the_others(app: TestApp) -> None:
    """The result of a rejected item is its problem, with pointers relative to the item."""
    answer = send_batch(app, package("a"), package("", colour="red"), 5, package("b"))
    assert answer.json == [
        DECISION | {"package_id": "a"} | FIRST,
        {
            "status": "rejected",
            "problem": {
                "type": "about:blank",
                "title": "Unprocessable Content",
                "status": 422,
                "code": "invalid",
                "detail": "some fields are invalid",
                "errors": [
                    {"pointer": "#/package_id", "detail": "must have 1 to 255 characters"},
                    {"pointer": "#/colour", "detail": "is not a known field"},
                ],
            },
        },
        {
            "status": "rejected",
            "problem": {
                "type": "about:blank",
                "title": "Bad Request",
                "status": 400,
                "code": "malformed",
                "detail": "an item must be a JSON object",
            },
        },
        DECISION | {"package_id": "b"} | FIRST,
    ]


@pytest.mark.parametrize("item", [None, True, 5, 1.5, "pkg-1", [], [PACKAGE]])
def test_item_that_is_not_an_object(app: TestApp, item: object) -> None:
    """An item that isn't an object is rejected, and the others aren't."""
    (result,) = send_batch(app, item).json
    assert result["status"] == "rejected"
    assert result["problem"]["status"] == 400


def test_repeated_id_is_a_retry(app: TestApp) -> None:
    """A repeated id gets the first decision, marked as replayed."""
    first, second = send_batch(
        app, package("a"), package("a", timestamp="2142-03-02T00:00:00Z")
    ).json
    assert first == DECISION | {"package_id": "a"} | FIRST
    assert second == DECISION | {"package_id": "a"} | AGAIN
    assert send(app, status=200, package_id="a").json == DECISION | {"package_id": "a"}
    assert send_batch(app, package("a")).json == [second]
    assert totals(app) == (1, 0, 0)


def test_conflict_in_a_batch(app: TestApp) -> None:
    """A conflict with an earlier send, or within the batch, is a rejected item."""
    send(app, package_id="a")
    conflict = {
        "status": "rejected",
        "problem": {
            "type": "about:blank",
            "title": "Conflict",
            "status": 409,
            "code": "package_conflict",
            "detail": "this package_id was used before, for another sender, recipient or package "
            "type",
        },
    }
    assert send_batch(
        app,
        package("a", sender_id="nixon"),
        package("b"),
        package("b", recipient_id="fry"),
        package("c"),
    ).json == [
        conflict,
        DECISION | {"package_id": "b"} | FIRST,
        conflict,
        DECISION | {"package_id": "c"} | FIRST,
    ]
    assert totals(app) == (3, 0, 2)


def test_rejected_item_does_not_use_its_id(app: TestApp) -> None:
    """The id of a rejected item can be sent again, even in the same batch."""
    rejected, decided = send_batch(app, package("a", sender_id=None), package("a")).json
    assert rejected["status"] == "rejected"
    assert decided == DECISION | {"package_id": "a"} | FIRST


def test_thousand_packages(app: TestApp) -> None:
    """A batch can have a thousand packages."""
    answer = send_batch(app, *(package(str(number)) for number in range(1000)))
    assert [result["package_id"] for result in answer.json] == [str(n) for n in range(1000)]
    assert totals(app) == (1000, 0, 0)


def test_more_than_a_thousand_items(app: TestApp) -> None:
    """A batch of 1,001 items is rejected, and none of its packages is decided."""
    answer = send_batch(app, package("a"), *range(1000), status=422)
    assert problem(answer) == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "code": "invalid",
        "detail": "a batch must have at most 1,000 items, not 1,001",
    }
    read(app, "a", status=404)


@pytest.mark.parametrize("body", [PACKAGE, {}, "pkg-1", 5, None, b"", b"[", b"\xff"])
def test_batch_that_is_not_an_array(app: TestApp, body: object) -> None:
    """A body that isn't a JSON array is 400."""
    answer = post(app, "/packages/batch", body, 400)
    assert problem(answer)["title"] == "Bad Request"


@pytest.mark.parametrize(
    "body",
    [
        b'[%s, {"package_id": "a", "package_id": "b"}]',
        b'[%s, [[{"a": {"b": 1, "b": 1}}]]]',
        b"[%s, NaN]",
        b"[%s, {]",
    ],
)
def test_malformed_batch_is_rejected_whole(app: TestApp, body: bytes) -> None:
    """A duplicate key anywhere, like any other JSON error, is 400 for the whole body."""
    content = body.replace(
        b"%s",
        b'{"timestamp": "2142-03-01T12:00:00Z", "sender_id": "zap",'
        b' "recipient_id": "leela", "package_id": "pkg-1", "package_type": "personal"}',
    )
    post(app, "/packages/batch", content, 400)
    read(app, "pkg-1", status=404)
    assert totals(app) == (0, 0, 1)


def test_batch_sent_twice(app: TestApp) -> None:
    """Each result shows whether its package had been decided before."""
    batch = [package("a"), package(""), package("b")]
    first, again = send_batch(app, *batch).json, send_batch(app, *batch, package("c")).json
    assert [result.get("replayed") for result in first] == [False, None, False]
    assert [result.get("replayed") for result in again] == [True, None, True, False]
    assert "Idempotent-Replayed" not in send_batch(app, *batch).headers


def unknown_fields(count: int, length: int = 1) -> dict[str, object]:
    """A number of unknown fields with names of a given length."""
    return {f"{number:03}".rjust(length, "é"): 1 for number in range(count)}


def test_at_most_ten_errors_of_an_item(app: TestApp) -> None:
    """An item lists 10 of its errors, and counts the others."""
    (result,) = send_batch(app, package("a") | unknown_fields(60)).json
    assert result["problem"]["detail"] == "some fields are invalid; 50 more are not listed"
    assert len(result["problem"]["errors"]) == 10
    (result,) = send_batch(app, package("a") | unknown_fields(11)).json
    assert result["problem"]["detail"] == "some fields are invalid; 1 more is not listed"


@pytest.mark.parametrize(
    ("items", "fields", "length"),
    [(1000, 60, 3), (1000, 10, 3), (1000, 5, 40), (1, 100_000, 3), (300, 80, 20), (1000, 20, 20)],
)
def test_size_of_a_batch_response_is_limited(
    app: TestApp, items: int, fields: int, length: int
) -> None:
    """A response is at most 1 MiB or twice the size of the body, whatever is invalid."""
    item = {"package_id": "a"} | unknown_fields(fields, length)
    body = json.dumps([item] * items, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(body) < 1024 * 1024
    answer = post(app, "/packages/batch", body, 200)
    assert len(answer.body) <= max(2 * len(body), 1024 * 1024)
    assert len(answer.json) == items
    errors = 4 + fields
    for result in answer.json:
        problem = result["problem"]
        listed = len(problem.get("errors", []))
        assert listed <= 10
        omitted = f"; {errors - listed:,} more are not listed" if listed < errors else ""
        assert problem["detail"] == f"some fields are invalid{omitted}"
    assert len(answer.json[0]["problem"]["errors"]) == min(errors, 10)


def test_package_with_the_id_batch(app: TestApp) -> None:
    """``batch`` is a valid package id: it can be sent in a batch, and read."""
    send_batch(app, package("batch"))
    assert app.get("/packages/batch").json["package_id"] == "batch"
