"""Addresses to listen on."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from galaxy_express.serving.bind import check_address, check_form, parse_address


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:9090", "127.0.0.1", 9090),
        ("localhost:1", "localhost", 1),
        ("[::1]:65535", "::1", 65535),
        (":9090", "", 9090),
    ],
)
def test_address_has_a_host_and_a_port(address: str, host: str, port: int) -> None:
    """Hosts are names, IPv4 addresses, IPv6 addresses in brackets, or empty."""
    assert parse_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        "9090",
        "localhost",
        "localhost:",
        "localhost:http",
        "::1:9090",
        "[::1]",
        "a:0",
        "a:65536",
        "*:9090",
    ],
)
def test_malformed_address_is_rejected(address: str) -> None:
    """An address without exactly one host and one port is rejected, and the error names it."""
    with pytest.raises(ValueError, match=rf"^{re.escape(repr(address))} is not an address"):
        parse_address(address)


def test_free_port_can_be_used() -> None:
    """A free port passes the check, and stays free."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    check_address(address)
    check_address(address)


@pytest.mark.parametrize("shared", [False, True])
def test_port_in_use_is_rejected(shared: bool) -> None:
    """A port in use is rejected, even if the other program allows sharing it."""
    with socket.socket() as server:
        if shared:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        with pytest.raises(ValueError, match=r"another program is listening there"):
            check_address(f"127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize("address", ["192.0.2.1:9090", "no-such-host.invalid:9090"])
def test_address_of_another_machine_is_rejected(address: str) -> None:
    """An address that isn't of this machine is rejected, and the error names it."""
    with pytest.raises(ValueError, match=rf"^Can't listen on {address}: "):
        check_address(address)


def test_impossible_host_is_rejected() -> None:
    """A host whose name is malformed is rejected, and the error names it."""
    with pytest.raises(ValueError, match=r"^Can't listen on a\.\.b:9090: 'a\.\.b' is not a host"):
        check_address("a..b:9090")


def test_unix_socket(tmp_path: Path) -> None:
    """The path of a Unix socket must be free, or that of a socket, which gunicorn replaces."""
    path = tmp_path / "socket"
    check_address(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        check_address(f"unix:{path}")
    path.unlink()
    path.write_text("kept")
    for taken in (path, tmp_path, tmp_path / "no" / "socket", ""):
        with pytest.raises(ValueError, match="is not the path of a socket in an existing folder"):
            check_address(f"unix:{taken}")


def test_path_that_is_too_long_for_a_socket(tmp_path: Path) -> None:
    """A path that is too long for a Unix socket is rejected, also if its characters are fewer."""
    for name in ("x" * (107 - len(f"{tmp_path}/")), "socket"):
        check_form(f"unix:{tmp_path}/{name}")
    for path in ("x" * 108, "é" * 54):
        with pytest.raises(ValueError, match=r"is too long: .* at most 107 bytes"):
            check_form(f"unix:{path}")


def test_folder_where_no_socket_can_be_created() -> None:
    """If no socket can be created in a folder, its path is rejected with the reason."""
    with pytest.raises(ValueError, match=r"^Can't listen on unix:/proc/x: no file .* in /proc \("):
        check_address("unix:/proc/x")


def test_check_as_a_program() -> None:
    """Run as a program, the check prints the error on one line."""
    command = [sys.executable, "-m", "galaxy_express.serving.bind", "nowhere"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr.startswith("'nowhere' is not an address to listen on: ")
    assert run.stderr.count("\n") == 1
