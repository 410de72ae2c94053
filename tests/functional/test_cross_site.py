"""Requests that a browser sends on behalf of another site's page."""

import pytest
from webtest import TestApp

from tests.functional.client import ANY, PACKAGE, UPDATE, problem, totals

HOST = "express.example:9090"

WRITES = pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/packages", PACKAGE),
        ("POST", "/packages/batch", [PACKAGE]),
        ("PUT", "/recipients/leela/preferences", UPDATE),
    ],
)

OTHER_SITES = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "Same-Origin"},
    {"Sec-Fetch-Site": "cross-site", "Origin": f"http://{HOST}"},
    {"Sec-Fetch-Site": "same-origin,cross-site"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://express.example"},
    {"Origin": "http://express.example:9091"},
    {"Origin": "http://evil.express.example:9090"},
    {"Origin": f"http://{HOST}.evil.example"},
    {"Origin": "null"},
    {"Origin": HOST},
    {"Origin": "http://["},
]
THIS_SITE = [
    {},
    {"Sec-Fetch-Site": "same-origin"},
    {"Sec-Fetch-Site": "none"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "", "Origin": ""},
    {"Origin": f"http://{HOST}"},
    {"Origin": f"https://{HOST}"},
    {"Origin": f"http://{HOST.upper()}"},
]


@WRITES
@pytest.mark.parametrize("headers", OTHER_SITES)
def test_write_from_another_site(
    app: TestApp, method: str, path: str, body: object, headers: dict[str, str]
) -> None:
    """A write from another site is 403, records nothing, and isn't counted as rejected."""
    send = app.post_json if method == "POST" else app.put_json
    answer = send(path, body, headers=headers | {"Host": HOST}, status=403)
    assert problem(answer)["code"] == "cross_site"
    assert totals(app) == (0, 0, 0)
    assert app.get("/recipients/leela/preferences").json["updated_at"] is None


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/packages", "/packages/a", "/statistics", "/nowhere"])
def test_writes_from_other_sites_are_rejected_on_every_path(
    app: TestApp, method: str, path: str
) -> None:
    """Every path rejects writes from other sites, even if it doesn't support the method."""
    headers = {"Sec-Fetch-Site": "cross-site"}
    app.request(path, method=method, body=b"nonsense", headers=headers, status=403)


@WRITES
@pytest.mark.parametrize("headers", THIS_SITE)
def test_write_from_this_site(
    app: TestApp, method: str, path: str, body: object, headers: dict[str, str]
) -> None:
    """Pages of the service itself, and clients that aren't browsers, may write."""
    send = app.post_json if method == "POST" else app.put_json
    assert send(path, body, headers=headers | {"Host": HOST}, status=ANY).status_int in (200, 201)


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_other_sites_may_read(app: TestApp, headers: dict[str, str]) -> None:
    """Reads are allowed: browsers don't show their responses to other sites."""
    for path in ("/statistics", "/health", "/recipients/leela/preferences"):
        app.get(path, headers=headers | {"Host": HOST}, status=200)
        app.head(path, headers=headers | {"Host": HOST}, status=200)
