"""A network of Linux namespaces, whose machines can be cut off.

All traffic stays inside of the namespaces. They vanish with the processes in them, and no interface
of the machine that runs the tests is touched.
"""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
# Python 3.12 and later have these functions in the module os.
_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
#: All addresses of a network, from a range for documentation, which no real network uses.
ADDRESSES = "192.0.2.0/24"
_ADDRESS = "192.0.2.{number}"


class Machine:
    """A place for processes, with an address of its own.

    :param address: its IPv4 address.
    :param namespace: the file descriptor of its network namespace; ``None`` for the machine that
        runs the tests.
    """

    def __init__(self, address: str, namespace: int | None = None) -> None:
        self.address = address
        self._namespace = namespace

    @contextmanager
    def entered(self) -> Iterator[None]:
        """In the block this thread is on the machine, and so are the threads and processes that it
        starts."""
        if self._namespace is None:
            yield
            return
        with _returning():
            _check(_LIBC.setns(self._namespace, _CLONE_NEWNET))
            yield


#: The machine that runs the tests, which is reached through its loopback interface.
LOCALHOST = Machine("127.0.0.1")


class Network:
    """Machines around a router. Other networks can't be reached.

    :param stack: removes the network when it is closed.
    :raises OSError: if this user may not make namespaces.
    :raises subprocess.CalledProcessError: if the kernel lacks something.
    :ivar router: a machine that is never cut off, and reaches all others.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._interfaces: dict[Machine, str] = {}  # the router's
        self.router = self._make_machine(1)
        with self.router.entered():
            _run("ip link set lo up")
            _control("ip_forward", 1)

    def add_machine(self) -> Machine:
        """Connect a new machine to the router."""
        number = len(self._interfaces) + 2
        machine = self._make_machine(number)
        self._interfaces[machine] = interface = f"machine{number}"
        with self.router.entered():
            router = f"/proc/{os.getpid()}/fd/{_namespace(self._stack)}"
        with machine.entered():
            _run(f"ip link add eth0 type veth peer name {interface} netns {router}")
            _connect("eth0", machine, self.router)
            _run("ip link set lo up")
            _run(f"ip route add default via {self.router.address}")
        with self.router.entered():
            _connect(interface, self.router, machine)
        return machine

    def _make_machine(self, number: int) -> Machine:
        with _returning():
            _check(_LIBC.unshare(_CLONE_NEWNET))
            return Machine(_ADDRESS.format(number=number), _namespace(self._stack))

    def cut(self, machine: Machine) -> None:
        """Drop all packets from and to a machine."""
        with self.router.entered():
            _run(f"tc qdisc replace dev {self._interfaces[machine]} root blackhole")
        with machine.entered():
            _run("tc qdisc replace dev eth0 root blackhole")

    def cut_from_peers(self, machine: Machine) -> None:
        """Drop all packets from a machine to all but the router."""
        with self.router.entered():
            _control(f"conf/{self._interfaces[machine]}/forwarding", 0)

    def mend(self, machine: Machine) -> None:
        """Undo the cuts."""
        with self.router.entered():
            _run(f"tc qdisc replace dev {self._interfaces[machine]} root noqueue")
            _control(f"conf/{self._interfaces[machine]}/forwarding", 1)
        with machine.entered():
            _run("tc qdisc replace dev eth0 root noqueue")


def find_obstacle() -> str | None:
    """Return why this process can't make a network, or ``None`` if it can."""
    try:
        with ExitStack() as stack:
            network = Network(stack)
            machine = network.add_machine()
            network.cut(machine)
            network.mend(machine)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"network namespaces can't be made (Linux, root, Debian's iproute2): {error}"
    return None


@contextmanager
def _returning() -> Iterator[None]:
    """After the block this thread is where it was before."""
    with ExitStack() as stack:
        before = _namespace(stack)
        try:
            yield
        finally:
            _check(_LIBC.setns(before, _CLONE_NEWNET))


def _namespace(stack: ExitStack) -> int:
    """Open the network namespace of this thread."""
    namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    stack.callback(os.close, namespace)
    return namespace


def _connect(interface: str, machine: Machine, other: Machine) -> None:
    _run(f"ip address add {machine.address} peer {other.address} dev {interface}")
    _run(f"ip link set {interface} up")


def _control(name: str, value: int) -> None:
    Path(f"/proc/sys/net/ipv4/{name}").write_text(str(value))


def _run(command: str) -> None:
    subprocess.run(
        command.split(),
        env={"PATH": _PATH},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
