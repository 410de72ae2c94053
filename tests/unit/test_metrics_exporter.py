"""The address where Prometheus reads metrics."""

import re

import pytest

from galaxy_express.serving.metrics_exporter import exporter_address, listen


@pytest.mark.parametrize(
    ("service", "given", "address"),
    [
        ("127.0.0.1:9090", "", ("127.0.0.1", 6060)),
        ("[::]:9090", "", ("::", 6060)),
        ("[::1]:9090", "", ("::1", 6060)),
        ("127.0.0.1:9090", "7070", ("127.0.0.1", 7070)),
        ("0.0.0.0:9090", "127.0.0.1:7070", ("127.0.0.1", 7070)),
        ("0.0.0.0:9090", "[::1]:7070", ("::1", 7070)),
        ("unix:/run/galaxy.sock", "", ("127.0.0.1", 6060)),
        ("/run/galaxy.sock", "7070", ("127.0.0.1", 7070)),
    ],
)
def test_exporter_address(service: str, given: str, address: tuple[str, int]) -> None:
    """By default the host is that of the service, and the port 6060."""
    environ = {"GALAXY_EXPRESS_METRICS_BIND": given}
    assert exporter_address(service, environ) == address


@pytest.mark.parametrize("given", ["x", "0", "65536", "-1", "6060x", "host:", "127.0.0.1", "²"])
def test_invalid_address(given: str) -> None:
    """A value without a port is rejected, and the error names the variable."""
    with pytest.raises(ValueError, match=r"^GALAXY_EXPRESS_METRICS_BIND: must be a port"):
        exporter_address("127.0.0.1:9090", {"GALAXY_EXPRESS_METRICS_BIND": given})


@pytest.mark.parametrize("given", ["::1", "::1:6060", "::", "[::1]"])
def test_ipv6_address_without_brackets_or_port(given: str) -> None:
    """The error about an IPv6 address without brackets or a port says that it needs both."""
    with pytest.raises(ValueError, match=r"^GALAXY_EXPRESS_METRICS_BIND: an IPv6 .* brackets"):
        exporter_address("127.0.0.1:9090", {"GALAXY_EXPRESS_METRICS_BIND": given})


@pytest.mark.parametrize(
    ("service", "given"),
    [
        ("127.0.0.1:6060", ""),
        ("127.0.0.1:06060", "6060"),
        ("127.0.0.1:9090", "9090"),
        ("127.0.0.1:9090", "0.0.0.0:9090"),
        ("0.0.0.0:9090", "127.0.0.1:9090"),
        ("[::]:9090", "[::1]:9090"),
        (":9090", "9090"),
    ],
)
def test_port_of_the_service(service: str, given: str) -> None:
    """The port of the service is rejected, and the error names the variable."""
    with pytest.raises(ValueError, match=r"^GALAXY_EXPRESS_METRICS_BIND: the service itself"):
        exporter_address(service, {"GALAXY_EXPRESS_METRICS_BIND": given})


def test_same_port_of_another_address() -> None:
    """Metrics and the service may have the same port on different addresses."""
    environ = {"GALAXY_EXPRESS_METRICS_BIND": "127.0.0.2:9090"}
    assert exporter_address("127.0.0.1:9090", environ) == ("127.0.0.2", 9090)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "::g", "*"])
def test_unknown_host(host: str) -> None:
    """A host that isn't known is reported with the reason."""
    with pytest.raises(OSError, match=rf"^Metrics .* of {re.escape(host)} \(") as raised:
        listen((host, 6060))
    assert "Unknown error" not in str(raised.value)
