"""The servers' entry points: ``make_app`` for both servers, ``application`` for gunicorn."""

import atexit
import configparser
import sys

from baseplate import server
from baseplate.lib.config import ConfigurationError, RawConfig
from gunicorn.errors import AppImportError
from pyramid.router import Router

from galaxy_express import make_wsgi_app
from galaxy_express.serving import logs
from galaxy_express.serving.metrics_files import export_metrics
from galaxy_express.settings_checks import check_factory, check_sections
from galaxy_express.storage.errors import in_a_line


def make_app(app_config: RawConfig) -> Router:
    """Make the WSGI application, or exit with a one-line message.

    The application is closed when the process exits.

    :param app_config: the ``[app:main]`` section of a configuration file.
    :raises SystemExit: with a line for each invalid setting.
    """
    # Imported late, after the storage of metrics was configured.
    from galaxy_express import metrics
    from galaxy_express.application import close_application
    from galaxy_express.web.request_ids import RequestIdFilter

    logs.install(RequestIdFilter(), metrics.count_dropped_log_line)
    try:
        app = make_wsgi_app(app_config)
    except ConfigurationError as error:
        sys.exit(str(error))
    atexit.register(close_application, app)
    return app


def application(config_path: str) -> Router:
    """Make the WSGI application of a configuration file.

    Like ``baseplate-serve``, it first sets up logging and metrics.

    :param config_path: the path of a file like ``configs/production.ini``.
    :raises gunicorn.errors.AppImportError: for an unreadable file, or with a line for each invalid
        setting. It stops gunicorn, which would replace a worker that just exits.
    """
    try:
        return _set_up(config_path)
    except (SystemExit, ConfigurationError) as error:
        raise AppImportError(str(error)) from None
    except (OSError, configparser.Error) as error:
        raise AppImportError(in_a_line(error)) from None


def _set_up(config_path: str) -> Router:
    check_sections(config_path, is_gunicorn=True)
    with open(config_path, encoding="utf-8") as config_file:
        config = server.read_config(config_file, server_name=None, app_name="main")
    server.configure_logging(config, debug=False)
    export_metrics()
    check_factory("[app:main] factory", config.app["factory"], "make_app")
    return server.make_app(config.app)
