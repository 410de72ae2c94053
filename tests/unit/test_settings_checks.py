"""Checks of a configuration: errors name the setting."""

import pytest
from baseplate.lib.config import ConfigurationError

from galaxy_express.settings import InvalidSettings
from galaxy_express.settings_checks import check_factory, check_server_settings, check_settings


@pytest.mark.parametrize(
    "key", ["stop_timeuot", "handler", "max_concurrency", "monitoring.gc", "monitoring.gc.stat"]
)
def test_unknown_server_setting(key: str) -> None:
    """The error names a setting that Baseplate's server doesn't know or that has no effect."""
    with pytest.raises(ConfigurationError) as error:
        check_server_settings({"factory": "x", key: "1 second"})
    assert error.value.key == key


@pytest.mark.parametrize(
    ("key", "value"),
    [("stop_timeout", "0 seconds"), ("drain_time", "5"), ("monitoring.gc.stats", "7")],
)
def test_invalid_server_setting(key: str, value: str) -> None:
    """The error names the setting with an invalid value."""
    with pytest.raises(ConfigurationError) as error:
        check_server_settings({"factory": "x", key: value})
    assert error.value.key == key


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("metrics.enabled", "no", "true or false"),
        ("server_timeout.debug", "1", "true or false"),
        ("sentry.sample_rate", "150%", "a percentage from 0% to 100%"),
        ("tracing.endpoint", "localhost:x", "a host and a port, or the path of a socket"),
        ("tracing.sample_rate", "some", "a percentage such as 10%"),
    ],
)
def test_expected_value(key: str, value: str, expected: str) -> None:
    """The error of one of Baseplate's settings says what is expected."""
    with pytest.raises(InvalidSettings) as raised:
        check_settings({"database.url": "x", key: value}, {})
    assert f"{key}: must be {expected}, not {value!r}" in str(raised.value).splitlines()


MODULES = "galaxy_express.serving"


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("nope.x:y", "there is no module nope: 'nope.x:y'"),
        (f"{MODULES}.nope:make", f"there is no module {MODULES}.nope: '{MODULES}.nope:make'"),
        (f"{MODULES}.logs:nope", f"{MODULES}.logs has no function nope: '{MODULES}.logs:nope'"),
        (f"{MODULES}.bind:errno", f"{MODULES}.bind has no function errno: '{MODULES}.bind:errno'"),
        (f"{MODULES}.bind:", f"must be like module:function, not '{MODULES}.bind:'"),
    ],
)
def test_wrong_factory(factory: str, message: str) -> None:
    """A factory that doesn't exist, or isn't one, is rejected."""
    with pytest.raises(ConfigurationError) as raised:
        check_factory("[app:main] factory", factory)
    assert str(raised.value) == f"[app:main] factory: {message}"


def test_module_as_a_factory() -> None:
    """A module alone stands for its function with the usual name."""
    check_factory("[app:main] factory", f"{MODULES}.wsgi", "make_app")
