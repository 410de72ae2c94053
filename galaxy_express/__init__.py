"""Galaxy Express: decides, exactly once for each package, to deliver it or to drop it.

The map of the house::

    views           where a request enters: read, call, answer
      schemas       bodies in and out: strict parsing, typed dictionaries
      problems      errors as answers
      responses     answers in JSON
    desk            where it is decided and recorded, in one transaction
      group_commit  many requests, one transaction
      delivery      the decision, pure
      preferences   which update is in force, pure
      records       statements: tables from and to the values of the domain
    models          where it is stored
    database        connections, and what differs between databases
    package_types   what there is to send
    server, wsgi    how it is served
"""

import logging
from collections import defaultdict

from baseplate import Baseplate
from baseplate.frameworks.pyramid import BaseplateConfigurator
from baseplate.lib.config import RawConfig
from pyramid.config import Configurator
from pyramid.router import Router

from galaxy_express.database import (
    Database,
    DatabaseContextFactory,
    DatabaseUnavailable,
    database_from_config,
)
from galaxy_express.desk import DeskContextFactory
from galaxy_express.models import missing_tables
from galaxy_express.package_types import PACKAGE_TYPES, PackageTypeRegistry
from galaxy_express.problems import answer_with_problems, method_not_allowed
from galaxy_express.schemas import Schemas
from galaxy_express.views import GalaxyExpressService

logger = logging.getLogger(__name__)


def make_wsgi_app(
    app_config: RawConfig, package_types: PackageTypeRegistry = PACKAGE_TYPES
) -> Router:
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
    answer_with_problems(configurator)
    _add_routes(configurator, GalaxyExpressService(Schemas(package_types)))
    _report_schema(database)
    return configurator.make_wsgi_app()


def _add_routes(configurator: Configurator, service: GalaxyExpressService) -> None:
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


def _report_schema(database: Database) -> None:
    try:
        with database.reading() as connection:
            missing = missing_tables(connection)
    except DatabaseUnavailable as fault:
        logger.error("The database %s is unavailable: %s", database, fault)
    else:
        if missing:
            logger.error("The database %s lacks %s", database, ", ".join(missing))
