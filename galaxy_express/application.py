"""The application: configuration, Baseplate, what a request may reach, and the routes."""

import logging
from collections import defaultdict

from baseplate import Baseplate
from baseplate.frameworks.pyramid import BaseplateConfigurator
from baseplate.lib.config import RawConfig
from pyramid.config import Configurator
from pyramid.router import Router

from galaxy_express.api_description import describe_api
from galaxy_express.database import Database, DatabaseContextFactory, DatabaseUnavailable
from galaxy_express.desk import DeskContextFactory
from galaxy_express.dialects import database_from_config
from galaxy_express.metrics import bound_labels
from galaxy_express.models import missing_tables
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.pages import add_pages
from galaxy_express.problems import answer_with_problems, method_not_allowed, not_found
from galaxy_express.request_ids import identify_requests
from galaxy_express.schemas import Schemas
from galaxy_express.views import GalaxyExpressService

logger = logging.getLogger("galaxy_express")


def make_application(app_config: RawConfig, package_types: PackageTypeRegistry) -> Router:
    """Make the WSGI application.

    :param app_config: the ``[app:main]`` section of a configuration file.
    :param package_types: the types of package that there are.
    :raises baseplate.lib.config.ConfigurationError: naming the setting that is wrong.
    """
    database = database_from_config(app_config)
    desk = DeskContextFactory(app_config, database, package_types)

    baseplate = Baseplate(app_config)
    baseplate.configure_observers()
    baseplate.add_to_context("database", DatabaseContextFactory(database))
    baseplate.add_to_context("desk", desk)

    configurator = Configurator()
    configurator.include(BaseplateConfigurator(baseplate).includeme)
    bound_labels(configurator)
    identify_requests(configurator)
    answer_with_problems(configurator)
    schemas = Schemas(package_types)
    _add_routes(configurator, GalaxyExpressService(schemas))
    add_pages(configurator, describe_api(package_types, schemas))
    logger.info(
        "Galaxy Express on %s, with package types %s",
        database,
        ", ".join(package_types.names),
        extra={"settings": _without_secrets(app_config, database)},
    )
    _report_schema(database)
    return configurator.make_wsgi_app()


def _add_routes(configurator: Configurator, service: GalaxyExpressService) -> None:
    # Pyramid's patterns end in $, which would let a line feed follow; no path ends in one.
    configurator.add_route("line_feed", "/{path:(?s:.*)\n}")
    configurator.add_view(not_found, route_name="line_feed")

    # An id may hold anything that can be percent-encoded, slashes and line ends included.
    package = "/packages/{package_id:(?s:.+)}"
    preferences = "/recipients/{recipient_id:(?s:.*)}/preferences"
    allowed: dict[str, set[str]] = defaultdict(set)
    for name, method, pattern, view in (
        ("send_package", "POST", "/packages", service.send_package),
        ("send_batch", "POST", "/packages/batch", service.send_batch),
        ("read_package", "GET", package, service.read_package),
        ("update_preferences", "PUT", preferences, service.update_preferences),
        ("read_preferences", "GET", preferences, service.read_preferences),
        ("read_statistics", "GET", "/statistics", service.read_statistics),
        ("is_healthy", "GET", "/health", service.is_healthy),
    ):
        configurator.add_route(name, pattern, request_method=method)  # GET brings HEAD
        configurator.add_view(view, route_name=name)
        allowed[pattern] |= {method, "HEAD"} if method == "GET" else {method}
    allowed["/packages/batch"] |= allowed[package]  # "batch" is an id like any other
    for pattern, methods in allowed.items():
        configurator.add_route(f"not_allowed {pattern}", pattern)
        configurator.add_view(method_not_allowed(methods), route_name=f"not_allowed {pattern}")


def _without_secrets(app_config: RawConfig, database: Database) -> dict[str, str]:
    ours = ("database.", "desk.", "metrics.", "server_timeout.")
    settings = {key: value for key, value in app_config.items() if key.startswith(ours)}
    return settings | {"database.url": str(database)}


def _report_schema(database: Database) -> None:
    try:
        with database.snapshot() as connection:
            missing = missing_tables(connection)
    except DatabaseUnavailable as fault:
        logger.error("The database %s is unavailable: %s", database, fault)
    else:
        if missing:
            logger.error(
                "The database %s has no tables %s; make them with: make migratedb",
                database,
                ", ".join(missing),
            )
