"""The application's own settings: their sections, and the parsers of their values."""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from typing import TypeVar

from baseplate.lib import config
from baseplate.lib.config import ConfigurationError, RawConfig

T = TypeVar("T")

#: Parses the value of a setting, or raises a ValueError.
Parser = Callable[[str], object]

# Databases store timeouts as 32-bit numbers of milliseconds.
_MAX_DURATION = timedelta(days=24)


class InvalidSettings(ConfigurationError):
    """Invalid settings. The message has one line per setting.

    :param errors: one error per setting. ``key`` and ``error`` are those of the first.
    """

    def __init__(self, errors: Sequence[ConfigurationError]) -> None:
        super().__init__(errors[0].key, errors[0].error)
        self.errors = errors

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


# Parsers of values


def positive_integer(text: str) -> int:
    """Parse an integer of at least one.

    :raises ValueError: for anything else.
    """
    value = int(text) if re.fullmatch("[0-9]{1,18}", text) else 0
    if value < 1:
        raise ValueError(f"must be a whole number of at least 1, not {text!r}")
    return value


def duration(text: str) -> timedelta:
    """Parse a duration such as "5 seconds" or "200 milliseconds".

    :raises ValueError: if it is malformed, not positive, or longer than 24 days.
    """
    value = long_duration(text)
    if value > _MAX_DURATION:
        raise ValueError(f"must be at most {_MAX_DURATION.days} days, not {text!r}")
    return value


def long_duration(text: str) -> timedelta:
    """Parse a duration of any length, such as "365 days". It can't be used as a timeout.

    :raises ValueError: if it is malformed or not positive.
    """
    try:
        value = config.Timespan(text)
    except (ValueError, OverflowError):
        raise ValueError(
            f"must be a length of time such as 5 seconds or 200 milliseconds, not {text!r}"
        ) from None
    if value <= timedelta(0):
        raise ValueError(f"must be more than zero, not {text!r}")
    return value


def seconds_or_more(text: str) -> timedelta:
    """Parse a duration of at least one second, such as "1 minute".

    :raises ValueError: for anything else.
    """
    value = duration(text)
    if value < timedelta(seconds=1):
        raise ValueError(f"must be at least 1 second, not {text!r}")
    return value


def path_prefix(text: str) -> str:
    """Parse the prefix of a URL path, such as "/express", without a slash at the end.

    :raises ValueError: for anything else.
    """
    if not re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)+", text):
        raise ValueError(f"must be a path such as /express, without a / at its end, not {text!r}")
    return text


# Sections


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """``database.*``: the location of the database, timeouts, and limits."""

    url: str = field(metadata={"parse": config.String})
    lock_timeout: timedelta = field(default=timedelta(seconds=5), metadata={"parse": duration})
    statement_timeout: timedelta = field(default=timedelta(seconds=5), metadata={"parse": duration})
    connect_timeout: timedelta = field(default=timedelta(seconds=5), metadata={"parse": duration})
    idle_timeout: timedelta = field(default=timedelta(seconds=5), metadata={"parse": duration})
    connection_age: timedelta = field(
        default=timedelta(minutes=1), metadata={"parse": seconds_or_more}
    )
    pool_size: int = field(default=10, metadata={"parse": positive_integer})
    application_name: str = field(default="galaxy_express", metadata={"parse": config.String})


@dataclass(frozen=True, kw_only=True)
class DeskSettings:
    """``desk.*``: the limits of the queue of writes."""

    max_group: int = field(default=1000, metadata={"parse": positive_integer})
    max_queued: int = field(default=10_000, metadata={"parse": positive_integer})
    timeout: timedelta = field(default=timedelta(seconds=10), metadata={"parse": duration})


@dataclass(frozen=True, kw_only=True)
class PreferencesSettings:
    """``preferences.*``: limits for preference updates."""

    max_ahead: timedelta | None = field(default=None, metadata={"parse": long_duration})


@dataclass(frozen=True, kw_only=True)
class HttpSettings:
    """``http.*``: the public URL of the service."""

    path_prefix: str = field(default="", metadata={"parse": path_prefix})


def read_section(app_config: RawConfig, section: str, settings: type[T]) -> T:
    """Read the settings ``<section>.<name>``.

    :param settings: a dataclass; the metadata of each field contains its parser.
    :raises InvalidSettings: for missing or invalid values, and for unknown names.
    """
    own = {key: value for key, value in app_config.items() if key.partition(".")[0] == section}
    spec = {f"{section}.{name}": parse for name, parse in section_parsers(settings).items()}
    raise_all(find_wrong(own, spec))
    values = {key: parse(own.get(key, "")) for key, parse in spec.items()}
    return settings(**{key.removeprefix(f"{section}."): value for key, value in values.items()})


def section_parsers(settings: type) -> dict[str, Parser]:
    """Return the parsers of a section by the name of the setting.

    :param settings: a dataclass, as for :py:func:`read_section`.
    """
    return {
        item.name: item.metadata["parse"]
        if item.default is MISSING
        else config.Optional(item.metadata["parse"], item.default)
        for item in fields(settings)
    }


def find_wrong(raw_config: RawConfig, spec: Mapping[str, Parser]) -> Iterator[ConfigurationError]:
    """Find the settings that are unknown, missing or invalid.

    :param spec: the parsers of all known settings.
    """
    for key in raw_config:
        if key not in spec:
            yield _unknown_setting(key, spec)
    for key, parse in spec.items():
        value = raw_config.get(key, "")
        try:
            _check_variables(value)
            parse(value)
        except ValueError as error:
            yield ConfigurationError(key, str(error) if key in raw_config else "is missing")


def _check_variables(value: str) -> None:
    """Check that all environment variables in a setting are set.

    Baseplate has already replaced variables that are set. Their values may contain dollar signs,
    for example in a password.

    :raises ValueError: naming a variable that isn't set.
    """
    for variable in re.findall(r"\$(?:\w+|\{[^}]*\})", value, re.ASCII):
        if not any(variable in given and given in value for given in os.environ.values()):
            raise ValueError(f"the environment variable {variable} is not set")


def raise_all(errors: Iterable[ConfigurationError]) -> None:
    """Raise all errors together, if there are any.

    :raises InvalidSettings: naming each setting once.
    """
    found: dict[str, ConfigurationError] = {}
    for error in errors:
        found.setdefault(error.key, error)
    if found:
        raise InvalidSettings(list(found.values()))


def _unknown_setting(key: str, known: Iterable[str]) -> ConfigurationError:
    known = list(known)
    similar = get_close_matches(key, known, n=1)
    section = [name for name in known if name.partition(".")[0] == key.partition(".")[0]]
    if similar:
        return ConfigurationError(key, f"no such setting (did you mean {similar[0]}?)")
    if section:
        return ConfigurationError(key, f"no such setting (there are: {', '.join(section)})")
    return ConfigurationError(key, "no such setting")
