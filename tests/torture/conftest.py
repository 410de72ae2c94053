"""Options, seeded randomness and the report of the attacks."""

import random
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import count
from pathlib import Path

import pytest

from tests.backends import SQLiteBackend
from tests.servers.running import Installation
from tests.torture.amount import LONG, SHORT, Amount

# So that its assertions show the compared values.
pytest.register_assert_rewrite("tests.servers.load")

#: Adds a line to the report: the attack, its amount, and its result.
Report = Callable[[str, str, str], None]

_LINES = pytest.StashKey[list[tuple[str, str, str]]]()
_SEED = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of ``make torture``."""
    group = parser.getgroup("torture", "tests/torture: attacks on the running service")
    group.addoption(
        "--torture", action="store_true", help="attack for about half an hour, and print a report"
    )
    group.addoption("--seed", type=int, help="the seed of all random choices")
    for field in fields(Amount):
        long, short = getattr(LONG, field.name), getattr(SHORT, field.name)
        group.addoption(
            _option(field.name), type=field.type, help=f"{long:g} with --torture, {short:g} without"
        )


def _option(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def pytest_configure(config: pytest.Config) -> None:
    """Start the report."""
    given = config.getoption("--seed")
    config.stash[_SEED] = random.SystemRandom().getrandbits(32) if given is None else given
    config.stash[_LINES] = []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the soak test unless its duration is given, and tests without a short form."""
    options = {"soak": "--soak-minutes", "long": "--torture"}
    unwanted = [marker for marker, option in options.items() if not config.getoption(option)]
    left_out = [item for item in items if any(map(item.get_closest_marker, unwanted))]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the report as a Markdown table."""
    if not config.getoption("--torture"):
        return
    terminalreporter.section(f"torture, --seed={config.stash[_SEED]}")
    header = ("attack", "amount", "result"), ("---", "---", "---")
    for line in (*header, *config.stash[_LINES]):
        terminalreporter.write_line(f"| {' | '.join(line)} |")


@pytest.fixture(scope="session")
def amount(pytestconfig: pytest.Config) -> Amount:
    """The amount of each attack."""
    usual = LONG if pytestconfig.getoption("--torture") else SHORT
    given = {field.name: pytestconfig.getoption(_option(field.name)) for field in fields(Amount)}
    return replace(usual, **{name: some for name, some in given.items() if some is not None})


@pytest.fixture
def rng(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> random.Random:
    """A random generator, seeded by test and seed."""
    seed = f"{pytestconfig.stash[_SEED]} {request.node.nodeid}"
    print(f"--seed={pytestconfig.stash[_SEED]}")  # shown if the test fails
    return random.Random(seed)


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """A function that adds a line to the report."""
    return lambda *line: pytestconfig.stash[_LINES].append(line)


@pytest.fixture
def install(tmp_path: Path) -> Callable[[], Installation]:
    """A function that installs the service with a new SQLite database and its tables."""
    numbers = count()

    def new() -> Installation:
        folder = tmp_path / f"installation-{next(numbers)}"
        folder.mkdir()
        installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
        installation.create_schema()
        return installation

    return new


@pytest.fixture
def installation(install: Callable[[], Installation]) -> Installation:
    """The service, with an SQLite database whose tables exist."""
    return install()
