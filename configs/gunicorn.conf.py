"""gunicorn's settings for production: `gunicorn --config configs/gunicorn.conf.py`."""

import os
import tempfile

wsgi_app = "galaxy_express.wsgi:application('configs/production.ini')"
bind = os.environ.get("GALAXY_EXPRESS_BIND", "0.0.0.0:9090")

# A worker is a process, with one event loop and one thread that commits.
worker_class = "galaxy_express.worker.GalaxyExpressWorker"
workers = int(os.environ.get("GALAXY_EXPRESS_WORKERS", "2"))
# Connections that a worker has open at once; above that, idle ones make room.
worker_connections = 1000
# Seconds that an idle connection is kept open, and that a request's head may take.
keepalive = 75
# Seconds from being told to stop to having stopped, of which the first are for load
# balancers to see that /health?type=readiness says 503, as in Baseplate's drain_time.
graceful_timeout = 30
os.environ.setdefault("GALAXY_EXPRESS_DRAIN_SECONDS", "5")

# Workers tell that they live by touching a file, which must not wait for a disk.
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None
# It would be a file in the home folder, which a user without rights may not have.
control_socket_disable = True
# Standard error; there is no access log, since metrics tell more for less.
errorlog = "-"
accesslog = None

# Prometheus adds up the workers' figures from files in this folder.
if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="galaxy_express_metrics_")
