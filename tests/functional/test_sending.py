"""``POST /packages`` and ``GET /packages/{package_id}``."""

import pytest
from webtest import TestApp

from galaxy_express.models import create_schema
from tests.backends import Backend
from tests.conftest import MakeApp
from tests.functional.client import DECISION, PACKAGE, post, problem, read, send, totals, update

# Ids that have to be percent-encoded in a path, and the Location of a package with that id.
ODD_IDS = pytest.mark.parametrize(
    ("package_id", "location"),
    [
        ("a/b", "/packages/a%2Fb"),
        ("/", "/packages/%2F"),
        ("100%", "/packages/100%25"),
        ("%2F", "/packages/%252F"),
        ("two words", "/packages/two%20words"),
        ("a+b", "/packages/a%2Bb"),
        ("a?b#c;d=e&f", "/packages/a%3Fb%23c%3Bd%3De%26f"),
        ("\U0001f680", "/packages/%F0%9F%9A%80"),
        ("\u00e9", "/packages/%C3%A9"),
        ("e\u0301", "/packages/e%CC%81"),
        ("batch", "/packages/batch"),
        ("...", "/packages/..."),
        (".a", "/packages/.a"),
        ("a\u2028b", "/packages/a%E2%80%A8b"),
        ("../statistics", "/packages/..%2Fstatistics"),
        ("x" * 255, "/packages/" + "x" * 255),
        ("\U0001f680" * 255, "/packages/" + "%F0%9F%9A%80" * 255),
    ],
)


def test_package_is_decided(app: TestApp) -> None:
    """The first send is 201 with the decision and its Location."""
    answer = send(app)
    assert answer.status == "201 Created"
    assert answer.headers["Location"] == "/packages/pkg-1"
    assert answer.headers["Content-Type"] == "application/json"
    assert "Idempotent-Replayed" not in answer.headers
    assert answer.json == DECISION
    assert list(answer.json) == list(DECISION)


def test_retry_is_replayed(app: TestApp) -> None:
    """A retry is 200 with the same body as the first send, and ``Idempotent-Replayed: true``."""
    first = send(app)
    again = send(app, status=200)
    assert again.body == first.body
    assert again.headers["Idempotent-Replayed"] == "true"
    assert "Location" not in again.headers


def test_package_of_a_declined_type_is_dropped(app: TestApp) -> None:
    """A drop is an outcome, not an error: 201, with the reason."""
    update(
        app,
        {
            "timestamp": "2142-03-01T12:00:00Z",
            "personal_preference": True,
            "marketing_preference": False,
        },
    )
    dropped = send(app, package_type="marketing")
    assert dropped.json == DECISION | {
        "package_type": "marketing",
        "status": "dropped",
        "reason": "recipient_declined",
        "declined_at": "2142-03-01T12:00:00Z",
    }
    assert send(app, package_id="pkg-2").json["status"] == "delivered"


@pytest.mark.parametrize("wanted", [True, False])
def test_decision_is_final(app: TestApp, wanted: bool) -> None:
    """A retry returns the first decision, even if preferences have changed since."""
    preferences = {"personal_preference": wanted, "marketing_preference": True}
    update(app, preferences | {"timestamp": "2142-03-01T12:00:00Z"})
    first = send(app)
    preferences["personal_preference"] = not wanted
    update(app, preferences | {"timestamp": "2142-03-01T12:00:01Z"})
    assert send(app, status=200).body == first.body
    assert read(app, "pkg-1").body == first.body
    assert send(app, package_id="pkg-2").json["status"] != first.json["status"]


def test_preferences_are_judged_when_the_package_is_decided(app: TestApp) -> None:
    """A package with a timestamp before an opt-out is dropped if it is sent after it."""
    update(
        app,
        {
            "timestamp": "2142-03-02T00:00:00Z",
            "personal_preference": False,
            "marketing_preference": True,
        },
    )
    assert send(app, timestamp="2142-03-01T00:00:00Z").json["status"] == "dropped"


def test_retry_may_have_another_timestamp(app: TestApp) -> None:
    """A retry may have a different timestamp; the first one is kept."""
    first = send(app)
    again = send(app, status=200, timestamp="2142-03-01T12:00:30Z")
    assert again.body == first.body


@pytest.mark.parametrize(
    "change", [{"sender_id": "nixon"}, {"recipient_id": "fry"}, {"package_type": "marketing"}]
)
def test_id_used_for_another_package(app: TestApp, change: dict[str, str]) -> None:
    """An id that was used for another sender, recipient or type is a conflict."""
    send(app)
    answer = send(app, status=409, **change)
    assert problem(answer) == {
        "type": "about:blank",
        "title": "Conflict",
        "status": 409,
        "code": "package_conflict",
        "detail": "this package_id was used before, for another sender, recipient or package type",
    }
    assert read(app, "pkg-1").json == DECISION


def test_decision_is_read_back(app: TestApp) -> None:
    """Reading a package returns its original decision."""
    sent = send(app)
    answer = read(app, "pkg-1")
    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.body == sent.body


@ODD_IDS
def test_any_id_is_read_back(app: TestApp, package_id: str, location: str) -> None:
    """The Location is relative and percent-encoded, and leads to the package."""
    sent = send(app, package_id=package_id)
    assert sent.headers["Location"] == location
    assert sent.json["package_id"] == package_id
    assert app.get(location).body == sent.body


def test_location_does_not_depend_on_the_host(app: TestApp) -> None:
    """The Host header doesn't affect Location, so it can't redirect clients to another site."""
    answer = app.post_json("/packages", PACKAGE, headers={"Host": "omicron.example"})
    assert answer.headers["Location"] == "/packages/pkg-1"


def test_location_behind_a_proxy(backend: Backend, make_app: MakeApp) -> None:
    """If a proxy strips a path prefix, Location has it, and the paths of the service don't."""
    create_schema(backend.config)
    app = make_app({"http.path_prefix": "/planet/express"})
    assert send(app, package_id="a/b").headers["Location"] == "/planet/express/packages/a%2Fb"
    read(app, "a/b")


def test_slash_in_a_path_need_not_be_encoded(app: TestApp) -> None:
    """The package is found even if a proxy has decoded the slash."""
    send(app, package_id="a/b")
    assert app.get("/packages/a/b").json["package_id"] == "a/b"


@pytest.mark.parametrize("package_id", ["PKG-1", "pkg-1 x", "pkg", "pkg-1/", "batch"])
def test_unknown_package(app: TestApp, package_id: str) -> None:
    """An id that was never sent is 404."""
    send(app)
    assert problem(read(app, package_id, status=404)) == {
        "type": "about:blank",
        "title": "Not Found",
        "status": 404,
        "code": "package_not_found",
        "detail": "there is no package with this id",
    }


@pytest.mark.parametrize(
    "path",
    [
        "/packages/pkg-1%0A",
        "/packages/%0Apkg-1",
        "/packages/%20pkg-1",
        "/packages/pkg-1%20",
        "/packages/pkg-1%00",
        "/packages/%C2%A0",
        "/packages/" + "x" * 256,
        "/packages/%FF",
        "/packages/%ED%A0%80",
        "/packages/a%C0%AFb",
        "/packages/.",
        "/packages/..",
        "/packages/%2E",
        "/packages/%2e.",
    ],
)
def test_invalid_id(app: TestApp, path: str) -> None:
    """An invalid id is 404."""
    send(app)
    assert problem(app.get(path, status=404))["code"] == "package_not_found"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        ("2142-03-01T13:30:00+01:30", "2142-03-01T12:00:00Z"),
        ("2142-03-01t12:00:00.25z", "2142-03-01T12:00:00.250000Z"),
        ("2142-03-01T12:00:00.123456789Z", "2142-03-01T12:00:00.123456Z"),
        ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
    ],
)
def test_timestamps_are_returned_in_utc(app: TestApp, sent: str, answered: str) -> None:
    """The response to a send, and to reading it back, has the timestamp in UTC with Z."""
    assert send(app, timestamp=sent).json["timestamp"] == answered
    assert read(app, "pkg-1").json["timestamp"] == answered


@pytest.mark.parametrize(
    "content_type", ["application/x-www-form-urlencoded", "text/plain; charset=latin-1", ""]
)
def test_content_type_is_ignored(app: TestApp, content_type: str) -> None:
    """The body is read as JSON in UTF-8, whatever its Content-Type."""
    app.post_json(
        "/packages",
        PACKAGE | {"sender_id": "\U0001f680"},
        headers={"Content-Type": content_type},
        status=201,
    )
    assert read(app, "pkg-1").json["sender_id"] == "\U0001f680"


def test_invalid_package(app: TestApp) -> None:
    """All errors are reported together, each with a pointer to its field."""
    answer = send(app, status=422, package_id="", package_type="freight", colour="red")
    assert problem(answer) == {
        "type": "about:blank",
        "title": "Unprocessable Content",
        "status": 422,
        "code": "invalid",
        "detail": "some fields are invalid",
        "errors": [
            {"pointer": "#/package_id", "detail": "must have 1 to 255 characters"},
            {"pointer": "#/package_type", "detail": "must be one of 'personal' or 'marketing'"},
            {"pointer": "#/colour", "detail": "is not a known field"},
        ],
    }


@pytest.mark.parametrize("status", [400, 422])
def test_rejected_package_can_be_sent_again(app: TestApp, status: int) -> None:
    """A rejected package doesn't use up its id: once corrected, it is delivered."""
    if status == 400:
        post(app, "/packages", b'{"package_id": "pkg-1"', 400)
    else:
        send(app, status=422, sender_id=None)
    read(app, "pkg-1", status=404)
    assert send(app).json == DECISION


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        (b"", "the body is empty"),
        (b"zap", "the body is not JSON: Expecting value (line 1, column 1)"),
        (b"[]", "the body must be a JSON object"),
        (b"\xff", "the body is not UTF-8"),
        (b'{"a": 1, "a": 2}', "the body has an object with a duplicate key"),
        (b'{"a": NaN}', "the body has NaN, which is not JSON"),
    ],
)
def test_malformed_package(app: TestApp, body: bytes, detail: str) -> None:
    """A body that isn't an unambiguous JSON object is 400, and the detail says why."""
    assert problem(post(app, "/packages", body, 400)) == {
        "type": "about:blank",
        "title": "Bad Request",
        "status": 400,
        "code": "malformed",
        "detail": detail,
    }
    assert totals(app) == (0, 0, 1)
