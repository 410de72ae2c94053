"""Tests for routing: the same routes as with Pyramid's own mapper."""

from itertools import product
from typing import Any

import pytest
from pyramid.config import Configurator
from pyramid.interfaces import IRoutesMapper
from pyramid.request import Request
from pyramid.urldispatch import RoutesMapper

PATTERNS = (
    "/health",
    "/{anything:.*}/early",
    "/packages",
    "/packages/batch",
    "/packages/{package_id:(?s:.+)}",
    "/static/*subpath",
    "/100%25",
    "/é",
    "/recipients/{recipient_id}/preferences",
    "/packages",
)
PATHS = (
    *(
        "/",
        "",
        "/health",
        "/health/",
        "/healthy",
        "/health\n",
        "//health",
        "/health/early",
        "/Health",
    ),
    *("/packages", "/packages/", "/packages/batch", "/packages/batch/early", "/packages/a/b"),
    *("/packages/batch/", "/packages\n", "/packages/early", "/static/", "/static/docs.css"),
    *(
        "/100%",
        "/100%25",
        "/\u00c3\u00a9",
        "/recipients/leela/preferences",
        "/recipients//preferences",
    ),
)
METHODS = ("GET", "POST", "PUT")


@pytest.fixture(name="mappers")
def both_mappers() -> list[RoutesMapper]:
    """Pyramid's mapper and ours, with the same routes: two methods and all others, per pattern."""
    mappers = []
    for include in ((), ("galaxy_express.web.routing",)):
        config = Configurator()
        for module in include:
            config.include(module)
        for number, pattern in enumerate(PATTERNS):
            for method in ("GET", "POST", None):
                config.add_route(f"{number} {method}", pattern, request_method=method)
        config.commit()
        mappers.append(config.registry.getUtility(IRoutesMapper))
    return mappers


@pytest.mark.parametrize(("method", "path"), list(product(METHODS, PATHS)))
def test_same_routes(mappers: list[RoutesMapper], method: str, path: str) -> None:
    """The route and the placeholders' values are those that Pyramid's mapper finds."""
    stock, ours = (_found(mapper, method, path) for mapper in mappers)

    assert ours == stock


def _found(mapper: RoutesMapper, method: str, path: str) -> tuple[Any, ...]:
    found = mapper(Request({"REQUEST_METHOD": method, "PATH_INFO": path}))
    return found["route"] and found["route"].name, found["match"]


def test_mappers_differ(mappers: list[RoutesMapper]) -> None:
    """Only one of the two is Pyramid's."""
    assert [type(mapper) is RoutesMapper for mapper in mappers] == [True, False]
