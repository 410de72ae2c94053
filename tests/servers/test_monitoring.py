"""The alerts and the dashboard in docs/monitoring, compared with the exported metrics."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.backends import SQLiteBackend
from tests.conftest import skip_or_fail
from tests.servers.http_client import package
from tests.servers.running import ROOT, WAIT_SECONDS, Installation, free_port
from tests.servers.test_metrics import Scrape, update

MONITORING = ROOT / "docs/monitoring"
OPERATIONS = (ROOT / "docs/operations.md").read_text()
# promtool's tests of the alerts.
ALERTS_TEST = Path(__file__).with_name("alerts_test.yml")

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = [rule["alert"] for rule in RULES]
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "dashboard.json").read_text())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]

# The queries of both, by location.
QUERIES = {rule["alert"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']}, {target['refId']}": target["expr"]
    for panel in PANELS
    for target in panel["targets"]
}

# The metric and the labels that Prometheus adds to a scrape.
ADDED_METRIC = "up"
ADDED_LABELS = {"job", "instance"}

Series = dict[str, list[dict[str, str]]]


# What the service exports


def install(folder: Path) -> Installation:
    """The service with metrics."""
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    installation.create_schema()
    installation.configure("metrics.enabled", "true")
    installation.environment["GALAXY_EXPRESS_METRICS_BIND"] = str(free_port())
    return installation


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """The labels of all exported series, by name, after accepted, rejected and failed requests."""
    installation = install(tmp_path_factory.mktemp("monitoring"))
    with installation.gunicorn(workers=1) as server:
        assert server.request("POST", "/packages", package()).status == 201
        assert server.request("POST", "/packages", {}).status == 422
        preferences = update("12:00:00", marketing=False)
        assert server.request("PUT", "/recipients/fry/preferences", preferences).status == 200
        assert server.request("GET", "/health").status == 200
        installation.database.reject_inserts("packages")
        assert server.request("POST", "/packages", package()).status == 500
        scrape = Scrape(installation)
    series: Series = {}
    for family in scrape.families:
        for sample in family.samples:
            series.setdefault(sample.name, []).append(sample.labels)
    return series


SELECTOR = re.compile(r"([a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)(=~|!~|!=|=)"([^"]*)"')


def selectors(query: str) -> Iterator[tuple[str, list[tuple[str, str, str]]]]:
    """The metrics in a query, with their matchers: label, operator and value."""
    for name, matchers in SELECTOR.findall(query):
        yield name, MATCHER.findall(matchers)
    rest = re.sub(r" by \([^)]*\) |\[[^]]*\]|\d[\d.]*", "", SELECTOR.sub("", query))
    for name in re.findall(r"[a-z_]+(?![a-z_(])", rest):
        if name not in {"and", "or"}:
            yield name, []


def matches(labels: dict[str, str], matchers: list[tuple[str, str, str]]) -> bool:
    """Whether a series matches a selector."""
    for label, operator, value in matchers:
        if label in ADDED_LABELS:
            continue
        actual = labels.get(label, "")
        equal = bool(re.fullmatch(value, actual)) if "~" in operator else value == actual
        if label not in labels or equal == operator.startswith("!"):
            return False
    return True


def test_selectors_are_found() -> None:
    """All metrics in a query are found, with and without matchers, and nothing else."""
    query = 'sum by (le) (rate(one{a="1", b=~"2|3"}[5m])) / rate(two[1m]) > 0.1 or vector(0)'
    assert list(selectors(query)) == [("one", [("a", "=", "1"), ("b", "=~", "2|3")]), ("two", [])]


def test_queried_series_are_exported(exported: Series) -> None:
    """Each selector of an alert or a panel matches a series of a running service, and each label
    that it groups by exists."""
    for where, query in QUERIES.items():
        names = []
        for name, matchers in selectors(query):
            names.append(name)
            assert name == ADDED_METRIC or any(
                matches(labels, matchers) for labels in exported.get(name, [])
            ), f"{where}: no series matches {name} {matchers}"
        assert names, f"{where}: a query without a metric"
        labels = {
            label for name in names for series in exported.get(name, []) for label in series
        } | ADDED_LABELS
        for group in re.findall(r"by \(([^)]*)\)", query):
            assert set(group.split(", ")) <= labels, f"{where}: no series has all of {group}"


@pytest.fixture(scope="module")
def our_metrics(exported: Series) -> set[str]:
    """The names of the service's own metrics, without Baseplate's."""
    return {metric(name) for name in exported if name.startswith("galaxy_express_")}


def metric(series: str) -> str:
    """The metric of a series, which may belong to a histogram."""
    return re.sub(r"_(bucket|count|sum)$", "", series)


def test_dashboard_shows_all_own_metrics(our_metrics: set[str]) -> None:
    """No metric of the service is missing from the dashboard."""
    shown = {
        metric(name)
        for panel in PANELS
        for target in panel["targets"]
        for name, _ in selectors(target["expr"])
    }
    assert our_metrics <= shown


def test_own_metrics_are_documented(our_metrics: set[str]) -> None:
    """The table in docs/operations.md lists exactly the service's own metrics."""
    documented = re.findall(r"^\| `(galaxy_express_\w+)`", OPERATIONS, re.MULTILINE)
    assert sorted(documented) == sorted(our_metrics)


# The alerts


def test_alerts_have_annotations() -> None:
    """Each alert has a severity, a summary, a description, and a link to its section."""
    assert len(set(ALERTS)) == len(ALERTS) > 0
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "ticket"}, rule["alert"]
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{rule['alert'].lower()}"


def test_alerts_are_documented() -> None:
    """docs/operations.md has a section for each alert, in the order of the rules, with its meaning,
    what to look at and what to do."""
    alerts = re.search(r"^## Alerts$(.*?)^## ", OPERATIONS, re.MULTILINE | re.DOTALL)
    assert alerts
    sections = re.split(r"^### (\w+)$", alerts[1], flags=re.MULTILINE)[1:]
    assert sections[::2] == ALERTS
    for name, section in zip(sections[::2], sections[1::2], strict=True):
        assert re.findall(r"^- \*(.*?):\*", section, re.MULTILINE) == [
            "Meaning",
            "Look at",
            "Do",
        ], name


def test_alerts_are_tested_firing_and_not_firing() -> None:
    """For each alert, promtool's tests have a time when it fires, and one when it doesn't."""
    cases = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"]
        for case in test.get("alert_rule_test", [])
    ]
    assert set(cases) == {(alert, fires) for alert in ALERTS for fires in (True, False)}


def promtool(*arguments: str | Path) -> None:
    """Run promtool, and check that it succeeds."""
    if not shutil.which("promtool"):
        skip_or_fail("promtool isn't installed (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout


def test_prometheus_configuration_is_valid() -> None:
    """The example configuration and the alerts that it refers to are valid."""
    promtool("check", "config", MONITORING / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", MONITORING / "alerts.yml")


def test_alerts_fire_as_expected() -> None:
    """promtool's tests of the alerts pass."""
    promtool("test", "rules", ALERTS_TEST)


def history(before: Scrape, after: Scrape) -> list[dict[str, str]]:
    """Two scrapes as series for promtool: 20 minutes in which gauges are constant, and everything
    else grows every 15 seconds by the difference between the scrapes."""
    old = {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in before.families
        for sample in family.samples
    }
    series = [{"series": 'up{job="galaxy_express", instance="a:6060"}', "values": "1x80"}]
    for family in after.families:
        for name, labels, value, *_ in family.samples:
            growth = value - old.get((name, frozenset(labels.items())), value)
            target = {"job": "galaxy_express", "instance": "a:6060"}
            text = ", ".join(f"{key}={json.dumps(text)}" for key, text in (labels | target).items())
            values = f"{value:g}x80" if family.type == "gauge" else f"0+{growth:g}x80"
            series.append({"series": f"{name}{{{text}}}", "values": values})
    return series


OUTAGE = {
    "GalaxyExpressUnready",
    "GalaxyExpressFailingRequests",
    "GalaxyExpressFailedCommits",
    "GalaxyExpressDatabaseTimeouts",
}


@pytest.mark.parametrize(
    ("is_unavailable", "alerts"),
    [(False, set()), (True, OUTAGE)],
    ids=["healthy", "without PostgreSQL"],
)
def test_alerts_of_a_real_server(tmp_path: Path, is_unavailable: bool, alerts: set[str]) -> None:
    """A healthy server fires no alert; one without its database fires those for an outage."""
    installation = install(tmp_path)
    if is_unavailable:
        unreachable = f"postgresql://zap@127.0.0.1:{free_port()}/zap"
        installation.environment["GALAXY_EXPRESS_DATABASE_URL"] = unreachable
    scrapes = []
    with installation.gunicorn(workers=1) as server:
        for _ in range(2):
            for _ in range(20):
                server.request("POST", "/packages", package())
            server.request("POST", "/packages", {})
            server.request("GET", "/health")
            scrapes.append(Scrape(installation))
    # GalaxyExpressSlowCommits may also fire on a slow machine.
    firing = 'ALERTS{alertstate="firing", alertname!="GalaxyExpressSlowCommits"}'
    expected = {
        "expr": f"group by (alertname) ({firing})",
        "eval_time": "20m",
        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in alerts],
    }
    test = {"interval": "15s", "input_series": history(*scrapes), "promql_expr_test": [expected]}
    path = tmp_path / "alerts_test.yml"
    rules = str(MONITORING / "alerts.yml")
    path.write_text(
        yaml.safe_dump({"rule_files": [rules], "evaluation_interval": "15s", "tests": [test]})
    )
    promtool("test", "rules", path)


# The dashboard


def test_dashboard_queries_are_valid(tmp_path: Path) -> None:
    """The queries of all panels are valid PromQL."""
    rules = [
        {"record": f"query{number}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for panel in PANELS
        for number, target in enumerate(panel["targets"], start=100 * panel["id"])
    ]
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "--lint=all", "--lint-fatal", path)


def test_dashboard_works_with_any_data_source() -> None:
    """Panels and variables use the data source in a variable of the dashboard; panels have unique
    ids and don't overlap."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["datasource"]["query"] == "prometheus"
    sources = [variables["instance"], *PANELS, *(t for panel in PANELS for t in panel["targets"])]
    assert all(
        source["datasource"] == {"type": "prometheus", "uid": "${datasource}"} for source in sources
    )
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells = [
        (place["x"] + column, place["y"] + row)
        for place in (panel["gridPos"] for panel in PANELS)
        for column in range(place["w"])
        for row in range(place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(column for column, _ in cells) < 24
