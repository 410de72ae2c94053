"""The settings of the application, with strict validation.

Settings that are unknown, invalid, out of range or without effect raise an error that names all of
them.
"""

import configparser
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from datetime import timedelta
from difflib import get_close_matches
from importlib import import_module
from typing import TypeVar

from baseplate.lib import config
from baseplate.lib.config import ConfigurationError, RawConfig
from sentry_sdk.utils import BadDsn, Dsn

T = TypeVar("T")

Parser = Callable[[str], object]

# Databases store timeouts as 32-bit numbers of milliseconds.
LONGEST = timedelta(days=24)


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
    if value > LONGEST:
        raise ValueError(f"must be at most {LONGEST.days} days, not {text!r}")
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
    spec = {f"{section}.{name}": parse for name, parse in _parsers(settings).items()}
    _raise_all(_find_wrong(own, spec))
    values = {key: parse(own.get(key, "")) for key, parse in spec.items()}
    return settings(**{key.removeprefix(f"{section}."): value for key, value in values.items()})


def _parsers(settings: type) -> dict[str, Parser]:
    return {
        item.name: item.metadata["parse"]
        if item.default is MISSING
        else config.Optional(item.metadata["parse"], item.default)
        for item in fields(settings)
    }


def _find_wrong(raw_config: RawConfig, spec: Mapping[str, Parser]) -> Iterator[ConfigurationError]:
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


def _raise_all(errors: Iterable[ConfigurationError]) -> None:
    found: dict[str, ConfigurationError] = {}
    for error in errors:
        found.setdefault(error.key, error)  # one error per setting
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


# All settings

_SECTIONS = re.compile(
    r"app:.+|server:.+|t?shell|loggers|handlers|formatters|(logger|handler|formatter)_.+"
)
# Python's logging needs all of them.
_LOGGING = {"loggers", "handlers", "formatters"}


def check_sections(config_path: str, is_gunicorn: bool) -> None:
    """Check that all sections of a configuration file are known, complete and have an effect.

    :param is_gunicorn: whether the server is gunicorn, which ignores the section of the server.
    :raises InvalidSettings: for sections that are unknown, have no factory, or have no effect.
    :raises OSError: if the file can't be read.
    :raises configparser.Error: if it is malformed.
    """
    parser = configparser.RawConfigParser()
    with open(config_path, encoding="utf-8") as config_file:
        try:
            parser.read_file(config_file)
        except UnicodeDecodeError as error:
            raise configparser.Error(f"{config_path} is not UTF-8: {error}") from error
    errors = []
    for section in parser.sections():
        if not _SECTIONS.fullmatch(section):
            errors.append(ConfigurationError(f"[{section}]", "no such section"))
        elif is_gunicorn and section.startswith("server:"):
            errors.append(ConfigurationError(f"[{section}]", "has no effect: use gunicorn.conf.py"))
        elif section.startswith(("app:", "server:")) and not parser.get(
            section, "factory", fallback=""
        ):
            errors.append(ConfigurationError(f"[{section}] factory", "is missing"))
    if present := _LOGGING & set(parser.sections()):
        errors += [
            ConfigurationError(f"[{section}]", f"is missing, but there is [{min(present)}]")
            for section in sorted(_LOGGING - present)
        ]
    _raise_all(errors)


def check_factory(key: str, factory: str, default: str = "") -> None:
    """Check that the factory in a setting can be imported and called.

    :param key: the section and the name of the setting, for errors.
    :param factory: a module and the name of a function, such as ``module:function``.
    :param default: the name of the function, if there is only a module.
    :raises ConfigurationError: if it can't.
    """
    module_name, colon, name = factory.partition(":")
    name = name if colon else default
    if not all(part.isidentifier() for part in [*module_name.split("."), name]):
        raise ConfigurationError(key, f"must be like module:function, not {factory!r}")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # by the module itself
        raise ConfigurationError(key, f"there is no module {error.name}: {factory!r}") from None
    if not callable(getattr(module, name, None)):
        raise ConfigurationError(key, f"{module_name} has no function {name}: {factory!r}")


def check_settings(app_config: RawConfig, parsers: Mapping[str, Parser]) -> None:
    """Check all settings of the application, including Baseplate's.

    :param app_config: the ``[app:main]`` section of a configuration file.
    :param parsers: stricter parsers for some settings; they replace the ones in this module.
    :raises InvalidSettings: if any are invalid.
    """
    by_endpoint = {key: _limit for key in app_config if key.startswith(_BY_ENDPOINT)}
    dsn = os.environ.get("SENTRY_DSN", "")
    _raise_all(
        [
            *_find_wrong(app_config, {**_ours(), **_BASEPLATE, **by_endpoint, **parsers}),
            *_find_ineffective(app_config, "tracing", "tracing.service_name"),
            *_find_wrong({"SENTRY_DSN": dsn}, {"SENTRY_DSN": config.Optional(_sentry_dsn)}),
            *([] if dsn else _find_ineffective(app_config, "sentry", "sentry.dsn")),
        ]
    )


def check_endpoints(app_config: RawConfig, endpoints: Iterable[str]) -> None:
    """Check that the endpoints in ``server_timeout.by_endpoint`` exist.

    :param endpoints: the names of all routes.
    :raises InvalidSettings: for names without a route.
    """
    own = {key: value for key, value in app_config.items() if key.startswith(_BY_ENDPOINT)}
    _raise_all(
        _find_wrong(own, {_BY_ENDPOINT + name: config.Optional(_limit) for name in endpoints})
    )


def _find_ineffective(
    app_config: RawConfig, section: str, needed: str
) -> Iterator[ConfigurationError]:
    if not app_config.get(needed):
        for key in app_config:
            if key.startswith(f"{section}."):
                yield ConfigurationError(key, f"has no effect, since {needed} isn't set")


def check_server_settings(server_config: RawConfig) -> None:
    """Check the settings of Baseplate's server.

    :param server_config: the ``[server:main]`` section of a configuration file.
    :raises InvalidSettings: if any are invalid.
    """
    _raise_all(_find_wrong(server_config, _SERVER))


def _expecting(expected: str, parse: Parser) -> Parser:
    """Return an optional parser of Baseplate, with an error that says what is expected."""

    def parse_expected(text: str) -> object:
        try:
            return parse(text)
        except ValueError:
            raise ValueError(f"must be {expected}, not {text!r}") from None

    return config.Optional(parse_expected)


def _limit(text: str) -> object:
    return config.InfiniteTimespan if text == "infinite" else duration(text)


def _sentry_dsn(text: str) -> str:
    try:
        Dsn(text)
    except (BadDsn, ValueError):
        raise ValueError("must be a DSN of Sentry such as https://key@host/1") from None
    return text


_BY_ENDPOINT = "server_timeout.by_endpoint."


def _ours() -> dict[str, Parser]:
    sections = {
        "database": DatabaseSettings,
        "desk": DeskSettings,
        "http": HttpSettings,
        "preferences": PreferencesSettings,
    }
    return {
        f"{section}.{name}": parse
        for section, settings in sections.items()
        for name, parse in _parsers(settings).items()
    }


_boolean = _expecting("true or false", config.Boolean)

# The settings that Baseplate reads.
_BASEPLATE: dict[str, Parser] = {
    "factory": str,
    "baseplate.service_name": str,
    "metrics.enabled": _boolean,
    "sentry.dsn": config.Optional(_sentry_dsn),
    "sentry.environment": str,
    "sentry.sample_rate": _expecting("a percentage from 0% to 100%", config.Percent),
    "sentry.ignore_errors": config.Optional(config.TupleOf(config.String)),
    "server_timeout.default": config.Optional(_limit),
    "server_timeout.debug": _boolean,
    "tracing.service_name": str,
    "tracing.endpoint": _expecting("a host and a port, or the path of a socket", config.Endpoint),
    "tracing.queue_name": str,
    "tracing.max_span_queue_size": config.Optional(positive_integer),
    "tracing.num_span_workers": config.Optional(positive_integer),
    "tracing.span_batch_interval": config.Optional(duration),
    "tracing.num_conns": config.Optional(positive_integer),
    "tracing.sample_rate": _expecting(
        "a percentage such as 10%", config.Fallback(config.Percent, config.Float)
    ),
}
_SERVER: dict[str, Parser] = {
    "factory": str,
    "stop_timeout": config.Optional(duration),
    "drain_time": config.Optional(duration),
    "monitoring.blocked_hub": config.Optional(duration),
    "monitoring.concurrency": _boolean,
    "monitoring.connection_pool": _boolean,
    "monitoring.gc.stats": _boolean,
    "monitoring.gc.timing": _boolean,
    "monitoring.gc.refcycle": str,
}
