"""The command ``galaxy-express health``, which the image's health check runs."""

import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

from tests.servers.running import ROOT, Installation, free_port


def ask(installation: Installation, bind: str) -> subprocess.CompletedProcess[str]:
    """Ask the service that listens on an address whether it is ready."""
    return subprocess.run(
        [sys.executable, "-m", "galaxy_express.ops.command", "health"],
        cwd=installation.folder,
        env=installation.environment | {"GALAXY_EXPRESS_BIND": bind},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_service_that_is_ready(installation: Installation) -> None:
    """The service is asked where it listens: on any address, and on a Unix socket."""
    path = installation.folder / "galaxy.sock"
    port = free_port()
    listening = {
        f"127.0.0.1:{port}": [f"127.0.0.1:{port}", f"0.0.0.0:{port}", f":{port}"],
        f"unix:{path}": [f"unix:{path}", f"unix://{path}"],
    }
    if has_ipv6():
        listening[f"[::1]:{port}"] = [f"[::1]:{port}", f"[::]:{port}"]
    options = [option for bind in listening for option in ("--bind", bind)]
    server = installation.gunicorn(*options, workers=1)
    server.port = port
    with server:
        for bind in chain.from_iterable(listening.values()):
            asked = ask(installation, bind)
            assert (asked.returncode, asked.stdout, asked.stderr) == (0, "Ready.\n", "")


def has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6, which containers may lack."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_a_service_that_is_not_ready(installation: Installation) -> None:
    """The reason of the service is passed on."""
    with installation.gunicorn(workers=1) as server, installation.database.unavailable():
        asked = ask(installation, f"127.0.0.1:{server.port}")
        assert asked.returncode == 1
        assert asked.stderr.startswith("Not ready: {")
        assert "make migratedb" in asked.stderr


def test_a_service_that_does_not_run(installation: Installation) -> None:
    """Where nobody listens, the error is one line that names the address."""
    for bind in (f"127.0.0.1:{free_port()}", "unix:nothing.sock"):
        asked = ask(installation, bind)
        assert asked.returncode == 1
        assert asked.stderr.startswith(f"No answer from {bind}: ")
        assert asked.stderr.count("\n") == 1


def test_a_wrong_address(installation: Installation) -> None:
    """What is no address is an error that names the variable."""
    asked = ask(installation, "9090")
    assert asked.returncode == 1
    assert asked.stderr.startswith("GALAXY_EXPRESS_BIND: ")


def test_the_image_asks_with_it() -> None:
    """The health check of the image is this command, by the name of its module."""
    module = "galaxy_express.serving.health"
    assert f'CMD ["python", "-m", "{module}"]' in Path(ROOT, "Dockerfile").read_text()
