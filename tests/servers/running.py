"""Servers as processes: started as the Makefile does, asked until they live, stopped by id."""

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
from tests.servers.speaking import Answer, Connection, Unanswered

ROOT = Path(__file__).parents[2]
#: The folder of the commands. To be run by the interpreter: their first lines don't work if the
#: path of the environment has a space.
COMMANDS = Path(sys.executable).parent

# Seconds. Generous, for the machine may be busy with other things.
PATIENCE = 60.0


def free_port() -> int:
    """A port of the loopback interface that nobody listens on.

    It is below those that the system gives to outgoing connections, or one of these
    could take it before the server does.
    """
    while True:
        port = random.randrange(10_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def is_listening(port: int) -> bool:
    """Whether somebody accepts connections to a port of the loopback interface."""
    try:
        with socket.create_connection(("127.0.0.1", port)):
            return True
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str, within: float = PATIENCE) -> None:
    """Wait for a condition to hold.

    :param what: what is waited for, for the failure to tell.
    :param within: seconds after which it is a failure.
    """
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, f"not within {within} s: {what}"
        time.sleep(0.02)


class Server:
    """A server process with its workers, in a process group of its own.

    As a context manager it is started and lives when entered, and is gone when left.
    """

    def __init__(self, command: list[str], folder: Path, port: int, env: dict[str, str]) -> None:
        self.port = port
        self.folder = folder
        self._command = command
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
        """Start the process, and don't wait for anything."""
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_alive(self) -> None:
        """Wait until it answers that it lives."""

        def is_alive() -> bool:
            assert self.is_running(), f"the server ended at its start:\n{self.log}"
            return self.is_healthy("liveness")

        wait_until(is_alive, "the server lives")

    def is_healthy(self, probe: str) -> bool:
        """Whether it says that it is, as ``probe`` asks it: liveness or readiness."""
        try:
            return self.request("GET", f"/health?type={probe}").status == 200
        except Unanswered:
            return False

    def is_running(self) -> bool:
        """Whether the process (not any worker) is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id, which is the id of its group, too."""
        assert self._process is not None
        return self._process.pid

    @property
    def workers(self) -> set[int]:
        """The process ids of its workers."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return {int(child) for child in children.split()}

    @property
    def log(self) -> str:
        """All that it has written to standard output and error since it was first started."""
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, and not to its workers."""
        os.kill(self.pid, number)

    def wait(self, within: float = PATIENCE) -> int:
        """Wait for the process to end, and return its exit code."""
        assert self._process is not None
        return self._process.wait(within)

    def terminate(self) -> int:
        """Ask it to end, wait until it has, and return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """End it and its workers at once, whatever they are doing."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def request(self, method: str, path: str, body: object = None) -> Answer:
        """Ask it something, on a connection of its own; see :py:meth:`Connection.request`."""
        with Connection(self.port) as connection:
            return connection.request(method, path, body)


class Installation:
    """A folder that the service is run in, with the configuration that the project ships.

    :param folder: an empty folder.
    :param database: the database that the service is to use.
    """

    def __init__(self, folder: Path, database: Backend) -> None:
        self.folder = folder
        self.database = database
        shutil.copytree(ROOT / "configs", folder / "configs")
        # The exporter's port is always the same, and others may be using it.
        self.configure("metrics.enabled", "false")
        #: The environment variables of servers and commands.
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("GALAXY_EXPRESS_", "PROMETHEUS_"))
        } | {
            "GALAXY_EXPRESS_DATABASE_URL": database.url,
            # There is no load balancer that needs time to notice that a server is to end.
            "GALAXY_EXPRESS_DRAIN_SECONDS": "0",
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore:pkg_resources is deprecated:UserWarning",
            "TMPDIR": str(folder),
        }

    def configure(self, key: str, value: str) -> None:
        """Change a setting wherever it is set, or add it to those of the application."""
        for path in (self.folder / "configs").glob("*.ini"):
            lines = path.read_text().splitlines()
            keys = [line.partition("=")[0].strip() for line in lines]
            if key in keys:
                lines[keys.index(key)] = f"{key} = {value}"
            elif "." in key:  # the others are not the application's
                lines.insert(keys.index("[app:main]") + 1, f"{key} = {value}")
            path.write_text("\n".join(lines))

    def create_schema(self) -> None:
        """Make the tables."""
        create_schema(self.database.config)

    def run(self, command: str, *arguments: str, stdin: str = "") -> str:
        """Run a command to its end, which must be a good one, and return what it printed."""
        return self.run_python(COMMANDS / command, *arguments, stdin=stdin)

    def run_python(self, *arguments: str | Path, stdin: str = "") -> str:
        """Run Python to its end, which must be a good one, and return what it printed."""
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        ).stdout

    def baseplate_serve(self, socket_path: Path | None = None) -> Server:
        """The server of ``make run``, yet to be started.

        :param socket_path: of a Unix socket, for it to listen on in place of a port.
        """
        port = free_port()
        bind = str(socket_path or f"127.0.0.1:{port}")
        module = "galaxy_express.serving.development"
        command = [sys.executable, "-m", module, "--bind", bind, "configs/development.ini"]
        return Server(command, self.folder, port, self.environment)

    def gunicorn(self, *options: str, workers: int = 2) -> Server:
        """The server of ``make serve``, yet to be started.

        :param options: of its command line, in place of what its configuration says.
        """
        return self._gunicorn(
            "gunicorn", "--config", "configs/gunicorn.conf.py", *options, workers=workers
        )

    def command(self, *arguments: str) -> Server:
        """The server of the command ``galaxy-express``, yet to be started."""
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
        """The server ``baseplate-serve`` or ``gunicorn``, yet to be started."""
        return self.gunicorn() if name == "gunicorn" else self.baseplate_serve()
