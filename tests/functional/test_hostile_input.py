"""No input causes a 5xx, and invalid input changes nothing."""

import json
from urllib.parse import quote, quote_from_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from webtest import TestApp, TestResponse

from tests.backends import Backend
from tests.functional.client import ANY, PACKAGE, UPDATE

SURROGATES = st.text(st.characters(categories=["Cs"]), min_size=1, max_size=2)
TEXTS = st.text(max_size=8) | SURROGATES | st.sampled_from(list(PACKAGE) + list(UPDATE))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=True)
    | st.datetimes().map(lambda moment: moment.isoformat() + "Z")
    | TEXTS,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(TEXTS, values, max_size=3),
    max_leaves=10,
)


@st.composite
def nearly_valid(draw: st.DrawFn) -> object:
    """A body that is valid except for one field."""
    valid: dict[str, object] = dict(draw(st.sampled_from([PACKAGE, UPDATE])))
    name = draw(st.sampled_from(list(valid)) | TEXTS)
    if draw(st.booleans()):
        valid[name] = draw(VALUES)
    else:
        valid.pop(name, None)
    return draw(st.sampled_from([valid, [valid], [valid, PACKAGE, 5]]))


BODIES = st.one_of(
    st.binary(max_size=64),
    st.text(max_size=64).map(lambda text: text.encode("utf-8", "surrogatepass")),
    (VALUES | nearly_valid()).map(lambda value: json.dumps(value).encode()),
    nearly_valid().map(lambda value: json.dumps(value).encode("utf-16")),
    nearly_valid().flatmap(
        lambda value: st.integers(0, 200).map(lambda n: json.dumps(value).encode()[:n])
    ),
)

# Requests that never reach the database.
ON_SQLITE = pytest.mark.parametrize("app_backend", ["sqlite"], indirect=True)

ENDPOINTS = pytest.mark.parametrize(
    ("method", "path", "counts"),
    [
        ("POST", "/packages", True),
        ("POST", "/packages/batch", True),
        ("PUT", "/recipients/leela/preferences", False),
    ],
)


def assert_no_server_error(answer: TestResponse) -> None:
    """Assert that a response isn't a 5xx, and that a client error is a problem."""
    assert answer.status_int < 500
    if answer.status_int >= 400 and answer.request.method != "HEAD":
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json["status"] == answer.status_int


@ON_SQLITE
@ENDPOINTS
@settings(max_examples=150)
@example(body=b'{"sender_id": ' + b"[" * 5000)
@example(body=b"[" * 60_000)
@example(body=b"[" * 1_000_000)
@example(body=b"[" * 60_000 + b"]" * 5_000)
@example(body=b'{"a":' * 12_000 + b"1" + b"}" * 4_000)
@example(body=b"1" * 60_000)
@example(body=b'{"timestamp": 1' + b"0" * 4000 + b"}")
@example(body=b'{"timestamp": 1e999999999}')
@example(body=b'{"package_id": "' + b"\\ud800" * 1000 + b'"}')
@example(body=b"[" + b"{}," * 1000 + b"{}]")
@example(body=b'"' + b"\xf0\x9f\x9a" * 1000 + b'"')
@given(body=BODIES)
def test_any_body(
    app: TestApp, app_backend: Backend, method: str, path: str, counts: bool, body: bytes
) -> None:
    """A rejected body only changes the number of rejected requests."""
    before, counted = app_backend.contents(), app_backend.counted()
    answer = app.request(path, method=method, body=body, status=ANY)
    assert_no_server_error(answer)
    if answer.status_int >= 400:
        assert answer.status_int in (400, 409, 413, 422)
        assert app_backend.contents() == before
        if counts:
            rejected = ("rejected", "")
            counted[rejected] = counted.get(rejected, 0) + 1
        assert app_backend.counted() == counted


PATHS = st.one_of(
    st.binary(max_size=12).map(quote_from_bytes),
    st.text(max_size=12).map(quote),
    st.text(max_size=12).map(lambda text: "packages/" + quote(text, safe="")),
    st.binary(max_size=12).map(lambda data: "packages/" + quote_from_bytes(data)),
    st.binary(max_size=12).map(lambda data: f"recipients/{quote_from_bytes(data)}/preferences"),
    st.text(max_size=12).map(lambda text: f"recipients/{quote(text)}/preferences"),
    st.binary(max_size=12).map(lambda data: "health?type=" + quote_from_bytes(data)),
    st.binary(max_size=12).map(lambda data: "statistics?" + quote_from_bytes(data)),
)


@ON_SQLITE
@settings(max_examples=300)
@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]),
    path=PATHS,
    body=st.sampled_from([b"", b"{}", json.dumps(UPDATE).encode()]),
)
def test_any_path(app: TestApp, method: str, path: str, body: bytes) -> None:
    """No method and path cause a 5xx."""
    unchecked = TestApp(app.app, lint=False)
    answer = unchecked.request(f"/{path}", method=method, body=body, status=ANY)
    assert_no_server_error(answer)


HEADERS = st.sampled_from(
    [
        "Accept",
        "Content-Encoding",
        "Content-Type",
        "Cookie",
        "Expect",
        "Host",
        "If-None-Match",
        "Range",
        "X-Edge-Request",
        "X-Forwarded-For",
        "X-Request-ID",
        "X-Trace",
    ]
)
HEADER_VALUES = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)


@ON_SQLITE
@settings(max_examples=100)
@given(
    headers=st.dictionaries(HEADERS, HEADER_VALUES),
    path=st.sampled_from(["/", "/statistics", "/packages/a", "/docs", "/nowhere"]),
)
def test_any_headers(app: TestApp, headers: dict[str, str], path: str) -> None:
    """No headers cause a 5xx."""
    assert_no_server_error(app.get(path, headers=headers, status=ANY))
