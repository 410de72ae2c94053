"""The pages: the dashboard, the API description, and Swagger UI."""

from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from pydantic_core import to_json
from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from galaxy_express.web.openapi import describe_api
from galaxy_express.web.problems import not_found

_STATIC = files("galaxy_express.web") / "static"
_SWAGGER_UI = _STATIC / "vendor" / "swagger-ui"
_FILES = {
    file.name: file
    for file in (
        *(file for file in _STATIC.iterdir() if file.is_file()),
        _SWAGGER_UI / "swagger-ui.css",
        _SWAGGER_UI / "swagger-ui-bundle.js",
    )
}

_MEDIA_TYPES = {
    "css": "text/css",
    "html": "text/html",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}

_HEADERS = {
    # Pages only load resources from this service, have no inline code, and can't be framed.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class _Page:
    """A page that is built once, so that all responses share its bytes."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self._content = content
        self._media_type = media_type
        self._etag = sha256(content).hexdigest()

    def response(self, request: Request) -> Response:
        """Return the page, or 304 if the client has this version."""
        request.range = None  # WebOb would respond with 416 in plain text, or copy the bytes
        request.if_modified_since = None  # WebOb fails on dates outside the years 1 to 9999
        response = Response(self._content, content_type=self._media_type, conditional_response=True)
        response.headers.update(_HEADERS)
        # Browsers may cache a page, but must revalidate it before each use.
        is_data = self._media_type == "application/json"
        response.headers["Cache-Control"] = "no-store" if is_data else "no-cache"
        response.etag = self._etag
        return response


@cache
def _file(name: str) -> _Page:
    return _Page(_FILES[name].read_bytes(), _MEDIA_TYPES[name.rpartition(".")[2]])


def _json(value: object, indent: int | None = None) -> _Page:
    return _Page(to_json(value, indent=indent) + b"\n", "application/json")


class Pages:
    """The views.

    :param description: the API description, an OpenAPI document.
    """

    def __init__(self, description: dict[str, Any]) -> None:
        self._description = _json(description)
        self._endpoints = _json(_endpoints(description), indent=2)

    def read_home(self, request: Request) -> Response:
        """``GET /``: the dashboard for browsers, a list of the endpoints for other clients."""
        offers = request.accept.acceptable_offers(["application/json", "text/html"])
        if offers and offers[0][0] == "text/html":
            response = _file("dashboard.html").response(request)
        else:
            response = self._endpoints.response(request)
        response.vary = ["Accept"]
        return response

    def read_docs(self, request: Request) -> Response:
        """``GET /docs``: Swagger UI, for reading the API description and trying requests."""
        return _file("docs.html").response(request)

    def read_description(self, request: Request) -> Response:
        """``GET /openapi.json``: the API description."""
        return self._description.response(request)

    def read_static(self, request: Request) -> Response:
        """``GET /static/{name}``: the scripts, styles and images of the pages."""
        name = request.matchdict["name"]
        return _file(name).response(request) if name in _FILES else not_found(request)


def _endpoints(description: dict[str, Any]) -> dict[str, Any]:
    endpoints = {
        f"{method.upper()} {path}": operation["summary"]
        for path, operations in description["paths"].items()
        for method, operation in operations.items()
        if method != "parameters"
    }
    pages = {
        "GET /": "Dashboard (for browsers)",
        "GET /docs": "Interactive API documentation (for browsers)",
        "GET /openapi.json": "API description (OpenAPI 3.1)",
    }
    return {"service": description["info"]["title"], "endpoints": endpoints | pages}


def includeme(config: Configurator) -> None:
    """Add the pages to the application."""
    settings = config.registry.settings
    pages = Pages(describe_api(settings["package_types"], settings["path_prefix"]))
    config.add_resource("/", {"GET": pages.read_home})
    config.add_resource("/docs", {"GET": pages.read_docs})
    config.add_resource("/openapi.json", {"GET": pages.read_description})
    config.add_resource("/static/{name}", {"GET": pages.read_static})
