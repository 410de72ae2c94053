"""``baseplate-serve`` with our metrics exporter instead of Baseplate's::

    python -m galaxy_express.serving.development --bind 127.0.0.1:9090 configs/development.ini

Baseplate's exporter always listens on port 6060 of all addresses, and shares the port with other
servers without an error. If our exporter's port is in use, this server has no metrics.
"""

import atexit
import configparser
import sys
from collections.abc import Callable
from typing import Any

from gevent.monkey import patch_all

if __name__ == "__main__":
    # Before any other import, as in baseplate-serve.
    patch_all()

from baseplate import server
from baseplate.lib.config import ConfigurationError, EndpointConfiguration
from baseplate.server import prometheus
from baseplate.server.monkey import patch_stdlib_queues

from galaxy_express.serving import environment, metrics_exporter
from galaxy_express.settings_checks import check_factory, check_sections
from galaxy_express.storage.errors import in_a_line


def main() -> None:
    """Run the server, as ``baseplate-serve`` does.

    :raises SystemExit: with a one-line message, if the configuration is invalid.
    """
    patch_stdlib_queues()
    prometheus.start_prometheus_exporter = start_exporter
    arguments = server.parse_args(sys.argv[1:])
    server.make_app = _checked(server.make_app, f"app:{arguments.app_name}")
    server.make_server = _checked(server.make_server, f"server:{arguments.server_name}")
    config_path = arguments.config_file.name
    environment.check_names(config_path)
    try:
        check_sections(config_path, is_gunicorn=False)
        server.load_app_and_run_server()
    except (ConfigurationError, configparser.Error) as error:
        sys.exit(in_a_line(error))


def _checked(make: Callable[..., Any], section: str) -> Callable[..., Any]:
    """Wrap a function of Baseplate so that it checks the factory of its section first."""

    def make_checked(config: dict[str, str], *others: Any) -> Any:
        check_factory(f"[{section}] factory", config["factory"], make.__name__)
        return make(config, *others)

    return make_checked


def start_exporter(address: EndpointConfiguration | None = None) -> None:
    """Start our exporter.

    :param address: ignored; the exporter's address depends on that of the service.
    :raises SystemExit: naming the invalid variable.
    """
    from galaxy_express.serving.metrics_files import export_metrics

    service: EndpointConfiguration = server.parse_args(sys.argv[1:]).bind
    try:
        metrics_exporter.listen(metrics_exporter.exporter_address(str(service.address)))
    except ValueError as error:
        sys.exit(str(error))
    except OSError as error:
        print(f"{error}. This server has no metrics.", file=sys.stderr)  # noqa: T201 - logging isn't set up yet
    else:
        metrics_exporter.make_folder()
        atexit.register(metrics_exporter.remove_folder)
    export_metrics()


if __name__ == "__main__":
    main()
