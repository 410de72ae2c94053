"""Three PostgreSQL servers that Patroni looks after, with etcd and HAProxy.

The nodes and etcd are machines on a network where this can be made; otherwise everything is on the
loopback interface. The configurations are those of ``docs/high-availability``.
"""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from string import Template
from typing import Any, cast

import psycopg2

from tests.backends import PostgreSQLBackend
from tests.conftest import skip_or_fail
from tests.servers.network import ADDRESSES, LOCALHOST, Machine, Network, find_obstacle
from tests.servers.postgresql import find_binaries, hand_over, unprivileged_user
from tests.servers.running import ROOT, WAIT_SECONDS, free_port, is_listening, wait_until

TEMPLATES = ROOT / "docs" / "high-availability"

# Seconds that a leader may be silent. Short, for short tests; Patroni 3.1 and later raise it to 20.
_TTL = 8
_PASSWORD = "secret"  # noqa: S105 - of servers that only this machine reaches
_PROGRAMS = {"patroni": "patroni", "etcd": "etcd-server", "haproxy": "haproxy"}  # Debian's packages
_PATH = f"{os.environ['PATH']}:/usr/sbin"
# Patroni runs on the system's Python, which must only find its own packages.
_ENVIRONMENT = {"PATH": _PATH, "LANG": "C.UTF-8"}


class Node:
    """A PostgreSQL server and the Patroni that looks after it.

    :param name: its name in the cluster.
    :param folder: an empty folder, owned by the user that runs the server.
    :param machine: where they run.
    :param network: the network of the machine, if it can be cut off.
    """

    def __init__(self, name: str, folder: Path, machine: Machine, network: Network | None) -> None:
        self.name = name
        self.folder = folder
        self.machine = machine
        self._network = network
        self.port = free_port()
        self.api_port = free_port()
        self._patroni: subprocess.Popen[bytes] | None = None
        self._frozen: set[int] = set()

    @property
    def log(self) -> str:
        """What Patroni and PostgreSQL have written."""
        return (self.folder / "log").read_text(errors="replace")

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL."""
        with self.machine.entered():
            self._patroni = _start("patroni", self.folder / "patroni.yml", folder=self.folder)

    def is_primary(self) -> bool:
        """Return whether Patroni says that it is the primary."""
        try:
            return self.request("GET", "/primary")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def takes_writes(self) -> bool:
        """Return whether PostgreSQL is the primary. Patroni says so a moment before: as soon as it
        has the lock of the leader, it promotes."""
        try:
            return self.database.rows("SELECT pg_is_in_recovery()") == [(False,)]
        except psycopg2.OperationalError:
            return False

    def started_at(self) -> datetime | None:
        """Return when PostgreSQL was started, or ``None`` if it doesn't accept connections."""
        try:
            ((moment,),) = self.database.rows("SELECT pg_postmaster_start_time()")
        except psycopg2.OperationalError:
            return None
        return cast(datetime, moment)

    @property
    def address(self) -> str:
        """PostgreSQL's address with its port."""
        return f"{self.machine.address}:{self.port}"

    @property
    def api_address(self) -> str:
        """The address of Patroni's REST API with its port."""
        return f"{self.machine.address}:{self.api_port}"

    @property
    def database(self) -> PostgreSQLBackend:
        """The database on this node."""
        return PostgreSQLBackend(_url(self.address), "postgres")

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        """Send a request to Patroni, and return the status and the body of the answer."""
        timeout = 1.0 if method == "GET" else WAIT_SECONDS
        connection = http.client.HTTPConnection(self.api_address, timeout=timeout)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def switch_over(self) -> None:
        """Let a standby take the place of this primary, and wait until it has."""
        status, body = self.request("POST", "/switchover", {"leader": self.name})
        assert status == 200, body

    def restart_database(self) -> None:
        """Let Patroni restart PostgreSQL, and wait until it has."""
        status, body = self.request("POST", "/restart", {})
        assert status == 200, body

    def crash_database(self) -> None:
        """Kill PostgreSQL, which Patroni starts again."""
        assert self._postmaster is not None
        os.kill(self._postmaster, signal.SIGKILL)

    def cut_off(self) -> None:
        """Drop all packets from and to its machine."""
        self._own_network.cut(self.machine)

    def cut_off_from_peers(self) -> None:
        """Drop all packets between its machine and those of the other nodes and etcd."""
        self._own_network.cut_from_peers(self.machine)

    def reconnect(self) -> None:
        """Let all packets through again."""
        self._own_network.mend(self.machine)

    @property
    def _own_network(self) -> Network:
        assert self._network is not None
        return self._network

    def freeze(self) -> None:
        """Stop all processes, as if the machine were frozen. Connections stay open."""
        # Parents first, so that there are no new children afterwards.
        self._freeze(self._patroni_pid)
        self._freeze(self._postmaster)

    def _freeze(self, pid: int | None) -> None:
        if pid is not None and _signal(pid, signal.SIGSTOP):
            self._frozen.add(pid)
            for child in _children(pid):
                self._freeze(child)

    def thaw(self) -> None:
        """Resume the frozen processes."""
        for pid in self._frozen:
            _signal(pid, signal.SIGCONT)
        self._frozen.clear()

    def kill(self) -> None:
        """Kill all processes, frozen ones too."""
        self.freeze()
        for pid in self._frozen:
            _signal(pid, signal.SIGKILL)
        self._frozen.clear()
        if self._patroni is not None:
            self._patroni.wait(WAIT_SECONDS)

    def restart(self) -> None:
        """Kill all processes, and start again."""
        self.kill()
        self.start()

    @property
    def _patroni_pid(self) -> int | None:
        return self._patroni.pid if self._patroni and self._patroni.poll() is None else None

    @property
    def _postmaster(self) -> int | None:
        data = self.folder / "data"
        try:
            pid = int((data / "postmaster.pid").read_text().split("\n")[0])
            # The file stays behind after a kill.
            return pid if Path(f"/proc/{pid}/cwd").samefile(data) else None
        except (OSError, ValueError):  # it isn't there yet, or no longer
            return None


class Etcd:
    """The only etcd of a cluster.

    :param folder: an empty folder, owned by the user that runs it.
    :param machine: where it runs.
    """

    def __init__(self, folder: Path, machine: Machine) -> None:
        self._folder = folder
        self._machine = machine
        self._port, self._peer_port = free_port(), free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Its address with its port."""
        return f"{self._machine.address}:{self._port}"

    def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        peers = f"http://127.0.0.1:{self._peer_port}"
        options = {
            "name": "etcd",
            "data-dir": self._folder / "data",
            "listen-client-urls": f"http://{self.address}",
            "advertise-client-urls": f"http://{self.address}",
            "listen-peer-urls": peers,
            "initial-advertise-peer-urls": peers,
            "initial-cluster": f"etcd={peers}",
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        with self._machine.entered():
            self._process = _start("etcd", *arguments, folder=self._folder)
        wait_until(lambda: is_listening(self._port, self._machine.address), "etcd listens")

    def kill(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(WAIT_SECONDS)


class Patroni:
    """A cluster of three nodes.

    :ivar port: HAProxy's, which leads to the primary.
    :ivar obstacle: why the nodes can't be cut off, if they can't.
    """

    def __init__(self, nodes: list[Node], etcd: Etcd, port: int, obstacle: str | None) -> None:
        self.nodes = nodes
        self.etcd = etcd
        self.port = port
        self.obstacle = obstacle

    @property
    def ttl(self) -> int:
        """For how many seconds a leader may be silent."""
        return max(_TTL, 20) if patroni_version() >= (3, 1) else _TTL

    @property
    def url(self) -> str:
        """The URL that names every node."""
        return _url(*(node.address for node in self.nodes))

    @property
    def proxied_url(self) -> str:
        """The URL of the primary through HAProxy."""
        return _url(f"127.0.0.1:{self.port}")

    @property
    def primary(self) -> Node:
        """The node that is the primary, after waiting for one."""
        return self.wait_for_primary(self.nodes)

    @property
    def database(self) -> PostgreSQLBackend:
        """The database, on the server that is the primary now."""
        return self.primary.database

    def wait_for_primary(self, nodes: list[Node]) -> Node:
        """Wait until one of these nodes says that it is the primary."""
        found: list[Node] = []

        def is_there() -> bool:
            found.extend(node for node in nodes if node.is_primary())
            return bool(found)

        wait_until(is_there, "there is a primary")
        return found[0]

    def wait_until_complete(self) -> None:
        """Wait until all nodes run, and one of them is a synchronous standby."""

        def is_complete() -> bool:
            try:
                _, body = self.primary.request("GET", "/cluster")
            except (OSError, http.client.HTTPException):
                return False
            members: list[dict[str, Any]] = json.loads(body)["members"]
            roles = sorted(member["role"] for member in members)
            states = {member["state"] for member in members}
            return roles == ["leader", "replica", "sync_standby"] and states <= _RUNNING

        wait_until(is_complete, "the cluster is complete", within=2 * WAIT_SECONDS)


_RUNNING = {"running", "streaming"}


def _url(*addresses: str) -> str:
    return f"postgresql://postgres:{_PASSWORD}@{','.join(addresses)}/postgres"


def patroni_version() -> tuple[int, ...]:
    """Return the version of Patroni, which is empty if it isn't installed."""
    command = _find("patroni")
    if command is None:
        return ()
    run = subprocess.run(
        [command, "--version"], env=_ENVIRONMENT, check=True, stdout=subprocess.PIPE, text=True
    )
    return tuple(int(part) for part in re.findall(r"\d+", run.stdout))


@contextmanager
def patroni_cluster() -> Iterator[Patroni]:
    """A cluster that is complete. It is killed and removed at the end.

    In the block, this thread is on the router of the cluster's network, if there is one.
    """
    binaries = find_binaries()
    missing = [package for name, package in _PROGRAMS.items() if _find(name) is None]
    if binaries is None:
        missing.append("postgresql")
    if missing:
        skip_or_fail(f"not installed (as Debian calls them): {', '.join(missing)}")
    assert binaries is not None
    obstacle = find_obstacle()
    with ExitStack() as stack:
        network = None if obstacle else Network(stack)
        if network is not None:
            stack.enter_context(network.router.entered())

        def make_machine() -> Machine:
            return network.add_machine() if network else LOCALHOST

        # Not in pytest's folder, which other users can't enter.
        temporary = tempfile.TemporaryDirectory(prefix="galaxy_express_patroni_")
        folder = Path(stack.enter_context(temporary))
        hand_over(folder)
        etcd = Etcd(_make_folder(folder / "etcd"), make_machine())
        stack.callback(etcd.kill)
        etcd.start()
        nodes = [Node(name, _make_folder(folder / name), make_machine(), network) for name in "abc"]
        for node in nodes:
            _configure(node, etcd, binaries, ADDRESSES if network else "127.0.0.1/32")
            stack.callback(node.kill)
            node.start()
        port = stack.enter_context(_haproxy(_make_folder(folder / "haproxy"), nodes))
        cluster = Patroni(nodes, etcd, port, obstacle)
        try:
            cluster.wait_until_complete()
        except AssertionError:
            print(*(node.log for node in nodes), sep="\n")
            raise
        yield cluster


def _configure(node: Node, etcd: Etcd, binaries: Path, clients: str) -> None:
    _fill_in(
        "patroni.yml",
        node.folder,
        name=node.name,
        etcd=etcd.address,
        api=node.api_address,
        address=node.address,
        network=clients,
        binaries=str(binaries),
        folder=str(node.folder),
        password=_PASSWORD,
        ttl=str(_TTL),
        watchdog='"off"',
    )


@contextmanager
def _haproxy(folder: Path, nodes: list[Node]) -> Iterator[int]:
    port = free_port()
    values = {"address": f"127.0.0.1:{port}"}
    for node in nodes:
        values |= {
            node.name: node.address,
            f"{node.name}_api_host": node.machine.address,
            f"{node.name}_api_port": str(node.api_port),
        }
    configuration = _fill_in("haproxy.cfg", folder, **values)
    process = _start("haproxy", "-db", "-f", configuration, folder=folder)
    try:
        wait_until(lambda: is_listening(port), "HAProxy listens")
        yield port
    finally:
        process.kill()
        process.wait(WAIT_SECONDS)


def _fill_in(name: str, folder: Path, /, **values: str) -> Path:
    path = folder / name
    path.write_text(Template((TEMPLATES / name).read_text()).substitute(values))
    return path


def _start(program: str, *arguments: str | Path, folder: Path) -> subprocess.Popen[bytes]:
    command = _find(program)
    assert command is not None
    with open(folder / "log", "ab") as log:
        return subprocess.Popen(
            [command, *arguments],
            cwd=folder,
            env=_ENVIRONMENT,
            user=unprivileged_user(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _find(program: str) -> str | None:
    return shutil.which(program, path=_PATH)


def _make_folder(folder: Path) -> Path:
    folder.mkdir()
    hand_over(folder)
    return folder


def _signal(pid: int, number: signal.Signals) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _children(pid: int) -> list[int]:
    children = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children += [int(child) for child in path.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            continue
    return children
