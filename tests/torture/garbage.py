"""Invalid and nearly valid requests."""

import json
import random

from tests.servers.http_client import head, package

# Fragments that confuse parsers, inserted anywhere.
_STUMBLING_BLOCKS = [
    *(
        b"\r\n",
        b"\r\n\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"%",
        b"%00",
        b"%0d%0a",
        b"\xff",
    ),
    *(
        b"\xc0\xaf",
        b"\xed\xa0\x80",
        b"../",
        b"//",
        b"?",
        b"#",
        b";",
        b"0",
        b"-1",
        b"9" * 30,
        b"A" * 9_000,
    ),
    b"Content-Length: 3\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n",
    b"Host: \r\n",
    b"X-Request-ID: \x7f\r\n",
    b"X-Trace: -1\r\nX-Span: x\r\nX-Sampled: maybe\r\n",
    b"X-Edge-Request: AAAA\r\n",
    b"Script-Name: /packages\r\n",
    b"SCRIPT_NAME: /packages\r\n",
]

_METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get"]
_TARGETS = [
    *("/", "//", "*", "", "/%00", "/packages/%00", "/packages/%", "/packages/%zz", "/packages/%ff"),
    *("/packages/a\0b", "/packages/a b", "/packages/../statistics", "/packages/%2e%2e/statistics"),
    *("/packages/..;/statistics", "/recipients//preferences", "/recipients/%ed%a0%80/preferences"),
    *(
        "/health?type=%00",
        "/health?type=readiness&type=",
        "/health?" + "a=b&" * 900,
        "/static/%2e%2e",
    ),
    *("/static/..%2f..%2fsetup.py", "/packages/" + "%F0%9F%9A%80" * 300, "/" + "a/" * 2_000),
    *(
        "http://elsewhere/statistics",
        "http://elsewhere:x/",
        "https://[::1/",
        "//elsewhere/statistics",
    ),
    *("elsewhere:443", "/statistics#fragment", "\x7f", "/\xff", "/" + "é" * 50),
]
_HEADERS = [
    *("Host: elsewhere", "Host: a\r\nHost: b", "Host: \xff", "Host: " + "a" * 5_000),
    *("X: " + "a" * 8_000, ": empty", "no colon", " leading: space", "folded: a\r\n b", "a" * 300),
    *("Content-Type: \0", "Accept: " + "text/html," * 700, "Accept: */*;q=x", "Range: bytes=-9"),
    *("If-None-Match: " + '"a",' * 500, "Cookie: " + "a=b;" * 900, "Content-Encoding: gzip"),
    *(
        "X-Forwarded-Proto: ftp",
        "X-Forwarded-For: \0",
        "Forwarded: for=_",
        "Accept-Encoding: *;q=0",
    ),
]


def make_garbage(rng: random.Random) -> bytes:
    """Return random bytes to send to a server."""
    make = rng.choice([_noise, _spoilt_request, _spoilt_request, _odd_head])
    return make(rng)


def _noise(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 3_000))


def _odd_head(rng: random.Random) -> bytes:
    method = rng.choice([*_METHODS, "BREW", "GET\0", "G" * 300, "ÄÖ", ""])
    version = rng.choice(["HTTP/1.1"] * 5 + ["HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/1.10", ""])
    headers = rng.choices(_HEADERS, k=rng.choice([0, 1, 3, 90]))
    return head(f"{method} {rng.choice(_TARGETS)} {version}", *headers)


def _spoilt_request(rng: random.Random) -> bytes:
    request = bytearray(_request(rng))
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(request) + 1)
        length = rng.choice([1, 1, 2, 10, 100])
        match rng.randrange(5):
            case 0:
                request[place:place] = rng.choice(_STUMBLING_BLOCKS)
            case 1:
                request[place : place + length] = b""
            case 2:
                request[place : place + length] = rng.randbytes(length)
            case 3:
                request[place:place] = request[place : place + length]
            case 4:
                request += _request(rng)
    return bytes(request)


def _request(rng: random.Random) -> bytes:
    """A valid request."""
    body = json.dumps(
        rng.choice(
            [
                package(),
                [package(), package(package_type="marketing")],
                {
                    "timestamp": "2142-03-01T12:00:00Z",
                    "personal_preference": True,
                    "marketing_preference": False,
                },
            ]
        )
    ).encode()
    line = rng.choice(
        [
            "POST /packages",
            "POST /packages/batch",
            "PUT /recipients/fry/preferences",
            "GET /statistics",
            "GET /packages/a",
        ]
    )
    if rng.random() < 0.3:
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        return head(f"{line} HTTP/1.1", "Transfer-Encoding: chunked") + chunk
    return head(f"{line} HTTP/1.1", f"Content-Length: {len(body)}") + body
