"""Resources: a path, a view for each supported method, and 405 for all others."""

from typing import Protocol

from pyramid.config import Configurator
from pyramid.request import Request
from pyramid.response import Response

from galaxy_express.web.problems import method_not_allowed


class View(Protocol):
    """A view: a method whose name becomes the name of the route."""

    __name__: str

    def __call__(self, request: Request, /) -> Response:
        """Handle a request."""


def includeme(config: Configurator) -> None:
    """Add the directive ``add_resource`` to the configurator."""
    config.add_directive("add_resource", add_resource)


def add_resource(config: Configurator, pattern: str, views: dict[str, View]) -> None:
    """Add the routes of one path.

    :param pattern: the path, as for Pyramid's ``add_route``.
    :param views: the view for each method. ``GET`` includes ``HEAD``.
    """
    allowed = {*views}
    for method, view in views.items():
        name = view.__name__  # also the name of Baseplate's span
        config.add_route(name, pattern, request_method=method)
        config.add_view(view, route_name=name)
    if "GET" in allowed:
        allowed.add("HEAD")
    config.add_route(pattern, pattern)
    config.add_view(method_not_allowed(allowed), route_name=pattern)
