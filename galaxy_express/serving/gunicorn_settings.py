"""Checks gunicorn's settings: unknown names, and what our worker doesn't support."""

import os
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from galaxy_express.serving.bind import check_form
from galaxy_express.serving.environment import drain_seconds
from galaxy_express.serving.open_files import RESERVED, allowed_connections

# Settings that our worker would ignore.
_WITHOUT_EFFECT = (
    "access_log_format",
    "accesslog",
    "asgi_disconnect_grace_period",
    "asgi_lifespan",
    "asgi_loop",
    "ca_certs",
    "casefold_http_method",
    "cert_reqs",
    "ciphers",
    "dirty_apps",
    "dirty_graceful_timeout",
    "dirty_post_fork",
    "dirty_threads",
    "dirty_timeout",
    "dirty_worker_exit",
    "dirty_worker_init",
    "dirty_workers",
    "disable_redirect_access_to_syslog",
    "do_handshake_on_connect",
    "dogstatsd_tags",
    "enable_backlog_metric",
    "forwarded_allow_ips",
    "forwarder_headers",
    "header_map",
    "http2_cleartext",
    "http2_initial_window_size",
    "http2_max_concurrent_streams",
    "http2_max_frame_size",
    "http2_max_header_list_size",
    "http_parser",
    "http_protocols",
    "on_dirty_starting",
    "paste",
    "permit_obsolete_folding",
    "permit_unconventional_http_method",
    "permit_unconventional_http_version",
    "post_request",
    "pre_request",
    "protocol",
    "proxy_allow_ips",
    "proxy_protocol",
    "raw_paste_global_conf",
    "root_path",
    "secure_scheme_headers",
    "sendfile",
    "ssl_context",
    "ssl_version",
    "statsd_host",
    "statsd_prefix",
    "strip_header_spaces",
    "suppress_ragged_eofs",
    "threads",
    "tmp_upload_dir",
    "uwsgi_allow_ips",
    "websocket_max_message_size",
)

# Settings that logconfig_dict in configs/gunicorn.conf.py overrides.
_FOR_LOGS = (
    "capture_output",
    "errorlog",
    "logconfig",
    "logconfig_json",
    "loglevel",
    "syslog",
    "syslog_addr",
    "syslog_facility",
    "syslog_prefix",
)

# Settings that only have an effect if another one has a certain value.
_DEPENDENT = {
    "control_socket": ("control_socket_disable", False),
    "control_socket_mode": ("control_socket_disable", False),
    "enable_stdio_inheritance": ("daemon", True),
    "max_requests_jitter": ("max_requests", True),
    "reload_engine": ("reload", True),
    "reload_extra_files": ("reload", True),
}

# The smallest useful values. A limit of 0 means the largest possible one. An id in a path has up to
# 255 characters of four bytes, each of which is encoded as three.
_MINIMA = {
    "workers": (1, "no client would be served"),
    "worker_connections": (1, "no client would be served"),
    "keepalive": (1, "it is also the timeout for a head"),
    "limit_request_line": (4000, "valid requests would be rejected"),
    "limit_request_fields": (32, "valid requests would be rejected"),
    "limit_request_field_size": (1024, "valid requests would be rejected"),
}


def check_names(path: str, names: Mapping[str, Any], cfg: Any) -> None:
    """Check the worker class, the names and the addresses in the configuration.

    gunicorn ignores unknown names, and chooses a port for an address without one.

    :param path: the path of the configuration.
    :param names: its global variables, after it was executed.
    :param cfg: gunicorn's settings.
    :raises SystemExit: with a one-line message.
    """
    # Imported late: the worker imports this module.
    from galaxy_express.serving.gunicorn_worker import GalaxyExpressWorker

    unknown = [
        name
        for name, value in names.items()
        if name.islower() and name[0] != "_" and name not in cfg.settings
        # Imported names aren't settings.
        if not isinstance(value, ModuleType)
        and getattr(value, "__module__", None) in (None, names["__name__"])
    ]
    if unknown:
        sys.exit(f"{path}: gunicorn has no setting {', '.join(unknown)}")
    if not issubclass(cfg.worker_class, GalaxyExpressWorker):
        sys.exit("gunicorn's worker_class isn't supported: it must be GalaxyExpressWorker")
    for address in cfg.bind:
        try:
            if not address.startswith("fd://"):
                check_form(address)
        except ValueError as error:
            sys.exit(f"gunicorn's bind: {error}")


def check(cfg: Any, log: Any) -> None:
    """Check settings for :py:class:`~galaxy_express.serving.gunicorn_worker.GalaxyExpressWorker`.

    The limit of open files is raised if necessary and possible.

    :param cfg: gunicorn's settings.
    :param log: gunicorn's logger.
    :raises SystemExit: with a line for each setting that is invalid or has no effect.
    """
    if errors := list(_find_errors(cfg)):
        sys.exit("\n".join(errors))
    connections = allowed_connections(cfg.worker_connections)
    if connections < 1:
        sys.exit(f"the limit of open files (ulimit -n) must be more than {RESERVED}")
    if connections < cfg.worker_connections:
        log.warning(
            "The limit of open files (ulimit -n) only allows %s connections per worker, not %s",
            connections,
            cfg.worker_connections,
        )


def _find_errors(cfg: Any) -> Iterator[str]:
    yield from _find_ineffective(cfg)
    for name, (minimum, reason) in _MINIMA.items():
        value = getattr(cfg, name)
        if value < minimum and not (value == 0 and name.startswith("limit_")):
            yield f"gunicorn's {name} must be at least {minimum}: {reason}"
    if cfg.preload_app:
        yield (
            "gunicorn's preload_app isn't supported: the commit thread would belong to"
            " the master, and every write would time out"
        )
    if cfg.is_ssl:
        yield "gunicorn's certfile and keyfile aren't supported: the service has no TLS"
    if cfg.worker_tmp_dir and not os.path.isdir(cfg.worker_tmp_dir):
        yield f"gunicorn's worker_tmp_dir isn't a folder: {cfg.worker_tmp_dir}"
    if drain_seconds() > cfg.graceful_timeout - 2:
        yield (
            f"GALAXY_EXPRESS_DRAIN_SECONDS must be at least 2 seconds less than gunicorn's"
            f" graceful_timeout, which is {cfg.graceful_timeout}: requests would be aborted"
        )


def _find_ineffective(cfg: Any) -> Iterator[str]:
    for name in _WITHOUT_EFFECT + (_FOR_LOGS if cfg.logconfig_dict else ()):
        if _is_changed(cfg, name):
            yield f"gunicorn's {name} isn't supported: it would have no effect"
    for name, (other, needed) in _DEPENDENT.items():
        if _is_changed(cfg, name) and bool(getattr(cfg, other)) != needed:
            yield f"gunicorn's {name} has no effect, since {other} is {getattr(cfg, other)}"


def _is_changed(cfg: Any, name: str) -> bool:
    setting = cfg.settings[name]
    return bool(setting.get() != type(setting)().get())
