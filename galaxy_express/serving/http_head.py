"""The head of an HTTP/1.1 request, parsed according to RFC 9112 and within limits.

llhttp parses the fields, strictly. It leaves the rest to its caller: limits, the target, ``Host``
and ``Expect``.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from ipaddress import IPv6Address
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import httptools

#: The limit of the whole head in bytes, in addition to those of its fields.
MAX_HEAD = 65536

# Methods as in gunicorn: RFC 9110 also allows lower case, which no method uses.
_REQUEST_LINE = re.compile(
    rb"([A-Z0-9!$%&'*+.^_`|~-]{3,20}) ([\x21\x22\x24-\x7e]+) HTTP/1\.([0-9])\r\n"
)
_BEGINNING = re.compile(rb"[\rA-Z0-9!$%&'*+.^_`|~-]|$")
# llhttp would reject methods that it doesn't know, but the response to them must be 405.
_PARSED_REQUEST_LINE = b"GET / HTTP/1.1\r\n"
_ABSOLUTE_FORM = re.compile(r"https?://([^/?]*)([^?]*)(?:\?(.*))?", re.IGNORECASE)
_HOST = re.compile(
    r"((?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+|\[([0-9A-Fa-f:.]+)\])(?::[0-9]{0,5})?"
)
_CODING = r"[ \t]*[A-Za-z0-9!#$%&'*+.^_`|~-]+[ \t]*(?:;[^,]*)?"
_CODINGS = re.compile(f"{_CODING}(?:,{_CODING})*")
_MAX_DIGITS = 15


class Unreadable(ValueError):
    """A request that can't be read, and after which the connection is closed.

    :param status: the status of the response.
    """

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Limits(NamedTuple):
    """The limits of a head: bytes of the request line, number of fields, bytes of each."""

    line: int
    fields: int
    field_size: int

    def check(self, head: bytes) -> None:
        """Check a head, or the part that has arrived so far.

        :raises Unreadable: if it is over a limit.
        """
        line, *fields = head.split(b"\r\n")
        if len(line) > self.line:
            raise Unreadable(
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"the request line is longer than {self.line:,} bytes",
            )
        if len(fields) > self.fields + 2:  # a complete head ends with two empty lines
            raise Unreadable(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"there are more than {self.fields:,} header fields",
            )
        if len(head) > self.field_size and max(map(len, fields), default=0) > self.field_size:
            raise Unreadable(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"a header field is longer than {self.field_size:,} bytes",
            )
        if len(head) > MAX_HEAD:
            raise Unreadable(
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"the head is longer than {MAX_HEAD:,} bytes",
            )


def check_beginning(part: bytes) -> None:
    """Check the part of a head that has arrived so far. Otherwise a client that, for example,
    expects TLS or ends its lines without a carriage return would wait for a response.

    :raises Unreadable: if it can't become valid.
    """
    if not _BEGINNING.match(part):
        raise _bad("the request line is malformed")
    if part.count(b"\n") > part.count(b"\r\n"):
        raise _bad("a line ends without a carriage return")


@dataclass(slots=True)
class Head:
    """The head of a request.

    :param environ: its part of the WSGI environ.
    :param minor: the minor version, of HTTP/1.
    :param length: the bytes of the body; ``None`` if it is chunked.
    :param keeps_alive: whether the client keeps the connection open.
    :param expects_continue: whether the client waits for 100 before it sends the body.
    """

    environ: dict[str, str]
    minor: int
    length: int | None
    keeps_alive: bool
    expects_continue: bool


def parse_head(head: bytes) -> Head:
    """Parse a head, up to its empty line.

    :raises Unreadable: if it isn't valid.
    """
    match = _REQUEST_LINE.match(head)
    if match is None:
        raise _bad("the request line is malformed")
    method, target = match[1].decode(), match[2].decode()
    minor = int(match[3])
    lines = head[match.end() :]
    parse_fields = _parse_known_fields if len(lines) <= _KNOWN_BYTES else _parse_fields
    fields = parse_fields(lines, minor > 0)
    authority, path, query = _split_target(method, target)
    if "%" in path:
        path = unquote_to_bytes(path).decode("latin-1")
    environ = {
        **fields.environ,
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_PROTOCOL": "HTTP/1.1" if minor else "HTTP/1.0",
    }
    if authority is not None:
        environ["HTTP_HOST"] = authority  # RFC 9112, section 3.2.2
    # After CONNECT, the following bytes would be for another server.
    keeps_alive = fields.keeps_alive and method != "CONNECT"
    return Head(environ, minor, fields.length, keeps_alive, fields.expects_continue)


def _bad(reason: str) -> Unreadable:
    return Unreadable(HTTPStatus.BAD_REQUEST, reason)


class _Fields(NamedTuple):
    """The fields of a head, and what they mean; see :py:class:`Head`."""

    environ: Mapping[str, str]
    length: int | None
    keeps_alive: bool
    expects_continue: bool


@dataclass(slots=True)
class _Received:
    """The callbacks of llhttp."""

    environ: dict[str, str] = field(default_factory=dict)
    repeated: list[str] = field(default_factory=list)
    are_complete: bool = False

    def on_header(self, name: bytes, value: bytes) -> None:
        key = _environ_key(name)
        if key is None:
            return
        text = value.decode("latin-1").rstrip(" \t")
        if key in self.environ:
            self.repeated.append(key)
            text = f"{self.environ[key]},{text}"
        self.environ[key] = text

    def on_headers_complete(self) -> None:
        self.are_complete = True


@lru_cache(maxsize=256)
def _environ_key(name: bytes) -> str | None:
    if b"_" in name:
        return None  # in WSGI it would look like the field with a hyphen
    key = name.decode().upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"


def _parse_fields(lines: bytes, is_http_1_1: bool) -> _Fields:
    received = _Received()
    try:
        httptools.HttpRequestParser(received).feed_data(_PARSED_REQUEST_LINE + lines)
    except httptools.HttpParserUpgrade:
        pass  # the client offers another protocol, and continues with HTTP/1.1
    except httptools.HttpParserError as error:
        # llhttp rejects transfer codings after the fields are complete; see _body_length.
        if not received.are_complete:
            raise _bad(str(error)) from None
    if not received.are_complete:
        raise _bad("the header fields are malformed")
    if "CONTENT_TYPE" in received.repeated:
        raise _bad("Content-Type is repeated")
    _check_host(received, is_http_1_1)
    return _Fields(
        received.environ,
        _body_length(received, is_http_1_1),
        _keeps_alive(received.environ, is_http_1_1),
        _expects_continue(received.environ, is_http_1_1),
    )


# Clients repeat the same fields with each request.
_parse_known_fields = lru_cache(maxsize=256)(_parse_fields)
_KNOWN_BYTES = 512


def _split_target(method: str, target: str) -> tuple[str | None, str, str]:
    """Return the authority, if the target has one, the path and the query."""
    if method == "CONNECT":
        if not _is_host(target) or not target.rpartition(":")[2].isdigit():
            raise _bad("the target of CONNECT is not a host and a port")
        return None, "", ""
    if target.startswith("/"):
        path, _, query = target.partition("?")
        return None, path, query
    if match := _ABSOLUTE_FORM.fullmatch(target):
        if not _is_host(match[1]):
            raise _bad("the target has no valid host")
        return match[1], match[2] or "/", match[3] or ""
    if (method, target) == ("OPTIONS", "*"):
        return None, "", ""
    raise _bad("the target is not a path")


def _check_host(received: _Received, is_http_1_1: bool) -> None:
    host = received.environ.get("HTTP_HOST")
    if host is None:
        if is_http_1_1:
            raise _bad("Host is missing")
    elif "HTTP_HOST" in received.repeated:
        raise _bad("Host is repeated")
    elif not _is_host(host):
        raise _bad("Host is malformed")


@lru_cache(maxsize=256)
def _is_host(text: str) -> bool:
    match = _HOST.fullmatch(text)
    if match is None or match[2] is None:
        return match is not None
    try:
        IPv6Address(match[2])
    except ValueError:
        return False
    return True


def _body_length(received: _Received, is_http_1_1: bool) -> int | None:
    length = received.environ.get("CONTENT_LENGTH")
    coding = received.environ.get("HTTP_TRANSFER_ENCODING")
    if coding is not None:
        if not is_http_1_1:
            raise _bad("HTTP/1.0 has no Transfer-Encoding")
        if length is not None:
            raise _bad("there is both a Content-Length and a Transfer-Encoding")
        if coding.lower() == "chunked":
            return None
        if not _CODINGS.fullmatch(coding):
            raise _bad("the Transfer-Encoding is malformed")
        raise Unreadable(HTTPStatus.NOT_IMPLEMENTED, "the Transfer-Encoding is not supported")
    if length is None:
        return 0
    if "CONTENT_LENGTH" in received.repeated or not (length.isascii() and length.isdigit()):
        raise _bad("the Content-Length is not a number")
    if len(length) > _MAX_DIGITS:
        raise _bad("the Content-Length has too many digits")
    return int(length)


def _keeps_alive(environ: Mapping[str, str], is_http_1_1: bool) -> bool:
    options = environ.get("HTTP_CONNECTION")
    if options is None:
        return is_http_1_1
    names = {option.strip(" \t").lower() for option in options.split(",")}
    return "close" not in names and (is_http_1_1 or "keep-alive" in names)


def _expects_continue(environ: Mapping[str, str], is_http_1_1: bool) -> bool:
    expectation = environ.get("HTTP_EXPECT")
    if expectation is None:
        return False
    if expectation.lower() != "100-continue":
        raise Unreadable(HTTPStatus.EXPECTATION_FAILED, "the expectation is not supported")
    return is_http_1_1  # HTTP/1.0 has no 100
