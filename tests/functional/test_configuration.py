"""An invalid setting is an error at startup that names the setting."""

import re
from configparser import RawConfigParser
from pathlib import Path

import pytest
from baseplate.lib.config import ConfigurationError
from sqlalchemy.engine import make_url

from galaxy_express import make_wsgi_app
from galaxy_express.storage.postgresql.servers import split_hosts
from galaxy_express.storage.url import database_url, describe_postgresql, postgresql_parameters

DATABASE = {"database.url": "sqlite:///galaxy_express.db"}

WRONG_DATABASES = [
    "",
    "galaxy_express.db",
    "mysql://localhost/galaxy",
    "$GALAXY_EXPRESS_DATABSE_URL",
    "sqlite:///$NO_SUCH_FOLDER/galaxy.db",
]
MEMORY_DATABASES = ["sqlite://", "sqlite:///:memory:"]

DURATIONS = [
    "database.lock_timeout",
    "database.statement_timeout",
    "database.connect_timeout",
    "database.idle_timeout",
    "database.connection_age",
    "desk.timeout",
    "server_timeout.default",
    "server_timeout.by_endpoint./health",
]
TEXTS = ["database.application_name", "http.path_prefix", "sentry.environment"]
NUMBERS = ["database.pool_size", "desk.max_group", "desk.max_queued"]


def error_of(key: str, value: str = "x") -> str:
    """Make the application with an invalid setting, and return the error message."""
    with pytest.raises(ConfigurationError) as raised:
        make_wsgi_app(DATABASE | {key: value})
    assert raised.value.key == key
    message = str(raised.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", ["development.ini", "production.ini"])
def test_requests_have_a_timeout(name: str) -> None:
    """The configuration files limit the time of each request."""
    parser = RawConfigParser()
    parser.read(Path(__file__).parents[2] / "configs" / name)
    assert parser["app:main"]["server_timeout.default"] == "15 seconds"


def test_missing_setting() -> None:
    """The database URL has no default."""
    with pytest.raises(ConfigurationError, match=r"^database\.url: is missing$"):
        make_wsgi_app({})


@pytest.mark.parametrize("key", TEXTS)
def test_unset_variable(key: str) -> None:
    """An environment variable that isn't set is an error, even if the setting may be any text."""
    assert "variable $NO_SUCH_VARIABLE is not set" in error_of(key, "/x-$NO_SUCH_VARIABLE")


@pytest.mark.parametrize("url", WRONG_DATABASES + MEMORY_DATABASES)
def test_invalid_database_url(url: str) -> None:
    """A malformed URL, an unsupported database, and an in-memory database are errors."""
    error_of("database.url", url)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:///galaxy.db?timeout=5", "timeout after ? in the URL has no effect"),
        ("sqlite:///file:galaxy.db?mode=ro&uri=true", "mode, uri after ?"),
        ("sqlite://host/galaxy.db", "has no host"),
        ("postgresql://h/g?application_name=x", "use database.application_name"),
        ("postgresql://h/g?connect_timeout=3", "use database.connect_timeout"),
        ("postgresql://h/g?options=-c%20statement_timeout%3D0", "options in the URL has no effect"),
        ("postgresql://h/g?tcp_user_timeout=3", "use database.statement_timeout"),
        ("postgresql://fry@h/g?user=leela", "user is in the URL twice"),
        ("postgresql://h/g?host=i", "host is in the URL twice"),
        ("postgresql://h/g?dbname=i", "dbname is in the URL twice"),
        ("postgresql://h/g?sslmod=require", "no parameter sslmod"),
        ("postgresql://h:port/g", "must be a URL"),
        ("postgresql://a:1,b:port/g", "not a list of hosts"),
        ("postgresql://a,/g", "not a list of hosts"),
        ("postgresql://a%2Cb/g", "has a comma"),
        ("postgresql://a,b%2Cc/g", "has a comma"),
        ("postgresql://a,b/g?host=c", "host is in the URL twice"),
        ("postgresql:///g?host=a,b&port=1,2,3", "2 hosts, and 3 of port"),
        ("postgresql:///g?host=a,b&hostaddr=127.0.0.1,::1,::2", "of host"),
        ("postgresql://h/g?sslmode=require&sslmode=disable", "sslmode is in the URL twice"),
        ("postgresql://h/g?client_encoding=LATIN1", "client_encoding in the URL has no effect"),
        ("postgresql://a,b/g?load_balance_hosts=random", "load_balance_hosts in the URL"),
        ("postgresql://a,b/g?target_session_attrs=prefer-standby", "prefer-standby in the URL"),
        ("postgresql://h/g?sslmode=always", 'invalid sslmode value: "always"'),
        ("postgresql://a,b/g?target_session_attrs=rw", 'invalid target_session_attrs value: "rw"'),
    ],
)
def test_ineffective_url_parameters(url: str, named: str) -> None:
    """Parts of a URL that are invalid, have no effect, or contradict each other, are errors."""
    assert named in error_of("database.url", url)


@pytest.mark.parametrize("password", ["nib@ler", "nib,b@ler", "nib/b@ler", "nib,b/ler", "@nibler"])
@pytest.mark.parametrize("hosts", ["h", "h:5432,i"])
def test_password_that_is_not_encoded(password: str, hosts: str) -> None:
    """No part of a password that isn't percent-encoded is shown, even if the URL is misread."""
    try:
        shown = describe_postgresql(database_url(f"postgresql://leela:{password}@{hosts}/g"))
    except ValueError as error:
        shown = str(error)
    assert not re.search("nib|ler", shown)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////planet/express.db",
        "postgresql://fry:pass@h:5432/g?sslmode=require&keepalives=1",
        "postgresql:///g?host=/run/postgresql",
        "postgresql+psycopg2://?service=planet&passfile=/p",
    ],
)
def test_supported_url_parameters(url: str) -> None:
    """A URL may have the parameters that the database driver supports."""
    assert database_url(url) == make_url(url)


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("postgresql://fry:p@a:1,b:2/g", [("a", "1"), ("b", "2")]),
        ("postgresql+psycopg2://a,[::1]:2/g?sslmode=require", [("a", ""), ("::1", "2")]),
        ("postgresql:///g?host=a,b&port=1,2", [("a", "1"), ("b", "2")]),
        ("postgresql:///g?host=a,b&port=1", [("a", "1"), ("b", "1")]),
        ("postgresql:///g?host=a:1&host=b:2", [("a", "1"), ("b", "2")]),
        ("postgresql://h:5/g", [("h", "5")]),
        ("postgresql://fry:a,b@h:5/g", [("h", "5")]),
        ("postgresql://%2Frun%2Fa/g", [("/run/a", "")]),
        ("postgresql://%2Frun%2Fa:5/g", [("/run/a", "5")]),
        ("postgresql://fry@%2Frun%2Fa,b:2/g", [("/run/a", ""), ("b", "2")]),
        ("postgresql://%2Frun:1,%40abstract:2/g", [("/run", "1"), ("@abstract", "2")]),
        ("postgresql:///g", [("", "")]),
    ],
)
def test_several_hosts(url: str, hosts: list[tuple[str, str]]) -> None:
    """Several hosts are parsed in each form that PostgreSQL and SQLAlchemy support."""
    parameters = postgresql_parameters(database_url(url))
    assert [host[:2] for host in split_hosts(parameters)] == hosts
    assert parameters["database"] == "g"


@pytest.mark.parametrize("variable", ["PGOPTIONS", "PGSERVICE"])
def test_variables_that_would_change_the_connection(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """Environment variables of PostgreSQL that would change more than the URL leaves open are
    errors."""
    monkeypatch.setenv(variable, "-c search_path=elsewhere")
    assert f"the environment variable {variable}" in error_of("database.url", "postgresql://h/g")
    monkeypatch.setenv(variable, "")
    database_url("postgresql://h/g")


def test_service_in_the_url(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service in the URL replaces that of the environment."""
    monkeypatch.setenv("PGSERVICE", "elsewhere")
    database_url("postgresql://?service=planet")


def test_description_of_a_socket() -> None:
    """The folder of a socket is percent-encoded in the description of a database."""
    url = "postgresql://fry@%2Frun%2Fa:5,b/g"
    assert describe_postgresql(database_url(url)) == url


def test_description_has_all_hosts_and_no_password() -> None:
    """The description of a database, as logged, has all its hosts but not its password."""
    described = describe_postgresql(database_url("postgresql://fry:secret@a:1,b/g?sslkey=k"))
    assert described == "postgresql://fry:***@a:1,b/g"


def test_maximum_age_is_at_least_a_second() -> None:
    """A maximum age of connections below a second is an error."""
    assert "at least 1 second" in error_of("database.connection_age", "10 milliseconds")


@pytest.mark.parametrize("key", DURATIONS)
@pytest.mark.parametrize(
    "value", ["soon", "5", "-", "0 seconds", "-5 seconds", "25 days", "9" * 30 + " days", "1 s"]
)
def test_invalid_duration(key: str, value: str) -> None:
    """A duration has a unit, is positive, and within the range of the database."""
    assert repr(value) in error_of(key, value)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "nan"])
def test_invalid_number(key: str, value: str) -> None:
    """A number is an integer of at least one."""
    assert repr(value) in error_of(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics.enabled", "yes"),
        ("server_timeout.debug", "maybe"),
        ("sentry.dsn", "foo"),
        ("sentry.sample_rate", "half"),
        ("sentry.environment", "production"),  # has no effect without a DSN
        ("tracing.sample_rate", "0.5"),  # has no effect without a service name
    ],
)
def test_invalid_setting_of_baseplate(key: str, value: str) -> None:
    """Baseplate's settings are checked like our own."""
    error_of(key, value)


def test_tracing_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing needs a package that the service's requirements omit."""
    monkeypatch.setattr("galaxy_express.settings_checks.find_spec", lambda _: None)
    assert "needs the package posix-ipc" in error_of("tracing.service_name")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("database.lock_timeuot", "database.lock_timeout"),
        ("dekk.timeout", "desk.timeout"),
        ("desk.max_grop", "desk.max_group"),
        ("metrics.enabeld", "metrics.enabled"),
        ("server_timeout.defualt", "server_timeout.default"),
        ("server_timeout.by_endpoint./helth", "server_timeout.by_endpoint./health"),
        ("baseplate.service_nmae", "baseplate.service_name"),
        ("sentry.dns", "sentry.dsn"),
        ("factroy", "factory"),
    ],
)
def test_misspelt_setting(key: str, meant: str) -> None:
    """A setting that doesn't exist is an error that suggests a similar one."""
    assert error_of(key, "5 seconds").endswith(f"no such setting (did you mean {meant}?)")


@pytest.mark.parametrize("key", ["zapp", "zapp.brannigan", "desk", "desk.timeout.long"])
def test_unknown_setting(key: str) -> None:
    """An unknown setting that resembles no known one is an error, too."""
    assert "no such setting" in error_of(key)


def test_invalid_sentry_dsn_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """``$SENTRY_DSN`` is checked like a setting."""
    monkeypatch.setenv("SENTRY_DSN", "foo")
    with pytest.raises(ConfigurationError, match=r"^SENTRY_DSN: must be a DSN"):
        make_wsgi_app(DATABASE)


def test_all_invalid_settings_are_reported_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has one line per invalid setting, of whatever kind."""
    monkeypatch.setenv("SENTRY_DSN", "foo")
    settings = {
        "database.url": "mysql://localhost/galaxy",
        "desk.timeout": "soon",
        "desk.max_grop": "5",
        "metrics.enabled": "yes",
        "tracing.sample_rate": "0.5",
        "tracing.sample_rat": "0.5",
    }
    with pytest.raises(ConfigurationError) as raised:
        make_wsgi_app(settings)
    lines = str(raised.value).splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == sorted([*settings, "SENTRY_DSN"])


def test_all_unknown_endpoints_are_reported_together() -> None:
    """The error has one line per endpoint that doesn't exist."""
    keys = [f"server_timeout.by_endpoint./{name}" for name in ("zapp", "kif")]
    with pytest.raises(ConfigurationError) as raised:
        make_wsgi_app(DATABASE | dict.fromkeys(keys, "1 second"))
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()] == keys
