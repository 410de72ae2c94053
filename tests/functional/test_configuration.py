"""A setting that is wrong stops the start, and is named."""

import pytest
from baseplate.lib.config import ConfigurationError
from sqlalchemy.engine import make_url

from galaxy_express import make_wsgi_app
from galaxy_express.storage.servers import split_hosts
from galaxy_express.storage.url import database_url, describe_postgresql, postgresql_parameters

DATABASE = {"database.url": "sqlite:///galaxy_express.db"}

WRONG_DATABASES = [
    "",
    "galaxy_express.db",
    "mysql://localhost/galaxy",
    "$GALAXY_EXPRESS_DATABASE_URL",
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
NUMBERS = ["database.pool_size", "desk.max_group", "desk.max_queued"]


def wrong(key: str, value: str = "x") -> str:
    """Make the application with a setting that is wrong, and return what is said of it."""
    with pytest.raises(ConfigurationError) as raised:
        make_wsgi_app(DATABASE | {key: value})
    assert raised.value.key == key
    message = str(raised.value)
    assert "\n" not in message
    return message


def test_a_missing_setting_is_named() -> None:
    """There is no default for where everything is stored."""
    with pytest.raises(ConfigurationError, match=r"^database\.url: is missing$"):
        make_wsgi_app({})


@pytest.mark.parametrize("url", WRONG_DATABASES + MEMORY_DATABASES)
def test_a_wrong_database_is_named(url: str) -> None:
    """What is no URL, of no database that is supported, or in memory, stops the start."""
    wrong("database.url", url)


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
        ("postgresql://h:port/g", "not a URL"),
        ("postgresql://a:1,b:port/g", "no list of hosts"),
        ("postgresql://a,/g", "no list of hosts"),
        ("postgresql://a,b/g?host=c", "host is in the URL twice"),
        ("postgresql:///g?host=a,b&port=1,2,3", "2 hosts, and 3 of port"),
        ("postgresql:///g?host=a,b&hostaddr=127.0.0.1,::1,::2", "of host"),
        ("postgresql://h/g?sslmode=require&sslmode=disable", "sslmode is in the URL twice"),
        ("postgresql://h/g?client_encoding=LATIN1", "client_encoding in the URL has no effect"),
        ("postgresql://a,b/g?load_balance_hosts=random", "load_balance_hosts in the URL"),
        ("postgresql://a,b/g?target_session_attrs=prefer-standby", "prefer-standby in the URL"),
    ],
)
def test_what_a_database_would_ignore_is_named(url: str, named: str) -> None:
    """What a URL says without effect, or against itself, stops the start."""
    assert named in wrong("database.url", url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////planet/express.db",
        "postgresql://fry:pass@h:5432/g?sslmode=require&keepalives=1",
        "postgresql:///g?host=/run/postgresql",
        "postgresql+psycopg2://?service=planet&passfile=/p",
    ],
)
def test_what_a_database_takes_is_accepted(url: str) -> None:
    """A URL may say what the driver of the database understands."""
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
        ("postgresql:///g", [("", "")]),
    ],
)
def test_several_hosts(url: str, hosts: list[tuple[str, str]]) -> None:
    """The hosts of a database are read in each form that PostgreSQL and SQLAlchemy know."""
    parameters = postgresql_parameters(database_url(url))
    assert [host[:2] for host in split_hosts(parameters)] == hosts
    assert parameters["database"] == "g"


def test_hosts_are_named_without_the_password() -> None:
    """The log names all hosts of a database, and no secret."""
    described = describe_postgresql(database_url("postgresql://fry:secret@a:1,b/g?sslkey=k"))
    assert described == "postgresql://fry:***@a:1,b/g"


def test_an_age_is_at_least_a_second() -> None:
    """A connection can't be older than it may become when it is made."""
    assert "at least 1 second" in wrong("database.connection_age", "10 milliseconds")


@pytest.mark.parametrize("key", DURATIONS)
@pytest.mark.parametrize(
    "value", ["soon", "5", "-", "0 seconds", "-5 seconds", "25 days", "9" * 30 + " days", "1 s"]
)
def test_a_wrong_duration_is_named(key: str, value: str) -> None:
    """A duration has a unit, is more than zero, and no longer than a database can count."""
    assert repr(value) in wrong(key, value)


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", ["0", "-1", "1.5", "many", "nan"])
def test_a_wrong_number_is_named(key: str, value: str) -> None:
    """A number is whole, and at least one."""
    assert repr(value) in wrong(key, value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("metrics.enabled", "yes"),
        ("server_timeout.debug", "maybe"),
        ("sentry.dsn", "foo"),
        ("sentry.sample_rate", "half"),
        ("sentry.environment", "production"),  # without a DSN it has no effect
        ("tracing.sample_rate", "0.5"),  # nor has this without a name of the service
    ],
)
def test_a_wrong_setting_of_baseplate_is_named(key: str, value: str) -> None:
    """What Baseplate reads is checked like our own settings."""
    wrong(key, value)


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
def test_a_misspelt_setting_is_named(key: str, meant: str) -> None:
    """A setting that doesn't exist stops the start, with what may be meant."""
    assert wrong(key, "5 seconds").endswith(f"no such setting (did you mean {meant}?)")


@pytest.mark.parametrize("key", ["zapp", "zapp.brannigan", "desk", "desk.timeout.long"])
def test_an_unknown_setting_is_named(key: str) -> None:
    """What resembles nothing stops the start, too."""
    assert "no such setting" in wrong(key)


def test_a_wrong_sentry_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """``$SENTRY_DSN`` is checked like a setting."""
    monkeypatch.setenv("SENTRY_DSN", "foo")
    with pytest.raises(ConfigurationError, match=r"^SENTRY_DSN: must be a DSN"):
        make_wsgi_app(DATABASE)


def test_all_wrong_settings_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each setting that is wrong has a line of its own, whatever is wrong with it."""
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


def test_all_wrong_endpoints_are_named_at_once() -> None:
    """Endpoints that don't exist are named together, too."""
    keys = [f"server_timeout.by_endpoint./{name}" for name in ("zapp", "kif")]
    with pytest.raises(ConfigurationError) as raised:
        make_wsgi_app(DATABASE | dict.fromkeys(keys, "1 second"))
    assert [line.partition(":")[0] for line in str(raised.value).splitlines()] == keys
