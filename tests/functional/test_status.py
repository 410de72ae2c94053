"""``GET /dashboard/status``, the dashboard's own endpoint."""

from pathlib import Path

from webtest import TestApp

from galaxy_express import __version__
from tests.backends import Backend, SQLiteBackend
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


def size_on_disk(backend: Backend) -> int:
    """The size of the database, with the log of SQLite."""
    if isinstance(backend, SQLiteBackend):
        log = Path(f"{backend.path}-wal")
        return backend.path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    return int(backend.rows("SELECT pg_database_size(current_database())")[0][0])


def test_size_of_the_database(app: TestApp, app_backend: Backend) -> None:
    """The size is that on disk, including what was just written."""
    send(app)
    before = size_on_disk(app_backend)
    shown = app.get(PATH).json["database_bytes"]
    after = size_on_disk(app_backend)
    # A checkpoint in the background may change the size meanwhile.
    assert min(before, after) <= shown <= max(before, after)


def test_endpoint_is_not_part_of_the_api(app: TestApp) -> None:
    """Neither the API description nor the list of endpoints has it."""
    assert PATH not in app.get("/openapi.json").json["paths"]
    assert f"GET {PATH}" not in app.get("/").json["endpoints"]


def test_other_methods(app: TestApp) -> None:
    """Only GET and HEAD are supported."""
    assert app.post(PATH, status=405).headers["Allow"] == "GET, HEAD"
    assert app.head(PATH).body == b""
