"""``GET /packages``: decisions in pages, and as a feed."""

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from webtest import TestApp

from galaxy_express.web.paging import feed_cursor
from tests.backends import Backend
from tests.functional.client import DECISION, PACKAGE, UPDATE, problem, send, send_batch, update


def page(app: TestApp, path: str = "/packages", **parameters: object) -> dict[str, Any]:
    """A page of a list."""
    body: dict[str, Any] = app.get(f"{path}?{urlencode(parameters)}").json
    return body


def ids(body: dict[str, Any]) -> str:
    """The ids of the packages on a page, which are one letter each."""
    return "".join(decision["package_id"] for decision in body["packages"])


def send_all(app: TestApp, package_ids: str, **changes: object) -> None:
    """Send packages in one batch; each letter is an id."""
    send_batch(app, *(PACKAGE | {"package_id": package_id} | changes for package_id in package_ids))


def pages(app: TestApp, path: str = "/packages", **parameters: object) -> list[dict[str, Any]]:
    """Follow the cursors through a list, in descending order."""
    found = [page(app, path, **parameters)]
    while found[-1]["next"]:
        found.append(page(app, path, after=found[-1]["next"], **parameters))
    return found


def test_empty_list(app: TestApp) -> None:
    """Before the first decision the list is empty."""
    answer = app.get("/packages")
    assert answer.json == {"packages": [], "next": None}
    assert answer.headers["Cache-Control"] == "no-store"


def test_listed_decisions_equal_those_returned(app: TestApp) -> None:
    """A listed decision equals the response to the send, and to reading it."""
    update(app, UPDATE)
    sent = [send(app).json, send(app, package_id="pkg-2", package_type="marketing").json]
    assert page(app)["packages"] == sent[::-1]
    assert page(app, order="asc")["packages"] == sent
    assert app.get("/packages/pkg-2").json == sent[1]
    assert sent[0] == DECISION


def test_newest_is_first(app: TestApp) -> None:
    """By default the newest decision is first; packages of a batch keep their order."""
    for batch in ("ba", "d", "c"):
        send_all(app, batch)
    assert ids(page(app)) == "cdab"
    assert ids(page(app, order="desc")) == "cdab"
    assert ids(page(app, order="asc")) == "badc"


def test_retry_keeps_its_place(app: TestApp) -> None:
    """A package that is sent again is listed once, at the place of its first decision."""
    send_all(app, "abc")
    send_all(app, "cad")
    assert ids(page(app, order="asc")) == "abcd"


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
def test_pages_in_descending_order(app: TestApp, limit: int) -> None:
    """The pages have every decision once; the last one has no cursor, even if it is full."""
    send_all(app, "abcd")
    found = pages(app, limit=limit)
    assert "".join(map(ids, found)) == "dcba"
    assert [len(body["packages"]) for body in found[:-1]] == [limit] * (len(found) - 1)
    assert len(found) == -(-4 // limit)


def test_decisions_made_between_pages(app: TestApp) -> None:
    """Decisions made while descending pages are read don't change the following pages."""
    send_all(app, "abcd")
    first = page(app, limit=2)
    send_all(app, "xyz")
    assert ids(first) + ids(page(app, limit=2, after=first["next"])) == "dcba"


def test_feed(app: TestApp) -> None:
    """Following ascending pages shows every decision once, including later ones."""
    cursor = page(app, order="asc")["next"]
    seen = ""
    for batch in ("abc", "", "de", ""):
        send_all(app, batch)
        following = True
        while following:
            body = page(app, order="asc", limit=2, after=cursor)
            seen += ids(body)
            cursor = body["next"]
            following = bool(body["packages"])
    assert seen == "abcde"


def test_cursor_can_be_used_again(app: TestApp) -> None:
    """The same cursor gives the same page, and needs no percent-encoding."""
    send_all(app, "abc")
    cursor = page(app, order="asc", limit=1)["next"]
    assert quote(cursor, safe="") == cursor
    for _ in range(2):
        assert ids(page(app, order="asc", limit=1, after=cursor)) == "b"


def test_packages_of_a_recipient(app: TestApp) -> None:
    """The list can be limited to one recipient, whose id is compared exactly."""
    send_all(app, "ac")
    send_all(app, "bd", recipient_id="a/b ü&")
    assert ids(page(app, recipient_id="a/b ü&")) == "db"
    assert "".join(map(ids, pages(app, recipient_id="a/b ü&", limit=1))) == "db"
    first = page(app, recipient_id="leela", order="asc", limit=1)
    assert ids(first) == "a"
    following = page(app, recipient_id="leela", order="asc", limit=1, after=first["next"])
    assert ids(following) == "c"
    assert ids(page(app, recipient_id="nobody")) == ""


def test_default_limit(app: TestApp) -> None:
    """A page has 100 decisions by default, and up to 1,000 on request."""
    send_batch(app, *(PACKAGE | {"package_id": f"pkg-{number}"} for number in range(1000)))
    send_batch(app, PACKAGE | {"package_id": "pkg-1000"})
    assert len(page(app)["packages"]) == 100
    assert len(page(app, limit=1000)["packages"]) == 1000


@pytest.mark.parametrize(
    ("query", "wrong"),
    [
        ("limit=0", {"limit"}),
        ("limit=1001", {"limit"}),
        ("limit=-1", {"limit"}),
        ("limit=1.5", {"limit"}),
        ("limit=ten", {"limit"}),
        ("limit=%D9%A1", {"limit"}),
        ("limit=+5", {"limit"}),
        ("limit=", {"limit"}),
        ("limit", {"limit"}),
        ("limit=5&limit=5", {"limit"}),
        ("order=DESC", {"order"}),
        ("order=", {"order"}),
        ("order=asc&order=desc", {"order"}),
        ("recipient_id=", {"recipient_id"}),
        ("recipient_id=%20", {"recipient_id"}),
        ("recipient_id=..", {"recipient_id"}),
        ("recipient_id=%FF", {"recipient_id"}),
        ("recipient_id=" + "x" * 256, {"recipient_id"}),
        ("recipient_id=a&recipient_id=b", {"recipient_id"}),
        ("after=", {"after"}),
        ("after=0", {"after"}),
        ("after=" + "A" * 22, {"after"}),
        ("after=" + "x" * 3000, {"after"}),
        ("after=%00", {"after"}),
        ("page=2", {"page"}),
        ("Limit=5", {"Limit"}),
        ("%FF=1", {"?"}),
        (
            "limit=0&order=up&colour=red&after=x&recipient_id=%20&limit=0",
            {"limit", "order", "colour", "after", "recipient_id"},
        ),
    ],
)
def test_invalid_parameters(app: TestApp, query: str, wrong: set[str]) -> None:
    """Each parameter that is unknown, repeated, empty or out of range is reported once, and the
    request isn't counted."""
    answer = app.get(f"/packages?{query}", status=422)
    body = problem(answer)
    assert body["code"] == "invalid"
    assert {error["parameter"] for error in body["errors"]} == wrong
    assert len(body["errors"]) == len(wrong)
    assert all(set(error) == {"parameter", "detail"} for error in body["errors"])
    assert app.get("/statistics").json["requests_rejected"] == 0


def test_many_unknown_parameters(app: TestApp) -> None:
    """At most 100 invalid parameters are listed, and the others are counted."""
    query = "&".join(f"p{number}=" for number in range(150))
    body = problem(app.get(f"/packages?{query}", status=422))
    assert len(body["errors"]) == 100
    assert "50 more" in body["detail"]


def test_cursors_of_other_lists(app: TestApp) -> None:
    """A cursor is only valid for the list, the order and the recipient that it was made for."""
    send_all(app, "abc")
    update(app, UPDATE)
    lists = [
        ("/packages", {"order": "asc"}),
        ("/packages", {"order": "desc"}),
        ("/packages", {"order": "asc", "recipient_id": "leela"}),
        ("/packages", {"order": "desc", "recipient_id": "leela"}),
        ("/packages", {"order": "asc", "recipient_id": "fry"}),
        ("/recipients/leela/preferences/history", {"order": "asc"}),
        ("/recipients/fry/preferences/history", {"order": "asc"}),
    ]
    for path, parameters in lists:
        cursor = page(app, path, limit=1, **parameters)["next"]
        for other_path, others in lists:
            is_same = (path, parameters) == (other_path, others)
            query = urlencode(others | {"after": cursor})
            app.get(f"{other_path}?{query}", status=200 if is_same else 422)


@pytest.mark.parametrize("position", range(22))
def test_changed_cursor(app: TestApp, position: int) -> None:
    """A cursor with one changed character is invalid, even if only unused bits changed."""
    cursor = page(app, order="asc")["next"]
    assert len(cursor) == 22
    for other in {*"-0ABCDghw", chr(ord(cursor[position]) + 1)} - {cursor[position]}:
        changed = cursor[:position] + other + cursor[position + 1 :]
        app.get(f"/packages?{urlencode({'order': 'asc', 'after': changed})}", status=422)


@pytest.mark.parametrize(
    ("recipient_id", "cursor"),
    [
        ("leela", "AAAAAAAAAAC53jE3bJZ6bQ"),
        ("zoë", "AAAAAAAAAAAV2S3vKkw8hA"),
        ("\U0001fae8", "AAAAAAAAAACSBXFRgOcpqg"),  # unknown before Python 3.12
    ],
)
def test_cursors_of_all_versions_are_equal(app: TestApp, recipient_id: str, cursor: str) -> None:
    """A cursor remains valid after an upgrade of the service or of Python."""
    assert page(app, order="asc", recipient_id=recipient_id)["next"] == cursor


def test_cursor_beyond_all_sequence_numbers(app: TestApp) -> None:
    """A well-formed cursor is only valid if a database can have its sequence number."""
    for position, status in ((2**63 - 1, 200), (2**63, 422), (2**64 - 1, 422)):
        query = urlencode({"order": "asc", "after": feed_cursor(position)})
        app.get(f"/packages?{query}", status=status)


def test_decisions_of_earlier_versions(app: TestApp, app_backend: Backend) -> None:
    """Decisions made before times were recorded have null instead."""
    app_backend.rows(
        "INSERT INTO packages"
        " (package_id, sender_id, recipient_id, package_type, timestamp, status)"
        " VALUES ('old', 'zap', 'leela', 'personal', 0, 'dropped')"
    )
    (old,) = page(app)["packages"]
    assert (old["decided_at"], old["declined_at"]) == (None, None)
    send_all(app, "a")
    assert [decision["package_id"] for decision in page(app, order="asc")["packages"]] == [
        "old",
        "a",
    ]


def test_dropped_package_keeps_its_reason(app: TestApp) -> None:
    """A dropped package keeps the timestamp of the preference that applied when it was decided."""
    update(app, UPDATE | {"timestamp": "2142-02-01T08:00:00Z"})
    first = send(app, package_type="marketing").json
    assert first["declined_at"] == "2142-02-01T08:00:00Z"
    update(app, UPDATE | {"timestamp": "2142-02-02T08:00:00Z"})
    assert send(app, 200, package_type="marketing").json == first
    second = send(app, package_id="pkg-2", package_type="marketing").json
    assert second["declined_at"] == "2142-02-02T08:00:00Z"


def test_times_are_ascending(app: TestApp) -> None:
    """The times of decisions in the feed are ascending."""
    for number in range(20):
        send(app, package_id=f"pkg-{number}")
    times = [decision["decided_at"] for decision in page(app, order="asc")["packages"]]
    assert times == sorted(times)
