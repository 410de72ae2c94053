"""The command ``galaxy-express health``, which the image's health check runs."""

import signal
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

from tests.servers.running import ROOT, WAIT_SECONDS, Installation, free_port


def probe(installation: Installation, bind: str) -> subprocess.CompletedProcess[str]:
    """Run the command for a service that listens on an address."""
    return subprocess.run(
        [sys.executable, "-m", "galaxy_express.ops.command", "health"],
        cwd=installation.folder,
        env=installation.environment | {"GALAXY_EXPRESS_BIND": bind},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_ready_service(installation: Installation) -> None:
    """The command finds the service on any kind of address, including Unix sockets."""
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
            result = probe(installation, bind)
            assert (result.returncode, result.stdout, result.stderr) == (0, "Ready.\n", "")


def has_ipv6() -> bool:
    """Whether this machine has the loopback address of IPv6, which containers may lack."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


def test_interrupted_probe(installation: Installation) -> None:
    """Ctrl-C ends the command without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "galaxy_express.ops.command", "health"],
            cwd=installation.folder,
            env=installation.environment | {"GALAXY_EXPRESS_BIND": f"127.0.0.1:{port}"},
            stderr=subprocess.PIPE,
            text=True,
            # Background processes ignore SIGINT, and the command would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        connection, _ = silent.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "")


def test_unready_service(installation: Installation) -> None:
    """If the service isn't ready, the command fails with the reason."""
    with installation.gunicorn(workers=1) as server, installation.database.unavailable():
        result = probe(installation, f"127.0.0.1:{server.port}")
        assert result.returncode == 1
        assert result.stderr.startswith("Not ready: {")
        assert "make migratedb" in result.stderr


def test_stopped_service(installation: Installation) -> None:
    """If the service isn't running, the command fails with one line that names the address."""
    for bind in (f"127.0.0.1:{free_port()}", "unix:nothing.sock"):
        result = probe(installation, bind)
        assert result.returncode == 1
        assert result.stderr.startswith(f"No response from {bind}: ")
        assert result.stderr.count("\n") == 1


def test_invalid_address(installation: Installation) -> None:
    """An invalid address is an error that names the variable."""
    result = probe(installation, "9090")
    assert result.returncode == 1
    assert result.stderr.startswith("GALAXY_EXPRESS_BIND: ")


def test_health_check_of_the_image() -> None:
    """The health check of the image runs the module of this command."""
    module = "galaxy_express.serving.health"
    assert f'CMD ["python", "-m", "{module}"]' in Path(ROOT, "Dockerfile").read_text()
