"""``GET /statistics``."""

import pytest
from webtest import TestApp

from tests.backends import Backend
from tests.functional.client import (
    PACKAGE,
    UPDATE,
    post,
    read,
    send,
    send_batch,
    send_in_chunks,
    totals,
    update,
)


def test_every_type_has_a_row_from_the_start(app: TestApp) -> None:
    """Every type has a row before anything was sent."""
    answer = app.get("/statistics")
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json == {
        "packages_delivered": 0,
        "packages_dropped": 0,
        "requests_rejected": 0,
        "by_type": {
            "marketing": {"delivered": 0, "dropped": 0},
            "personal": {"delivered": 0, "dropped": 0},
        },
    }


def test_packages_are_counted_by_outcome_and_type(app: TestApp) -> None:
    """Each package is counted once, by type and outcome."""
    update(app, UPDATE)  # Leela declines marketing
    for number in range(5):
        send(app, package_id=f"a{number}")
    for number in range(3):
        send(app, package_id=f"b{number}", package_type="marketing")
    send(app, package_id="c", recipient_id="fry", package_type="marketing")
    assert app.get("/statistics").json == {
        "packages_delivered": 6,
        "packages_dropped": 3,
        "requests_rejected": 0,
        "by_type": {
            "marketing": {"delivered": 1, "dropped": 3},
            "personal": {"delivered": 5, "dropped": 0},
        },
    }


def test_retries_are_not_counted(app: TestApp) -> None:
    """Delivered plus dropped is the number of distinct packages."""
    send(app)
    for _ in range(3):
        send(app, status=200)
    send_batch(app, PACKAGE, PACKAGE)
    assert totals(app) == (1, 0, 0)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{"),
        (400, b"[]"),
        (400, b'{"a": 1, "a": 1}'),
        (413, b" " * 65_537),
        (422, {}),
        (422, PACKAGE | {"package_type": "freight"}),
        (422, PACKAGE | {"colour": "red"}),
    ],
)
def test_rejected_send_is_counted(app: TestApp, status: int, body: object) -> None:
    """Each invalid send counts as a rejected request."""
    post(app, "/packages", body, status)
    assert totals(app) == (0, 0, 1)
    post(app, "/packages", body, status)
    assert totals(app) == (0, 0, 2)


def test_conflict_is_counted(app: TestApp) -> None:
    """Each conflict counts as a rejected request, and changes no other figure."""
    send(app)
    send(app, status=409, sender_id="nixon")
    send(app, status=409, sender_id="nixon")
    assert totals(app) == (1, 0, 2)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (400, b""),
        (400, b"{}"),
        (400, b"[{}"),
        (400, b'[1, {"a": 1, "a": 1}]'),
        (413, b" " * (1024 * 1024 + 1)),
        (422, [1] * 1001),
    ],
)
def test_batch_rejected_whole_counts_once(app: TestApp, status: int, body: object) -> None:
    """A batch that is rejected as a whole counts as one rejected request."""
    post(app, "/packages/batch", body, status)
    assert totals(app) == (0, 0, 1)


def test_each_rejected_item_of_a_batch_counts(app: TestApp) -> None:
    """Each rejected item of a batch counts, including conflicts."""
    send(app)
    send_batch(
        app,
        PACKAGE,
        PACKAGE | {"package_id": "pkg-2"},
        PACKAGE | {"sender_id": "nixon"},
        5,
        None,
        {},
        PACKAGE | {"package_id": ""},
    )
    assert totals(app) == (2, 0, 5)


def test_chunked_send_over_the_limit_is_counted(app: TestApp) -> None:
    """A body over the limit that is sent in chunks counts as rejected."""
    assert send_in_chunks(app, "POST", "/packages", b" " * 65_537).status_int == 413
    assert totals(app) == (0, 0, 1)


def test_requests_that_are_not_counted(app: TestApp) -> None:
    """Reads, updates, unknown paths and unsupported methods change no figure."""
    for path in ("/packages", "/packages/batch"):
        app.post(path, "{", headers={"Sec-Fetch-Site": "cross-site"}, status=403)
    app.get("/nowhere", status=404)
    app.post("/nowhere", status=404)
    read(app, "pkg-1", status=404)
    app.put("/packages", "{}", status=405)
    app.put("/packages/batch", "{}", status=405)
    app.post("/packages/pkg-1", "{}", status=405)
    app.post("/statistics", status=405)
    app.get("/recipients/%20/preferences", status=422)
    update(app, b"{", status=400)
    update(app, {}, status=422)
    update(app, b" " * 65_537, status=413)
    update(app, UPDATE)
    send_batch(app)
    app.get("/health")
    app.get("/statistics")
    assert totals(app) == (0, 0, 0)


def test_statistics_equal_the_rows(app: TestApp, app_backend: Backend) -> None:
    """The totals equal the stored rows."""
    update(app, UPDATE)
    send_batch(
        app,
        *(PACKAGE | {"package_id": str(n)} for n in range(7)),
        *(PACKAGE | {"package_id": f"m{n}", "package_type": "marketing"} for n in range(3)),
    )
    assert app_backend.stored() == {("delivered", "personal"): 7, ("dropped", "marketing"): 3}
    assert totals(app) == (7, 3, 0)
