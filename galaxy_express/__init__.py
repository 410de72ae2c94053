"""Galaxy Express: decides, exactly once per package, whether to deliver or drop it.

The modules::

    application     wiring: configuration, Baseplate, and the features below
    web/            HTTP: views, bodies, problems, pages
    desk_client     the desk on the context of a request
    desk            decides and records a group of writes in one transaction
    delivery        the rules of a decision (pure)
    preferences     the rules of a preference update (pure)
    group_commit    many concurrent writes, one transaction, one sync
    shared_lookups  many concurrent lookups, few queries
    package_types   the registered package types
    models          the tables
    storage/        SQLite and PostgreSQL: connections, transactions, statements
    serving/        the gunicorn worker, Baseplate's server, the WSGI entry point
    ops/            commands for operators: the schema, the audit, the shell, a demo
    settings, settings_checks, metrics, metric_series, tracing, worker_thread, deadlines
"""

from typing import TYPE_CHECKING

from galaxy_express.package_types import PACKAGE_TYPES, PackageTypeRegistry

__version__ = "1.1.0"

if TYPE_CHECKING:
    from baseplate.lib.config import RawConfig
    from pyramid.router import Router


def make_wsgi_app(
    app_config: "RawConfig", package_types: PackageTypeRegistry = PACKAGE_TYPES
) -> "Router":
    """Make the WSGI application.

    :param app_config: the ``[app:main]`` section of a configuration file.
    :param package_types: the types of packages that the service accepts.
    :raises galaxy_express.settings.InvalidSettings: naming each invalid setting.
    """
    # Imported late: gunicorn's master imports this package for its worker class, and modules
    # imported before the fork can be neither monkey-patched nor reloaded.
    from galaxy_express.application import make_application

    return make_application(app_config, package_types)
