"""gunicorn's settings for production: `gunicorn --config configs/gunicorn.conf.py`."""

import os
import signal
import sys
from contextlib import suppress
from typing import Any

from galaxy_express.serving import environment, gunicorn_settings, metrics_exporter
from galaxy_express.serving.reload_check import reject_invalid_reloads

_SETTINGS = os.path.join(os.path.dirname(__file__), "production.ini")
environment.check(_SETTINGS)
wsgi_app = f"galaxy_express.serving.wsgi:application({_SETTINGS!r})"
bind = environment.bind()

# A worker is a process with one event loop and one commit thread. It has no access log, TLS, proxy
# headers or per-request hooks: gunicorn's settings for them are rejected.
worker_class = "galaxy_express.serving.gunicorn_worker.GalaxyExpressWorker"
workers = environment.workers()
# Connections per worker; fewer if the limit of open files is low. At the limit, the longest idle
# one is closed.
worker_connections = 1000
# How many seconds a connection may be idle, and how many the head of a request may take.
keepalive = 75
# How many seconds a worker may take to stop. For the first $GALAXY_EXPRESS_DRAIN_SECONDS,
# /health?type=readiness is 503, so that load balancers notice.
graceful_timeout = 30

# Workers touch a file to show that they are alive, which must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The control socket would be in the home directory, which the user may not have.
control_socket_disable = True

# gunicorn logs to standard error, like the workers.
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "galaxy_express.serving.logs.StderrHandler"}},
    "root": {"level": "INFO", "handlers": []},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["stderr"], "propagate": False},
    },
}


def on_starting(server: Any) -> None:
    """Check the settings, and listen for Prometheus.

    :raises SystemExit: with a one-line message, for an invalid setting or an unusable address.
    """
    gunicorn_settings.check_names(__file__, globals(), server.cfg)
    if metrics_exporter.is_enabled(_SETTINGS):
        _listen_for_prometheus(server)
    _halt_once(server)
    reject_invalid_reloads(server)


def _halt_once(server: Any) -> None:
    """Let gunicorn stop without a traceback if several workers can't start.

    It stops when it reaps the first one, and would raise an exception for each further one.
    """
    halt = server.halt

    def halt_once(*arguments: Any, **named: Any) -> None:
        server.WORKER_BOOT_ERROR = server.APP_LOAD_ERROR = -1  # no exit code
        halt(*arguments, **named)

    server.halt = halt_once


def _listen_for_prometheus(server: Any) -> None:
    try:
        metrics_exporter.listen(metrics_exporter.exporter_address(server.cfg.bind[0]))
    except (OSError, ValueError) as error:
        if "GUNICORN_PID" not in os.environ:
            sys.exit(str(error))
        # The old master, which this one replaces (SIGUSR2), didn't pass its metrics on.
        server.log.warning("%s. This server has no metrics.", error)
    else:
        metrics_exporter.make_folder()


def pre_exec(server: Any) -> None:
    """Pass the metrics to the new master that replaces this one (SIGUSR2)."""
    server.cfg.env_orig.update(metrics_exporter.hand_over())
    # After `python -m gunicorn`, gunicorn would run its __main__.py as a script. Then its package
    # `http` would shadow the one in the standard library.
    server.START_CTX["args"] = sys.orig_argv


def on_reload(server: Any) -> None:
    """Mark the workers as replaced, so that they don't wait for load balancers."""
    for worker in server.WORKERS.values():
        worker.replace()


def nworkers_changed(server: Any, new_value: int, old_value: int | None) -> None:
    """Mark the surplus workers as replaced (SIGTTOU), as for a reload."""
    by_age = sorted(server.WORKERS.values(), key=lambda worker: worker.age)
    for worker in by_age[: max(0, len(by_age) - new_value)]:  # gunicorn stops the oldest ones
        worker.replace()


def pre_fork(server: Any, worker: Any) -> None:
    """Assign a number to the worker. It continues the metrics files of that number."""
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = next(number for number in range(len(taken) + 1) if number not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Pass the worker's number to Baseplate, and let SIGTERM end the worker during startup."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until the worker sets its own handler
    os.environ["MULTIPROCESS_WORKER_ID"] = metrics_exporter.worker_id(worker.number)


def child_exit(server: Any, worker: Any) -> None:
    """Remove a worker's live gauges from the metrics."""
    from prometheus_client.multiprocess import mark_process_dead

    if metrics_exporter.listener is not None:
        with suppress(OSError):
            worker_id = metrics_exporter.worker_id(worker.number)
            mark_process_dead(worker_id, metrics_exporter.folder())
    worker.deregister()


def on_exit(server: Any) -> None:
    """Remove the metrics folder, unless it was configured or another master uses it."""
    if server.reexec_pid == server.master_pid == 0:
        metrics_exporter.remove_folder()
