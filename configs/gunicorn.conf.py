"""gunicorn's settings for production: `gunicorn --config configs/gunicorn.conf.py`."""

import os
import signal
import sys
from contextlib import suppress
from types import ModuleType
from typing import Any

from galaxy_express.serving import environment, metrics_exporter

_SETTINGS = os.path.join(os.path.dirname(__file__), "production.ini")
environment.check()
wsgi_app = f"galaxy_express.serving.wsgi:application({_SETTINGS!r})"
bind = environment.bind()

# A worker is a process with one event loop and one commit thread. It ignores gunicorn's settings
# for access logs, TLS and proxies, and its hooks for each request.
worker_class = "galaxy_express.serving.gunicorn_worker.GalaxyExpressWorker"
workers = environment.workers()
# Connections per worker. At the limit, the longest idle one is closed.
worker_connections = 1000
# Seconds that a connection may be idle, and that the head of a request may take.
keepalive = 75
# Seconds that a worker may take to stop. In the first of them, $GALAXY_EXPRESS_DRAIN_SECONDS,
# /health?type=readiness is 503, so that load balancers notice.
graceful_timeout = 30

# Workers show that they are alive by touching a file, which must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# The control socket would be in the home folder, which the user may not have.
control_socket_disable = True

# gunicorn's own lines go to standard error, like those of the workers.
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
    """Reject settings that don't exist, which gunicorn would ignore; listen for Prometheus.

    :raises SystemExit: in one sentence, if that can't be done.
    """
    unknown = [
        name
        for name, value in globals().items()
        if name.islower() and name[0] != "_" and name not in server.cfg.settings
        # Not what is imported.
        if not isinstance(value, ModuleType) and getattr(value, "__module__", __name__) == __name__
    ]
    if unknown:
        sys.exit(f"{__file__}: gunicorn has no setting {', '.join(unknown)}")
    if metrics_exporter.is_enabled(_SETTINGS):
        _listen_for_prometheus(server)


def _listen_for_prometheus(server: Any) -> None:
    try:
        metrics_exporter.listen(metrics_exporter.exporter_address(server.cfg.bind[0]))
    except (OSError, ValueError) as error:
        if "GUNICORN_PID" not in os.environ:
            sys.exit(str(error))
        # The master that this one takes over from (SIGUSR2) didn't hand its metrics over.
        server.log.warning("%s. This server goes without metrics.", error)
    else:
        metrics_exporter.make_folder()


def pre_exec(server: Any) -> None:
    """Let the master that takes over from this one (SIGUSR2) go on with its metrics."""
    server.cfg.env_orig.update(metrics_exporter.hand_over())
    # gunicorn would run its own __main__.py after `python -m gunicorn`, and import its package
    # `http` instead of Python's, which is in another folder.
    server.START_CTX["args"] = sys.orig_argv


def on_reload(server: Any) -> None:
    """Tell the workers that they are replaced, and needn't wait for load balancers."""
    for worker in server.WORKERS.values():
        worker.replace()


def pre_fork(server: Any, worker: Any) -> None:
    """Number the worker. It goes on with the files of the last one of that number."""
    taken = {other.number for other in server.WORKERS.values()}
    worker.number = next(number for number in range(len(taken) + 1) if number not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Tell Baseplate the worker's number, and let the worker be ended while it starts."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # the master's, until it sets its own
    os.environ["MULTIPROCESS_WORKER_ID"] = metrics_exporter.worker_id(worker.number)


def child_exit(server: Any, worker: Any) -> None:
    """Remove what a worker was doing at the moment from the metrics."""
    from prometheus_client.multiprocess import mark_process_dead

    if metrics_exporter.listener is not None:
        with suppress(OSError):
            worker_id = metrics_exporter.worker_id(worker.number)
            mark_process_dead(worker_id, metrics_exporter.folder())
    worker.deregister()


def on_exit(server: Any) -> None:
    """Remove the folder of the metrics, unless it was given, or another master uses it."""
    if server.reexec_pid == server.master_pid == 0:
        metrics_exporter.remove_folder()
