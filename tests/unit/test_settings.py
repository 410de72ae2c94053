"""Parsing of settings: errors name the setting."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from baseplate.lib.config import ConfigurationError, String

from galaxy_express.settings import (
    duration,
    long_duration,
    path_prefix,
    positive_integer,
    read_section,
)


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
