"""Settings of one section of the configuration, read strictly."""

from collections.abc import Callable
from typing import Any

from baseplate.lib import config


def parse_settings(
    app_config: config.RawConfig, section: str, spec: dict[str, Callable[[str], Any]]
) -> config.ConfigNamespace:
    """Parse the keys ``<section>.<name>``.

    :param spec: a parser for each name, as :py:func:`baseplate.lib.config.parse_config`
        takes them.
    :raises baseplate.lib.config.ConfigurationError: naming the key, for a value that is
        missing or wrong, and for a key that doesn't exist (a setting with a typing
        error in its name would otherwise be silently without effect).
    """
    for key in app_config:
        head, _, name = key.partition(".")
        if head == section and name not in spec:
            known = ", ".join(f"{section}.{name}" for name in spec)
            raise config.ConfigurationError(key, f"no such setting (there are: {known})")
    settings: config.ConfigNamespace = config.parse_config(app_config, {section: spec})[section]
    return settings


def positive_integer(text: str) -> int:
    """A whole number of at least one, as a setting.

    :raises ValueError: for anything else.
    """
    value = int(text)
    if value < 1:
        raise ValueError(f"{value} is not a positive number")
    return value
