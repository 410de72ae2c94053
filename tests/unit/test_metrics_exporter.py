"""The address where Prometheus reads metrics."""

import pytest

from galaxy_express.serving.metrics_exporter import exporter_address


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
