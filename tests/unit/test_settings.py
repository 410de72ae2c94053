"""Parsing of settings: errors name the setting."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from baseplate.lib.config import ConfigurationError, String

from galaxy_express.settings import (
    InvalidSettings,
    duration,
    long_duration,
    path_prefix,
    positive_integer,
    read_section,
)
from galaxy_express.settings_checks import check_factory, check_server_settings, check_settings


@dataclass(frozen=True)
class Settings:
    """A section of settings."""

    name: str = field(metadata={"parse": String})
    wait: timedelta = field(default=timedelta(seconds=1), metadata={"parse": duration})


def test_settings_are_read() -> None:
    """Values are parsed, and optional ones have a default."""
    settings = read_section({"desk.name": "bender", "other.name": "fry"}, "desk", Settings)
    assert settings == Settings("bender", timedelta(seconds=1))


@pytest.mark.parametrize(
    ("app_config", "key"),
    [
        ({}, "desk.name"),
        ({"desk.name": "bender", "desk.wait": "soon"}, "desk.wait"),
        ({"desk.name": "bender", "desk.wiat": "1 second"}, "desk.wiat"),
        ({"desk.name": "bender", "desk.wait.long": "1 second"}, "desk.wait.long"),
        ({"desk.name": "bender", "desk": "x"}, "desk"),
    ],
)
def test_error_names_its_setting(app_config: dict[str, str], key: str) -> None:
    """The error names a missing or invalid value, or an unknown key."""
    with pytest.raises(ConfigurationError) as error:
        read_section(app_config, "desk", Settings)
    assert error.value.key == key


@pytest.mark.parametrize("text", ["$NOPE", "a/$NOPE/b", "a ${NOPE} b"])
def test_unset_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting with an environment variable that isn't set is an error, anywhere in the value."""
    monkeypatch.delenv("NOPE", raising=False)
    with pytest.raises(ConfigurationError, match=r"^desk\.name: the environment variable .*NOPE"):
        read_section({"desk.name": text}, "desk", Settings)


@pytest.mark.parametrize("text", ["pa$word", "a $ b", "5$", "$(a)"])
def test_dollar_sign(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dollar sign in the value of an environment variable is used unchanged."""
    monkeypatch.setenv("PASSWORD", "pa$word")
    assert read_section({"desk.name": text}, "desk", Settings).name == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 millisecond", timedelta(milliseconds=1)),
        ("90 seconds", timedelta(seconds=90)),
        ("24 days", timedelta(days=24)),
    ],
)
def test_duration(text: str, value: timedelta) -> None:
    """Durations up to 24 days are valid."""
    assert duration(text) == value


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


@pytest.mark.parametrize("text", ["/express", "/planet/express", "/a.b", "/~zap", "/..."])
def test_path_prefix(text: str) -> None:
    """A path is used unchanged."""
    assert path_prefix(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "express",
        "/express/",
        "//express",
        "/a//b",
        "/a b",
        "/a?b",
        "/a#b",
        "/a%2Fb",
        "/é",
        "http://a/b",
        "/..",
        "/a/../b",
        "/.",
        "/a\n",
    ],
)
def test_invalid_path_prefix(text: str) -> None:
    """Relative paths, URLs, and paths with a trailing slash are rejected."""
    with pytest.raises(ValueError, match="path such as /express"):
        path_prefix(text)


def test_long_duration() -> None:
    """A duration that nothing waits for may be as long as a timedelta can express."""
    assert long_duration("3650 days") == timedelta(days=3650)
    for text in ("0 days", "-1 days", "soon", ""):
        with pytest.raises(ValueError, match="must be"):
            long_duration(text)


def test_positive_integer() -> None:
    """Integers of at least one are valid."""
    assert positive_integer("1") == 1


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "many", "+5", " 5", "1_000", "٣", "9" * 19])
def test_invalid_positive_integers(text: str) -> None:
    """Anything but digits is rejected, and so are zero and huge numbers."""
    with pytest.raises(ValueError, match=r"."):
        positive_integer(text)


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
