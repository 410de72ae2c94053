"""The pages: content negotiation, headers and caching."""

from urllib.parse import urljoin

import pytest
from webtest import TestApp, TestRequest

from tests.functional.client import problem

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
TEXT = {
    "/docs": "text/html",
    "/openapi.json": "application/json",
    "/static/dashboard.css": "text/css",
    **{
        f"/static/{name}.js": "text/javascript"
        for name in ("common", "dashboard", "forms", "packages", "totals")
    },
    "/static/docs.js": "text/javascript",
    "/static/icon.svg": "image/svg+xml",
    "/static/swagger-ui.css": "text/css",
    "/static/swagger-ui-bundle.js": "text/javascript",
}
EVERYTHING = ["/", *TEXT]


@pytest.mark.parametrize("accept", [BROWSER, "text/html", "text/html, */*;q=0.1"])
def test_browser_gets_the_dashboard(app: TestApp, accept: str) -> None:
    """A client that prefers HTML gets the dashboard."""
    answer = app.get("/", headers={"Accept": accept})
    assert answer.content_type == "text/html"
    assert answer.html.h1 is not None
    assert answer.html.h1.text == "Galaxy Express"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "text/html;q=0.5, */*", "image/png", "nonsense;;"]
)
def test_other_clients_get_a_list_of_endpoints(app: TestApp, accept: str | None) -> None:
    """Clients such as curl get JSON with the endpoints and a link to the documentation."""
    answer = app.get("/", headers={} if accept is None else {"Accept": accept})
    assert answer.content_type == "application/json"
    endpoints = answer.json["endpoints"]
    assert endpoints["POST /packages"] == "Send a package"
    described = {
        f"{method.upper()} {path}"
        for path, item in app.get("/openapi.json").json["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert set(endpoints) == described | {"GET /", "GET /docs", "GET /openapi.json"}


@pytest.mark.parametrize("accept", [BROWSER, "*/*"])
def test_home_page_varies_by_accept(app: TestApp, accept: str) -> None:
    """Caches keep the two variants of the home page apart."""
    assert app.get("/", headers={"Accept": accept}).headers["Vary"] == "Accept"


@pytest.mark.parametrize("path", TEXT)
def test_content_types(app: TestApp, path: str) -> None:
    """Each file has the right content type, with a charset if it is text."""
    answer = app.get(path)
    assert answer.content_type == TEXT[path]
    assert answer.charset in ("UTF-8", None)
    answer.body.decode("utf-8")


@pytest.mark.parametrize("path", EVERYTHING)
def test_security_headers(app: TestApp, path: str) -> None:
    """The headers allow only scripts from this origin, and forbid framing."""
    headers = app.get(path, headers={"Accept": BROWSER}).headers
    policy = dict(
        part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", EVERYTHING)
def test_unchanged_files_are_not_sent_again(app: TestApp, path: str) -> None:
    """Each file can be revalidated."""
    browser = {"Accept": BROWSER}
    first = app.get(path, headers=browser)
    again = app.get(path, headers=browser | {"If-None-Match": first.headers["ETag"]}, status=304)
    assert again.body == b""
    other = app.get(path, headers=browser | {"If-None-Match": '"other"'})
    assert other.body == first.body


@pytest.mark.parametrize("path", EVERYTHING)
def test_only_pages_are_cached(app: TestApp, path: str) -> None:
    """Browsers may cache pages and their files, but not JSON, like all other responses."""
    for accept in (BROWSER, "*/*"):
        answer = app.get(path, headers={"Accept": accept})
        is_json = answer.content_type == "application/json"
        assert answer.headers["Cache-Control"] == ("no-store" if is_json else "no-cache")


@pytest.mark.parametrize("path", EVERYTHING)
def test_responses_share_the_content(app: TestApp, path: str) -> None:
    """All responses share one copy of a page, so that clients that don't read their response cost
    little memory."""

    def content() -> bytes:
        request = TestRequest.blank(path, headers={"Accept": BROWSER})
        _, _, (chunk,) = request.call_application(app.app)
        assert isinstance(chunk, bytes)
        return chunk

    assert content() is content()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_links_are_relative(app: TestApp, path: str) -> None:
    """Links and files work behind a proxy that serves the pages under a path."""
    html = app.get(path, headers={"Accept": BROWSER}).html
    references = [str(element["href"]) for element in html.select("[href]")]
    references += [str(element["src"]) for element in html.select("[src]")]
    assert len(references) >= 3
    for reference in references:
        assert not reference.startswith("/")
        app.get(urljoin(path, reference), headers={"Accept": BROWSER}, status=200)


@pytest.mark.parametrize(
    "date",
    [
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Sat, 01 Jan 0001 00:00:00 +2359",
        "Thu, 01 Jan 9999999999 00:00:00 GMT",
        "Thu, 01 Jan 1970 00:00:00 +99999999999999",
        "nonsense",
    ],
)
@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/static/dashboard.js"])
def test_dates_are_ignored(app: TestApp, path: str, date: str) -> None:
    """Pages have no date of modification, so a condition on it is ignored, whatever it says."""
    assert app.get(path, headers={"If-Modified-Since": date}).body == app.get(path).body


@pytest.mark.parametrize("range_", ["bytes=0-9", "bytes=99999999-", "nonsense"])
def test_ranges_are_ignored(app: TestApp, range_: str) -> None:
    """A range request gets the whole file, which HTTP allows (RFC 9110, section 14.2)."""
    assert app.get("/docs", headers={"Range": range_}).body == app.get("/docs").body


@pytest.mark.parametrize("path", EVERYTHING)
def test_head(app: TestApp, path: str) -> None:
    """The response to HEAD is that to GET, without the body."""
    head, get = app.head(path), app.get(path)
    assert head.body == b""
    for header in ("Content-Type", "Content-Length", "ETag"):
        assert head.headers[header] == get.headers[header]


@pytest.mark.parametrize("path", [*EVERYTHING, "/static/nothing"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods(app: TestApp, path: str, method: str) -> None:
    """Any other method is 405, with the supported ones in ``Allow``."""
    answer = app.request(path, method=method, body=b"{}", status=405)
    assert answer.headers["Allow"] == "GET, HEAD"
    problem(answer)


@pytest.mark.parametrize(
    "path",
    [
        "/static",
        "/static/",
        "/static/nothing.css",
        "/static/docs.html/",
        "/static/../__init__.py",
        "/static/..%2F__init__.py",
        "/static/%2E%2E/__init__.py",
        "/static/..%5C__init__.py",
        "/static//etc/passwd",
        "/static/%2Fetc%2Fpasswd",
        "/static/dashboard.css%00",
        "/static/%FF",
        "/docs/",
        "/docs%0A",
        "/openapi.json/",
        "/openapi.json%0A",
        "/static/icon.svg%0A",
        "/%0A",
        "/favicon.ico",
    ],
)
def test_other_paths(app: TestApp, path: str) -> None:
    """A path to a file that isn't part of the pages is 404."""
    assert problem(app.get(path, status=404))["detail"] == "there is nothing at this path"
