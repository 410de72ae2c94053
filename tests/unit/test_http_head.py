"""Parsing of request heads, and what is rejected."""

import random
from http import HTTPStatus
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from galaxy_express.serving.http_head import MAX_HEAD, Head, Limits, Unreadable, parse_head

LIMITS = Limits(line=100, fields=5, field_size=50)


def head(line: str, *fields: str, host: str = "Host: x") -> bytes:
    """The bytes of a head."""
    return "\r\n".join((line, *([host] if host else []), *fields, "", "")).encode("latin-1")


def rejection(data: bytes) -> tuple[int, str]:
    """Return why a head is rejected, and with what status."""
    with pytest.raises(Unreadable) as error:
        parse_head(data)
    return error.value.status, str(error.value)


def get(*fields: str) -> Head:
    """Parse a head with fields."""
    return parse_head(head("GET / HTTP/1.1", *fields))


def test_heads_are_independent() -> None:
    """What is changed in the environ of one request isn't seen by the next with the same fields."""
    first, expected = get("Accept: a"), get("Accept: a").environ.copy()
    first.environ["HTTP_ACCEPT"] = "changed"
    parse_head(head("GET http://other/ HTTP/1.1", "Accept: a"))

    assert get("Accept: a").environ == expected


def test_same_fields_of_another_version() -> None:
    """The meaning of fields depends on the version, even after the same fields with another one."""
    newer, older = (parse_head(head(f"GET / HTTP/1.{minor}")) for minor in (1, 0))
    connect = parse_head(head("CONNECT x:1 HTTP/1.1"))

    assert [each.keeps_alive for each in (newer, older, connect)] == [True, False, False]
    with pytest.raises(Unreadable, match="Host is missing"):
        parse_head(head("GET / HTTP/1.1", host=""))
    assert parse_head(head("GET / HTTP/1.0", host="")).environ["PATH_INFO"] == "/"
    with pytest.raises(Unreadable, match="Host is missing"):
        parse_head(head("GET / HTTP/1.1", host=""))


@pytest.mark.parametrize(
    ("target", "path", "query", "host"),
    [
        ("/a/b?c=d?e", "/a/b", "c=d?e", "x"),
        ("/caf%C3%A9%2F%zz", "/caf\xc3\xa9/%zz", "", "x"),
        ("//elsewhere/a", "//elsewhere/a", "", "x"),
        ("http://elsewhere:80/a?b", "/a", "b", "elsewhere:80"),
        ("HTTP://[::1]", "/", "", "[::1]"),
        ("http://elsewhere?b", "/", "b", "elsewhere"),
    ],
)
def test_targets(target: str, path: str, query: str, host: str) -> None:
    """A target is a path with a query, or a URL, whose host then replaces the ``Host`` field."""
    environ = parse_head(head(f"GET {target} HTTP/1.1")).environ
    assert environ["PATH_INFO"] == path
    assert environ["QUERY_STRING"] == query
    assert environ["HTTP_HOST"] == host


@pytest.mark.parametrize("line", ["OPTIONS * HTTP/1.1", "CONNECT elsewhere:443 HTTP/1.1"])
def test_targets_without_a_path(line: str) -> None:
    """The target of CONNECT, and ``*``, have no path."""
    assert parse_head(head(line)).environ["PATH_INFO"] == ""


@pytest.mark.parametrize(
    "line",
    [
        *("", "GET", "GET /", "GET / HTTP/1.1 ", "GET  / HTTP/1.1", " GET / HTTP/1.1"),
        *("GET /a b HTTP/1.1", "GET /\xff HTTP/1.1", "GET /\0 HTTP/1.1", "GET /#a HTTP/1.1"),
        *("GET / HTTP/2.0", "GET / HTTP/0.9", "GET / HTTP/1.10", "GET / http/1.1"),
        *("get / HTTP/1.1", "G(T / HTTP/1.1", "GET a HTTP/1.1", "GET * HTTP/1.1"),
        *("GET ftp://a/ HTTP/1.1", "GET http:///a HTTP/1.1", "GET http://u@a/ HTTP/1.1"),
        *("CONNECT /a HTTP/1.1", "CONNECT * HTTP/1.1", "GET a:443 HTTP/1.1"),
    ],
)
def test_malformed_request_lines(line: str) -> None:
    """Anything else in a request line is 400."""
    assert rejection(head(line))[0] == 400


@pytest.mark.parametrize(
    "host", ["a", "a.b:80", "127.0.0.1", "[::1]:9090", "a%20b", "a:", "xn--a_b"]
)
def test_hosts(host: str) -> None:
    """A host is a name or an address, perhaps with a port."""
    assert parse_head(head("GET / HTTP/1.1", host=f"Host: {host}"))


@pytest.mark.parametrize(
    "host", ["", "a b", "a/b", "u@a", "a:b", "a:123456", "[::1", "[a]", "\xff", "a%2"]
)
def test_invalid_hosts(host: str) -> None:
    """Anything else in ``Host`` is 400, also in HTTP/1.0."""
    for version in ("1.0", "1.1"):
        status, reason = rejection(head(f"GET / HTTP/{version}", host=f"Host: {host}"))
        assert (status, reason) == (400, "Host is malformed")


def test_number_of_hosts() -> None:
    """A missing ``Host`` is 400 except in HTTP/1.0; a repeated one is always 400."""
    assert rejection(head("GET / HTTP/1.1", host="")) == (400, "Host is missing")
    assert "HTTP_HOST" not in parse_head(head("GET / HTTP/1.0", host="")).environ
    for version in ("1.0", "1.1"):
        repeated = head(f"GET / HTTP/{version}", "host: x")
        assert rejection(repeated) == (400, "Host is repeated")


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ([], 0),
        (["Content-Length: 12"], 12),
        (["content-length: \t0012 \t"], 12),
        (["Transfer-Encoding: chunked"], None),
        (["transfer-encoding: CHUNKED"], None),
    ],
)
def test_lengths(fields: list[str], length: int | None) -> None:
    """The body has a length or chunks, or there is none."""
    assert get(*fields).length == length


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (["Content-Length: 1", "Content-Length: 1"], 400),
        (["Content-Length: 1", "Content-Length: 2"], 400),
        (["Content-Length: 1, 1"], 400),
        (["Content-Length: +1"], 400),
        (["Content-Length: 1_0"], 400),
        (["Content-Length: \xb2"], 400),
        (["Content-Length:"], 400),
        (["Content-Length: " + "1" * 16], 400),
        (["Content-Length: " + "1" * 30], 400),
        (["Content-Length: 1", "Transfer-Encoding: chunked"], 400),
        (["Transfer-Encoding: chunked", "Content-Length: 1"], 400),
        (["Transfer-Encoding: gzip", "Content-Length: 1"], 400),
        (["Transfer-Encoding:"], 400),
        (["Transfer-Encoding: chunked, chunked"], 400),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], 400),
        (["Transfer-Encoding: chun\tked"], 400),
        (["Transfer-Encoding: ,chunked"], 400),
        (["Transfer-Encoding: \x0bchunked"], 400),
        (["Transfer-Encoding : chunked"], 400),
        (["Transfer-Encoding: gzip"], 501),
        (["Transfer-Encoding: identity"], 501),
        (["Transfer-Encoding: xchunked"], 501),
        (["Transfer-Encoding: gzip, chunked"], 501),
        (["Transfer-Encoding: gzip;q=1", "Transfer-Encoding: chunked"], 501),
    ],
)
def test_ambiguous_lengths(fields: list[str], status: int) -> None:
    """An ambiguous length is rejected; an unknown transfer coding is 501."""
    assert rejection(head("POST / HTTP/1.1", *fields))[0] == status


@pytest.mark.parametrize("coding", ["chunked", "gzip"])
def test_codings_in_http_1_0(coding: str) -> None:
    """HTTP/1.0 has no transfer codings."""
    assert rejection(head("POST / HTTP/1.0", f"Transfer-Encoding: {coding}"))[0] == 400


@pytest.mark.parametrize(
    "field",
    [
        *("no colon", "a : b", " a: b", "a: b\r\n c", "a: b\nc: d", "a: b\rc: d", "a: \0"),
        *(": b", "a\xff: b", "a(: b", "a: \x7f", "a: \x01"),
    ],
)
def test_malformed_fields(field: str) -> None:
    """Fields that llhttp only accepts in its lenient modes are 400."""
    assert rejection(head("GET / HTTP/1.1", field, "z: z"))[0] == 400
    assert rejection(head("GET / HTTP/1.1", field, host=""))[0] == 400


def test_fields() -> None:
    """Fields are decoded as Latin-1, trimmed, and joined if they are repeated."""
    environ = get("X-A: \xe9 \t", "x-a: b", "Content-Type: text/plain").environ
    assert environ["HTTP_X_A"] == "\xe9,b"
    assert environ["CONTENT_TYPE"] == "text/plain"
    assert "HTTP_CONTENT_TYPE" not in environ


def test_names_with_underscores() -> None:
    """A field with an underscore is dropped: in WSGI it would look like the one with a hyphen."""
    assert get("X-A: a", "X_A: b", "Content_Length: 5").environ.keys() & {
        "HTTP_X_A",
        "CONTENT_LENGTH",
    } == {"HTTP_X_A"}
    assert get("X_A: b", "X-A: a").environ["HTTP_X_A"] == "a"


@pytest.mark.parametrize(
    ("version", "fields", "keeps_alive"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: x, Close"], False),
        ("1.1", ["Connection: keep-alive", "Connection: close"], False),
        ("1.1", ["Connection: closed"], True),
        ("1.1", ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c"], True),
        ("1.2", [], True),
        ("1.0", [], False),
        ("1.0", ["Connection: x,Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
    ],
)
def test_keeping_connections(version: str, fields: list[str], keeps_alive: bool) -> None:
    """``close`` anywhere in ``Connection`` ends it; HTTP/1.0 has to request keep-alive."""
    assert parse_head(head(f"GET / HTTP/{version}", *fields)).keeps_alive == keeps_alive


def test_expectations() -> None:
    """``Expect: 100-continue`` is honoured, except in HTTP/1.0; any other expectation is 417."""
    assert get("Expect: 100-Continue").expects_continue
    assert not parse_head(head("GET / HTTP/1.0", "Expect: 100-continue")).expects_continue
    assert rejection(head("GET / HTTP/1.1", "Expect: 200"))[0] == 417


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 86 + b" HTTP/1.1\r\n", None),
        (b"GET /" + b"a" * 96, 414),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5 + b"\r\n", None),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 6 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 7, 431),
        (b"GET / HTTP/1.1\r\na:" + b"a" * 48 + b"\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\na:" + b"a" * 49, 431),
        (b"GET / HTTP/1.1\r\na:" + b"a" * 49 + b"\r\n\r\n", 431),
    ],
)
def test_limits(data: bytes, status: int | None) -> None:
    """A head is rejected as soon as it exceeds a limit, and not before."""
    if status is None:
        LIMITS.check(data)
    else:
        with pytest.raises(Unreadable) as error:
            LIMITS.check(data)
        assert error.value.status == status


def test_limit_of_the_whole_head() -> None:
    """A head is limited as a whole, even if all its parts are within their limits."""
    limits = Limits(MAX_HEAD, MAX_HEAD, MAX_HEAD)
    limits.check(b"GET / HTTP/1.1\r\n".ljust(MAX_HEAD, b"a"))
    with pytest.raises(Unreadable) as error:
        limits.check(b"GET / HTTP/1.1\r\n".ljust(MAX_HEAD + 1, b"a"))
    assert error.value.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


LINES = [
    *(["GET / HTTP/1.1"] * 8),
    *("GET /a%20b?c=%20 HTTP/1.1", "POST /a HTTP/1.0", "GET http://a/b?c HTTP/1.1"),
    *("BREW / HTTP/1.1", "get / HTTP/1.1", "GET  / HTTP/1.1", "GET / HTTP/1.2", "GET / HTTP/2.0"),
    *("GET /\xff HTTP/1.1", "GET /a#b HTTP/1.1", "OPTIONS * HTTP/1.1", "GET a HTTP/1.1", "GET /"),
]
FIELDS = [
    *("A: b", "a: c ", "A:\tb", "A:", "A: \xe9", "A_B: c", "Content-Type: d", "Connection: close"),
    *("Content-Length: 5", "Content-Length: 05", "Content-Length: +5", "Content-Length: 5, 5"),
    *("Transfer-Encoding: chunked", "Transfer-Encoding: Chunked", "Transfer-Encoding: gzip"),
    *("Transfer-Encoding: gzip, chunked", "Transfer-Encoding:chunked ", "Content-Length : 5"),
    *("Expect: 100-continue", "Expect: x", "Upgrade: h2c", "Host: y", "Host:", "no colon"),
    *(" folded", "a: b\rc", "a: b\nc", "a\0: b", "a: \0", "a: \x7f", "\xe9: a", "a(b: c", ": a"),
]


def test_parser_agrees_with_gunicorn() -> None:
    """Of ten thousand random heads, those that are accepted are parsed as by gunicorn's parser."""
    rng = random.Random(1)
    accepted = 0
    for _ in range(10_000):
        fields = [rng.choice(FIELDS) for _ in range(rng.choice([0, 1, 1, 2, 3]))]
        data = head(rng.choice(LINES), *fields)
        try:
            ours = parse_head(data)
        except Unreadable:
            continue
        accepted += 1
        theirs = _parse_as_gunicorn(data)
        environ: dict[str, Any] = {}
        for name, value in theirs.headers:
            key = name.replace("-", "_")
            key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
            environ[key] = f"{environ[key]},{value}" if key in environ else value
        if theirs.uri.startswith("http"):
            environ["HTTP_HOST"] = "a"
        assert environ.items() <= ours.environ.items(), data
        assert theirs.method == ours.environ["REQUEST_METHOD"]
        assert theirs.query == ours.environ["QUERY_STRING"]
        reader = type(theirs.body.reader).__name__
        assert (reader == "ChunkedReader") == (ours.length is None)
        assert getattr(theirs.body.reader, "length", 0) == (ours.length or 0)
    assert accepted > 1_000


def _parse_as_gunicorn(data: bytes) -> Any:
    try:
        return Request(Config(), IterUnreader(iter([data])), ("127.0.0.1", 1))
    except ParseException as error:
        raise AssertionError(f"gunicorn rejects {data!r}") from error
