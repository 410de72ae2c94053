"""Server processes: start them, wait until they are alive, stop them by process id."""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from galaxy_express.models import create_schema
from tests.backends import Backend
from tests.servers.http_client import Answer, Connection, Unanswered

ROOT = Path(__file__).parents[2]
#: The folder of the commands. Run them with the interpreter: their shebang lines break if the
#: path of the environment has a space.
COMMANDS = Path(sys.executable).parent

# How long tests wait for anything; long, since the machine may be busy.
WAIT_SECONDS = 60.0


def free_port() -> int:
    """Return a free port of the loopback interface.

    It is below the ephemeral range, so no outgoing connection can take it before the
    server does.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def is_listening(port: int, address: str = "127.0.0.1") -> bool:
    """Return whether a port accepts connections."""
    try:
        with socket.create_connection((address, port)):
            return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, within: float = WAIT_SECONDS) -> None:
    """Wait until a condition holds.

    :param what: the condition in words, for the failure message.
    :param within: the timeout in seconds.
    """
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"timed out after {within} s: {what}"
        time.sleep(0.02)


class Server:
    """A server process with its workers, in its own process group.

    As a context manager it is alive on entry and stopped on exit.
    """

    def __init__(self, command: list[str], folder: Path, port: int, env: dict[str, str]) -> None:
        self.port = port
        self.folder = folder
        self.command = command
        self.environment = env
        self._log = folder / f"server-{port}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Server":
        self.start()
        try:
            self.wait_until_alive()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if self.is_running():
                self.terminate()
        finally:
            if self.is_running():
                self.kill()

    def start(self) -> None:
        """Start the process without waiting for it."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_alive(self) -> None:
        """Wait until the server answers a liveness probe."""

        def is_alive() -> bool:
            assert self.is_running(), f"the server exited during startup:\n{self.log}"
            return self.is_healthy("liveness")

        wait_until(is_alive, "the server is alive")

    def is_healthy(self, probe: str) -> bool:
        """Return whether a probe, ``liveness`` or ``readiness``, succeeds."""
        try:
            return self.request("GET", f"/health?type={probe}").status == 200
        except Unanswered:
            return False

    def is_running(self) -> bool:
        """Return whether the main process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id, which is also the process group id."""
        assert self._process is not None
        return self._process.pid

    @property
    def workers(self) -> set[int]:
        """The process ids of the workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return {int(child) for child in children.split()}

    @property
    def log(self) -> str:
        """Everything written to standard output and error since the first start."""
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process only."""
        os.kill(self.pid, number)

    def wait(self, within: float = WAIT_SECONDS) -> int:
        """Wait for the process to exit, and return its exit code."""
        assert self._process is not None
        return self._process.wait(within)

    def terminate(self) -> int:
        """Send SIGTERM, wait for the process to exit, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Kill the process and its workers."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def request(self, method: str, path: str, body: object = None) -> Answer:
        """Send a request on a new connection; see :py:meth:`Connection.request`."""
        with Connection(self.port) as connection:
            return connection.request(method, path, body)


class Installation:
    """A folder to run the service in, with the project's configuration.

    :param folder: an empty folder.
    :param database: the database that the service uses.
    """

    def __init__(self, folder: Path, database: Backend) -> None:
        self.folder = folder
        self.database = database
        shutil.copytree(ROOT / "configs", folder / "configs")
        # The exporter's port is fixed, and may be in use.
        self.configure("metrics.enabled", "false")
        #: The environment variables of servers and commands.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GALAXY_EXPRESS_", "PROMETHEUS_"))
        } | {
            "GALAXY_EXPRESS_DATABASE_URL": database.url,
            # No load balancer needs time to notice a shutdown.
            "GALAXY_EXPRESS_DRAIN_SECONDS": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore:pkg_resources is deprecated:UserWarning",
            "TMPDIR": str(folder),
        }

    def configure(self, key: str, value: str) -> None:
        """Change a setting wherever it is set, or add it to the application's settings."""
        for path in (self.folder / "configs").glob("*.ini"):
            lines = path.read_text().splitlines()
            keys = [line.partition("=")[0].strip() for line in lines]
            if key in keys:
                lines[keys.index(key)] = f"{key} = {value}"
            elif "." in key:  # settings without a dot aren't the application's
                lines.insert(keys.index("[app:main]") + 1, f"{key} = {value}")
            path.write_text("\n".join(lines))

    def create_schema(self) -> None:
        """Create the tables."""
        create_schema(self.database.config)

    def run(self, command: str, *arguments: str, stdin: str = "") -> str:
        """Run a command, which must succeed, and return its output."""
        return self.run_python(COMMANDS / command, *arguments, stdin=stdin)

    def run_python(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run Python, which must succeed, and return its output."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=WAIT_SECONDS,
        ).stdout

    def baseplate_serve(self, socket_path: Path | None = None) -> Server:
        """The server of ``make run``, not started.

        :param socket_path: a Unix socket to listen on instead of a port.
        """
        port = free_port()
        bind = str(socket_path or f"127.0.0.1:{port}")
        module = "galaxy_express.serving.development"
        command = [sys.executable, "-m", module, "--bind", bind, "configs/development.ini"]
        return Server(command, self.folder, port, self.environment)

    def gunicorn(self, *options: str, workers: int = 2) -> Server:
        """The server of ``make serve``, not started.

        :param options: command-line options, which override the configuration.
        """
        return self._gunicorn(
            "gunicorn", "--config", "configs/gunicorn.conf.py", *options, workers=workers
        )

    def command(self, *arguments: str) -> Server:
        """The server of the command ``galaxy-express``, not started."""
        return self._gunicorn("galaxy_express.ops.command", *arguments)

    def _gunicorn(self, module: str, *arguments: str, workers: int = 2) -> Server:
        port = free_port()
        command = [sys.executable, "-m", module, *arguments]
        environment = self.environment | {
            "GALAXY_EXPRESS_BIND": f"127.0.0.1:{port}",
            "GALAXY_EXPRESS_WORKERS": str(workers),
        }
        return Server(command, self.folder, port, environment)

    def server(self, name: str) -> Server:
        """The server ``baseplate-serve``, or ``gunicorn`` with one worker, not started."""
        return self.gunicorn(workers=1) if name == "gunicorn" else self.baseplate_serve()
