"""Protection from requests that a browser sends on behalf of another site's page.

The rule is that of Go's ``http.CrossOriginProtection``. Clients that aren't browsers send
neither ``Sec-Fetch-Site`` nor ``Origin``.
"""

from typing import Any
from urllib.parse import urlsplit

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from galaxy_express.web import instrumentation
from galaxy_express.web.instrumentation import View
from galaxy_express.web.problems import client_error
from galaxy_express.web.rejections import CrossSiteRequest

_WRITING_METHODS = {"POST", "PUT", "PATCH"}


def includeme(config: Configurator) -> None:
    """Check every write request, before its view is called."""
    config.add_view_deriver(_protect, "same_site_view", under=instrumentation.DERIVER)


def _protect(view: View, _: object) -> View:
    def protected(context: Any, request: Request) -> Response:
        environ = request.environ
        if environ["REQUEST_METHOD"] in _WRITING_METHODS and _is_cross_site(environ):
            # Returned rather than raised: the view for unknown paths is protected, too, and already
            # handles an exception.
            error = CrossSiteRequest("pages of other sites must not send this request")
            return client_error(error, request)
        return view(context, request)

    return protected


def _is_cross_site(environ: dict[str, str]) -> bool:
    site = environ.get("HTTP_SEC_FETCH_SITE")
    if site:
        return site not in ("same-origin", "none")
    origin = environ.get("HTTP_ORIGIN")
    if not origin:
        return False
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # not a URL
        return True
    return host.lower() != environ.get("HTTP_HOST", "").lower()
