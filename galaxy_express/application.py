"""Wiring: configuration, Baseplate, and the features of the application."""

import logging
from contextlib import ExitStack

from baseplate import Baseplate
from baseplate.lib.config import RawConfig
from pyramid.config import Configurator
from pyramid.router import Router

from galaxy_express import metrics
from galaxy_express.desk_client import DeskContextFactory
from galaxy_express.models import missing_tables
from galaxy_express.package_types import PackageTypeRegistry
from galaxy_express.settings import HttpSettings, PreferencesSettings, read_section
from galaxy_express.settings_checks import check_endpoints, check_settings
from galaxy_express.storage.connect import database_from_config
from galaxy_express.storage.database import Database, DatabaseContextFactory
from galaxy_express.storage.errors import DatabaseUnavailable
from galaxy_express.storage.url import database_url
from galaxy_express.web.instrumentation import InstrumentedConfigurator
from galaxy_express.web.timeouts import share_timer

logger = logging.getLogger("galaxy_express")


def make_application(app_config: RawConfig, package_types: PackageTypeRegistry) -> Router:
    """Make the WSGI application; :py:func:`close_application` closes what it opens.

    :param app_config: the ``[app:main]`` section of a configuration file.
    :param package_types: the types of packages that the service accepts.
    :raises galaxy_express.settings.InvalidSettings: naming each invalid setting.
    """
    check_settings(app_config, {"database.url": database_url})
    baseplate = Baseplate(app_config)
    baseplate.configure_observers()
    share_timer(baseplate)

    configurator = Configurator(
        settings={
            "package_types": package_types,
            "max_ahead": read_section(app_config, "preferences", PreferencesSettings).max_ahead,
            "path_prefix": read_section(app_config, "http", HttpSettings).path_prefix,
        }
    )
    configurator.include(InstrumentedConfigurator(baseplate).includeme)
    configurator.include("galaxy_express.web")
    configurator.commit()  # so that all routes are known
    routes = configurator.get_routes_mapper().get_routes()
    check_endpoints(app_config, [route.name for route in routes])

    database = database_from_config(app_config, metrics.count_database_timeout)
    desk = DeskContextFactory(app_config, database, package_types)
    baseplate.add_to_context("database", DatabaseContextFactory(database))
    baseplate.add_to_context("desk", desk)
    closing = ExitStack()  # closes in reverse order
    closing.callback(database.close)
    closing.callback(desk.close)
    configurator.registry.settings["close"] = closing.close
    logger.info(
        "Galaxy Express on %s, with package types %s",
        database,
        ", ".join(package_types.names),
        extra={"settings": _without_secrets(app_config, database)},
    )
    _report_schema(database)
    app = configurator.make_wsgi_app()
    app.baseplate = baseplate  # where Baseplate's server looks for it
    return app


def close_application(app: Router) -> None:
    """Stop the application's threads after their current calls, and close its connections."""
    app.registry.settings["close"]()


def _without_secrets(app_config: RawConfig, database: Database) -> dict[str, str]:
    ours = ("database.", "desk.", "http.", "metrics.", "preferences.", "server_timeout.")
    settings = {key: value for key, value in app_config.items() if key.startswith(ours)}
    return settings | {"database.url": str(database)}


def _report_schema(database: Database) -> None:
    try:
        with database.snapshot() as connection:
            missing = missing_tables(connection)
    except DatabaseUnavailable as error:
        logger.error("The database %s is unavailable: %s", database, error)
    else:
        if missing:
            logger.error(
                "The database %s lacks the tables %s; create them with: make migratedb",
                database,
                ", ".join(missing),
            )
