"""The entry point for gunicorn: what ``baseplate-serve`` does before it makes the app."""

from baseplate.lib.prometheus_metrics import is_metrics_enabled
from baseplate.server import configure_logging, make_app, read_config
from baseplate.server.prometheus import start_prometheus_exporter
from psycogreen.gevent import patch_psycopg
from pyramid.router import Router


def application(config_path: str) -> Router:
    """Make the WSGI application of a configuration file, with logging and metrics set up.

    :param config_path: the path of a file like ``configs/production.ini``.
    """
    with open(config_path, encoding="utf-8") as config_file:
        config = read_config(config_file, server_name=None, app_name="main")
    configure_logging(config, debug=False)
    if is_metrics_enabled(config.app):
        start_prometheus_exporter()
    patch_psycopg()
    app: Router = make_app(config.app)
    return app
