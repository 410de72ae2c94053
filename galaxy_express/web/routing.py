"""Finding the route of a request without trying those of other paths.

Pyramid matches the patterns of all routes in order, and each resource has a route per method. Those
without placeholders only match one path, so only those of the requested path are tried.
"""

import re
from typing import Any

from pyramid.config import Configurator
from pyramid.interfaces import IRoutesMapper
from pyramid.request import Request
from pyramid.urldispatch import Route, RoutesMapper

# A pattern without placeholders and without percent-encoding.
_PLAIN = re.compile(r"[/\w.-]+", re.ASCII)


class PathRoutesMapper(RoutesMapper):  # type: ignore[misc]  # Pyramid is untyped
    """Finds the same route as Pyramid's mapper."""

    def __init__(self) -> None:
        super().__init__()
        # Mappers of fewer routes, in the same order.
        self._with_placeholders = RoutesMapper()
        self._by_path: dict[str, RoutesMapper] = {}

    def connect(self, name: str, pattern: str, *args: Any, **options: Any) -> Route:
        """Add a route; see the base class."""
        route = super().connect(name, pattern, *args, **options)
        paths = {route.pattern for route in self.routelist if _is_plain(route)}
        self._by_path = {path: self._without_other_paths(path) for path in paths}
        self._with_placeholders = self._without_other_paths(None)
        return route

    def _without_other_paths(self, path: str | None) -> RoutesMapper:
        mapper = RoutesMapper()
        mapper.routelist = [
            route for route in self.routelist if route.pattern == path or not _is_plain(route)
        ]
        return mapper

    def __call__(self, request: Request) -> dict[str, Any]:
        """Find the route of a request, and the values of its placeholders."""
        path = request.environ["PATH_INFO"].removesuffix("\n")  # which the end of a pattern matches
        found: dict[str, Any] = self._by_path.get(path, self._with_placeholders)(request)
        return found


def _is_plain(route: Route) -> bool:
    return _PLAIN.fullmatch(route.pattern) is not None


def includeme(config: Configurator) -> None:
    """Use this mapper for routes that are added from now on."""
    config.registry.registerUtility(PathRoutesMapper(), IRoutesMapper)
