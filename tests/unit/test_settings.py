"""Settings: whatever is wrong is named."""

from datetime import timedelta

import pytest
from baseplate.lib.config import ConfigurationError, Optional, String, Timespan

from galaxy_express.settings import parse_settings, positive_integer

SPEC = {"name": String, "wait": Optional(Timespan, timedelta(seconds=1))}


def test_settings_are_read() -> None:
    """A value is parsed, and one that is optional has its default."""
    settings = parse_settings({"desk.name": "bender", "other.name": "fry"}, "desk", SPEC)
    assert settings == {"name": "bender", "wait": timedelta(seconds=1)}


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
def test_a_fault_names_its_setting(app_config: dict[str, str], key: str) -> None:
    """A value that is missing or wrong, and a key that doesn't exist, are named."""
    with pytest.raises(ConfigurationError) as fault:
        parse_settings(app_config, "desk", SPEC)
    assert fault.value.key == key


def test_an_unknown_setting_is_answered_with_those_that_there_are() -> None:
    """A typing error in a name is found at a glance."""
    with pytest.raises(ConfigurationError, match=r"there are: desk\.name, desk\.wait"):
        parse_settings({"desk.name": "bender", "desk.nmae": "x"}, "desk", SPEC)


def test_a_positive_integer() -> None:
    """A whole number of at least one is read as it stands."""
    assert positive_integer("1") == 1


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "", "many"])
def test_other_numbers_are_not_positive_integers(text: str) -> None:
    """Zero, negative numbers, fractions and words are refused."""
    with pytest.raises(ValueError, match=r"."):
        positive_integer(text)
