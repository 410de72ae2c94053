"""Galaxy Express: decides, exactly once per package, whether to deliver or drop it.

The map::

    application     wiring: configuration, Baseplate, and the features below
    web/            where a request enters: views, schemas, problems, pages
    desk_client     the desk as a request reaches it
    desk            where a group of writes is decided and recorded, in one transaction
    delivery        the rules of a decision (pure)
    preferences     the rules of a preference update (pure)
    group_commit    many concurrent writes, one transaction, one sync
    package_types   the types of package that there are
    models          where everything is stored: the tables
    storage/        SQLite and PostgreSQL: connections, transactions, statements
    serving/        the gunicorn worker, Baseplate's server, the WSGI entry point
    ops/            what operators run: the schema, the audit, the shell, a demo
    settings, metrics, worker_thread
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
    :param package_types: the types of package that there are.
    :raises galaxy_express.settings.WrongSettings: naming the settings that are wrong.
    """
    # Imported late: gunicorn's master imports this package for its worker class, and modules
    # imported before the fork can be neither monkey-patched nor reloaded.
    from galaxy_express.application import make_application

    return make_application(app_config, package_types)
