"""The servers of a PostgreSQL database, tried one at a time within a common timeout."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from socket import SOCK_STREAM
from typing import Any, NamedTuple

import gevent
import gevent.socket
import psycopg2
from gevent.monkey import get_original
from psycopg2.extensions import make_dsn

from galaxy_express.storage.postgresql.limited_connection import LimitedConnection, in_event_loop

#: For how many seconds after a search for a writable server a read-only one is accepted without a
#: new search.
SEARCH_INTERVAL = 5.0
# Once a read-only server was found, the share of the connect timeout that may be spent on each
# further server.
_SEARCH_SHARE = 0.2

# gevent's replacements need an event loop, which a worker thread doesn't have.
_getaddrinfo = get_original("socket", "getaddrinfo")
_allocate_lock = get_original("_thread", "allocate_lock")
_start_new_thread = get_original("_thread", "start_new_thread")


class Host(NamedTuple):
    """A host in a URL, as parameters of libpq; an empty value means libpq's default."""

    host: str
    port: str
    hostaddr: str = ""


def split_hosts(parameters: Mapping[str, str]) -> list[Host]:
    """Return the hosts that parameters of libpq name, in order.

    :raises ValueError: if the numbers of hosts, ports and addresses differ.
    """
    values = {name: str(parameters.get(name, "")).split(",") for name in Host._fields}
    number = max(len(values["host"]), len(values["hostaddr"]))
    for name, items in values.items():
        if len(items) == 1 and (name == "port" or not items[0]):
            values[name] = items * number
        elif len(items) != number:
            raise ValueError(f"the URL has {number} hosts, and {len(items)} of {name}")
    return [Host(*items) for items in zip(*values.values(), strict=True)]


class Servers:
    """Connects to a server of a database: preferably to the last one that responded.

    Among several servers, a writable one is preferred.

    :param parameters: parameters of libpq.
    :param limit: how many seconds connecting may take, for all servers together.
    :param prepare: sets up a new connection, and sets ``is_writable``.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        limit: float,
        prepare: Callable[[LimitedConnection], None],
    ) -> None:
        self._parameters = {
            name: value for name, value in parameters.items() if name not in Host._fields
        }
        self._hosts = split_hosts(parameters)
        self._limit = limit
        self._prepare = prepare
        self._last: Host | None = None
        self._searched = -SEARCH_INTERVAL

    def connect(self, to_write: bool) -> LimitedConnection:
        """Open a connection.

        :param to_write: whether to search for a writable server even if a recent search found
            none.
        :raises psycopg2.OperationalError: if no server responded in time.
        """
        may_search = to_write or time.monotonic() - self._searched >= SEARCH_INTERVAL
        fallback: LimitedConnection | None = None
        errors: list[psycopg2.OperationalError] = []
        for address, limit in self._addresses(errors):
            if fallback is not None:
                limit = min(limit, self._limit * _SEARCH_SHARE)
            try:
                connection = self._open(address, limit)
            except psycopg2.OperationalError as error:
                errors.append(error)
                continue
            if connection.is_writable or not may_search:
                if fallback is not None:
                    fallback.close()
                self._last = address
                return connection
            if fallback is None:
                fallback, self._last = connection, address
            else:
                connection.close()
        self._searched = time.monotonic()
        if fallback is not None:
            return fallback
        raise psycopg2.OperationalError("; ".join(map(str, errors)))

    def _open(self, address: Host, limit: float) -> LimitedConnection:
        deadline = time.monotonic() + limit
        target = {name: value for name, value in address._asdict().items() if value}
        if address.host:  # even an empty address keeps libpq from using $PGHOSTADDR
            target["hostaddr"] = address.hostaddr
        connection = LimitedConnection(make_dsn(**(self._parameters | target)), limit)
        try:
            connection.limit = max(0.0, deadline - time.monotonic())
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _addresses(self, errors: list[psycopg2.OperationalError]) -> Iterator[tuple[Host, float]]:
        """Yield the addresses to try, each with its timeout in seconds: an equal share of the
        remaining time.

        :param errors: the list to add the error of a host without addresses to.
        """
        deadline = time.monotonic() + self._limit
        hosts = self._last_first(self._hosts)
        for number, host in enumerate(hosts):
            now = time.monotonic()
            end = now + max(0.0, deadline - now) / (len(hosts) - number)
            try:
                addresses = self._last_first(_resolve(host, end - now))
            except OSError as error:
                errors.append(psycopg2.OperationalError(f"no address of {host.host}: {error}"))
                continue
            for place, address in enumerate(addresses):
                left = max(0.0, end - time.monotonic())
                yield address, left / (len(addresses) - place)

    def _last_first(self, hosts: Sequence[Host]) -> list[Host]:
        """Move the host that responded last to the front."""
        last = self._last
        if last is None:
            return list(hosts)

        def is_other(host: Host) -> bool:
            return host[:2] != last[:2] or host.hostaddr not in ("", last.hostaddr)

        return sorted(hosts, key=is_other)


def _resolve(host: Host, limit: float) -> list[Host]:
    """Look up the addresses of a host, so that each is tried, and libpq doesn't block on DNS.

    :raises OSError: if there are none, or the lookup timed out.
    """
    if host.hostaddr or not host.host or host.host.startswith(("/", "@")) or _is_address(host.host):
        return [host]
    look_up = _look_up_in_loop if in_event_loop() else _look_up_in_thread
    addresses = dict.fromkeys(address[0] for *_, address in look_up(host.host, limit))
    return [host._replace(hostaddr=address) for address in addresses]


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _look_up_in_loop(name: str, limit: float) -> list[Any]:
    with gevent.Timeout(limit, TimeoutError("the name lookup timed out")):
        found: list[Any] = gevent.socket.getaddrinfo(name, None, type=SOCK_STREAM)
        return found


def _look_up_in_thread(name: str, limit: float) -> list[Any]:
    # The system's lookup has no timeout, so it runs in its own thread, which may be abandoned.
    results: list[Any] = []
    done = _allocate_lock()
    done.acquire()

    def look_up() -> None:
        try:
            results.append(_getaddrinfo(name, None, type=SOCK_STREAM))
        except OSError as error:
            results.append(error)
        finally:
            done.release()

    _start_new_thread(look_up, ())
    if not done.acquire(timeout=max(0.0, limit)):
        raise TimeoutError("the name lookup timed out")
    (result,) = results
    if isinstance(result, OSError):
        raise result
    return list(result)
