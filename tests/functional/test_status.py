"""``GET /dashboard/status``, the dashboard's own endpoint."""

from typing import Any

from webtest import TestApp

from galaxy_express import __version__
from tests.backends import Backend
from tests.functional.client import PACKAGE, send, send_batch

PATH = "/dashboard/status"


def feed(app: TestApp, after: str) -> list[str]:
    """The ids of the packages that the feed has after a cursor."""
    body = app.get(f"/packages?order=asc&after={after}").json
    return [decision["package_id"] for decision in body["packages"]]


def test_status(app: TestApp) -> None:
    """The response has the version, the queue, the size and a cursor, and isn't cached."""
    answer = app.get(PATH)
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Cache-Control"] == "no-store"
    assert set(answer.json) == {"version", "queued_packages", "database_bytes", "feed"}
    assert answer.json["version"] == __version__
    assert answer.json["queued_packages"] == 0


def test_cursor_of_an_empty_feed(app: TestApp) -> None:
    """Before the first decision, the cursor is that of the whole feed."""
    cursor = app.get(PATH).json["feed"]
    send(app)
    assert feed(app, cursor) == ["pkg-1"]


def test_cursor_of_now(app: TestApp) -> None:
    """The feed continues after the cursor with what is decided later, and nothing else."""
    send_batch(app, *(PACKAGE | {"package_id": package_id} for package_id in "ab"))
    cursor = app.get(PATH).json["feed"]
    assert feed(app, cursor) == []
    send_batch(app, *(PACKAGE | {"package_id": package_id} for package_id in "cd"))
    assert feed(app, cursor) == ["c", "d"]


def test_size_includes_what_was_just_written(app: TestApp, app_backend: Backend) -> None:
    """The size grows with the packages, at once: it includes the log of SQLite."""
    before = app.get(PATH).json["database_bytes"]
    rows: list[Any] = [
        PACKAGE | {"package_id": f"{number}{'x' * 200}", "recipient_id": "y" * 255}
        for number in range(1000)
    ]
    send_batch(app, *rows)
    after = app.get(PATH).json["database_bytes"]
    # SQLite writes a log from its beginning again, once all of it is in the file.
    assert after - before > 200_000 or after > before > 80 * 2**20


def test_endpoint_is_not_part_of_the_api(app: TestApp) -> None:
    """Neither the API description nor the list of endpoints has it."""
    assert PATH not in app.get("/openapi.json").json["paths"]
    assert f"GET {PATH}" not in app.get("/").json["endpoints"]


def test_other_methods(app: TestApp) -> None:
    """Only GET and HEAD are supported."""
    assert app.post(PATH, status=405).headers["Allow"] == "GET, HEAD"
    assert app.head(PATH).body == b""
