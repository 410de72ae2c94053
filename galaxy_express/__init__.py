"""Galaxy Express: decides, exactly once for each package, to deliver it or to drop it.

The map of the house::

    application     how all of this is put together
    views           where a request enters: read, call, answer
      schemas       bodies in and out: strict parsing, typed dictionaries
      problems      errors as answers
      responses     answers in JSON
    desk            where it is decided and recorded, in one transaction
      group_commit  many requests, one transaction
      checkpoints   what SQLite would do in the midst of a commit, done beside it
      delivery      the decision, pure
      preferences   which update is in force, pure
      records       statements: tables from and to the values of the domain
    models          where it is stored
    database        transactions; dialects, what differs between databases
    turnstile       who reads next, where only so many can; threads, beside the event loop
    package_types   what there is to send
    pages           what a person may look at, described in api_description
    metrics         what is counted; request_ids, what makes a request findable
    settings        configuration, read strictly; shell, the same for a person
    audit, demo     whether what is stored is right; something to look at
    server          how it is served: by baseplate-serve, or by gunicorn (wsgi, worker)
"""

from typing import TYPE_CHECKING

from galaxy_express.package_types import PACKAGE_TYPES, PackageTypeRegistry

if TYPE_CHECKING:
    from baseplate.lib.config import RawConfig
    from pyramid.router import Router


def make_wsgi_app(
    app_config: "RawConfig", package_types: PackageTypeRegistry = PACKAGE_TYPES
) -> "Router":
    """Make the WSGI application.

    :param app_config: the ``[app:main]`` section of a configuration file.
    :param package_types: the types of package that there are.
    :raises baseplate.lib.config.ConfigurationError: naming the setting that is wrong.
    """
    # Imported only now: gunicorn's master imports this package for its worker's class,
    # and what the master has imported, workers can neither patch for gevent nor load anew.
    from galaxy_express.application import make_application

    return make_application(app_config, package_types)
