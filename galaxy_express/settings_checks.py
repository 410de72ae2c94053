"""Checks of whole configurations: every section and setting is known, valid, and has an effect."""

import configparser
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec

from baseplate.lib import config
from baseplate.lib.config import ConfigurationError, RawConfig
from sentry_sdk.utils import BadDsn, Dsn

from galaxy_express.settings import (
    DatabaseSettings,
    DeskSettings,
    HttpSettings,
    Parser,
    PreferencesSettings,
    duration,
    find_wrong,
    positive_integer,
    raise_all,
    section_parsers,
)

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
    raise_all(errors)


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
    :param parsers: stricter parsers for some settings; they replace the usual ones.
    :raises InvalidSettings: if any are invalid.
    """
    by_endpoint = {key: _limit for key in app_config if key.startswith(_BY_ENDPOINT)}
    dsn = os.environ.get("SENTRY_DSN", "")
    raise_all(
        [
            *find_wrong(app_config, {**_ours(), **_BASEPLATE, **by_endpoint, **parsers}),
            *_find_ineffective(app_config, "tracing", "tracing.service_name"),
            *_find_untraceable(app_config),
            *find_wrong({"SENTRY_DSN": dsn}, {"SENTRY_DSN": config.Optional(_sentry_dsn)}),
            *([] if dsn else _find_ineffective(app_config, "sentry", "sentry.dsn")),
        ]
    )


def check_endpoints(app_config: RawConfig, endpoints: Iterable[str]) -> None:
    """Check that the endpoints in ``server_timeout.by_endpoint`` exist.

    :param endpoints: the names of all routes.
    :raises InvalidSettings: for names without a route.
    """
    own = {key: value for key, value in app_config.items() if key.startswith(_BY_ENDPOINT)}
    raise_all(find_wrong(own, {_BY_ENDPOINT + name: config.Optional(_limit) for name in endpoints}))


def _find_ineffective(
    app_config: RawConfig, section: str, needed: str
) -> Iterator[ConfigurationError]:
    if not app_config.get(needed):
        for key in app_config:
            if key.startswith(f"{section}."):
                yield ConfigurationError(key, f"has no effect, since {needed} isn't set")


def _find_untraceable(app_config: RawConfig) -> Iterator[ConfigurationError]:
    # requirements.txt omits it, since it may need a compiler.
    if app_config.get("tracing.service_name") and find_spec("posix_ipc") is None:
        yield ConfigurationError("tracing.service_name", "needs the package posix-ipc: install it")


def check_server_settings(server_config: RawConfig) -> None:
    """Check the settings of Baseplate's server.

    :param server_config: the ``[server:main]`` section of a configuration file.
    :raises InvalidSettings: if any are invalid.
    """
    raise_all(find_wrong(server_config, _SERVER))


def _expecting(expected: str, parse: Parser) -> Parser:
    """Return a parser of an optional setting whose error says what is expected.

    :param parse: one of Baseplate's parsers.
    """

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
        for name, parse in section_parsers(settings).items()
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
