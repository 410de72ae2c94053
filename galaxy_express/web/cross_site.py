"""Protection from requests that a browser sends on behalf of another site's page.

The rule is that of Go's ``http.CrossOriginProtection``. Clients that aren't browsers send
neither ``Sec-Fetch-Site`` nor ``Origin``.
"""

from urllib.parse import urlsplit

from pyramid.config import Configurator
from pyramid.events import ContextFound
from pyramid.request import Request

from galaxy_express.web.rejections import CrossSiteRequest

_WRITING_METHODS = {"POST", "PUT", "PATCH"}


def includeme(config: Configurator) -> None:
    """Check every write request, before its view is looked up."""
    config.add_subscriber(_check, ContextFound)


def _check(event: ContextFound) -> None:
    request = event.request
    if request.method in _WRITING_METHODS and _is_cross_site(request):
        raise CrossSiteRequest("pages of other sites must not send this request")


def _is_cross_site(request: Request) -> bool:
    site = request.headers.get("Sec-Fetch-Site")
    if site:
        return site not in ("same-origin", "none")
    origin = request.headers.get("Origin")
    if not origin:
        return False
    try:
        host = urlsplit(origin).netloc
    except ValueError:  # not a URL
        return True
    return bool(host.lower() != request.headers.get("Host", "").lower())
