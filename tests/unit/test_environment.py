"""The environment variables of gunicorn's configuration."""

import re
from pathlib import Path

import pytest

from galaxy_express.serving import environment
from tests.servers.running import free_port

CONFIG = Path(__file__).parents[2] / "configs" / "production.ini"


@pytest.fixture(autouse=True)
def only_valid_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """A free address, and no other variable."""
    monkeypatch.setenv("GALAXY_EXPRESS_BIND", f"127.0.0.1:{free_port()}")
    for name in ("WORKERS", "DRAIN_SECONDS", "METRICS_BIND"):
        monkeypatch.delenv(f"GALAXY_EXPRESS_{name}", raising=False)


@pytest.mark.parametrize(
    ("name", "message", "values"),
    [
        ("WORKERS", "is not a number of processes", ["two", "0", "-1", "1.5", "", "513", "9" * 8]),
        ("DRAIN_SECONDS", "is not a number of seconds", ["5s", "-1", "nan", "inf", ""]),
        ("BIND", "is not an address", ["", "9090", "127.0.0.1", "127.0.0.1:http", "::1:99999"]),
        ("BIND", "this machine doesn't have that address", ["192.0.2.1:9090"]),
        ("BIND", "is not the path of a socket", ["unix:", "unix:/nowhere/socket"]),
        ("METRICS_BIND", "must be a port", ["70000", "metrics"]),
    ],
)
def test_invalid_value(
    monkeypatch: pytest.MonkeyPatch, name: str, message: str, values: list[str]
) -> None:
    """An unusable value is reported in one line, which names the variable."""
    for value in values:
        monkeypatch.setenv(f"GALAXY_EXPRESS_{name}", value)
        with pytest.raises(SystemExit, match=f"^GALAXY_EXPRESS_{name}: .*{message}.*$") as raised:
            environment.check(str(CONFIG))
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "value"), [("WORKERS", "512"), ("DRAIN_SECONDS", "0.5"), ("METRICS_BIND", "6061")]
)
def test_valid_value(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Valid values pass."""
    monkeypatch.setenv(f"GALAXY_EXPRESS_{name}", value)
    environment.check(str(CONFIG))


def test_unknown_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A misspelt name is reported, unless the configuration file or Kubernetes uses it."""
    config = tmp_path / "production.ini"
    config.write_text("desk.max_group = $GALAXY_EXPRESS_GROUP")
    for name in ("GROUP", "SERVICE_HOST", "SERVICE_PORT", "PORT_9090_TCP_ADDR", "WORKRES"):
        monkeypatch.setenv(f"GALAXY_EXPRESS_{name}", "4")
    message = "GALAXY_EXPRESS_WORKRES: no such variable (did you mean GALAXY_EXPRESS_WORKERS?)"
    with pytest.raises(SystemExit, match=f"^{re.escape(message)}$"):
        environment.check(str(config))
