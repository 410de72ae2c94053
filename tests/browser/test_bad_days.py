"""The dashboard when something is wrong: outages, locks, slow responses, odd ids, wrong clocks."""

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from threading import Thread
from urllib.parse import quote

import pytest
from selenium.webdriver.common.keys import Keys

from galaxy_express import __version__
from galaxy_express.storage.connect import database_from_config
from tests.backends import PostgreSQLBackend
from tests.browser.proxy import PREFIX, Proxy
from tests.browser.window import WRONG_CLOCK, Dashboard, Window
from tests.integration.test_feed import late_commit
from tests.servers.http_client import package
from tests.servers.running import Installation, Server, free_port, wait_until


@pytest.fixture
def dashboard(window: Window, server: Server) -> Dashboard:
    """The dashboard of a service without requests."""
    return Dashboard(window, server)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """A proxy in front of the service."""
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture
def proxied(window: Window, proxy: Proxy) -> Dashboard:
    """The dashboard behind a proxy."""
    return Dashboard(window, proxy.server, f"http://localhost:{proxy.port}{PREFIX}/")


def send(server: Server, *package_ids: str, **fields: str) -> None:
    """Send packages, like another client."""
    body = [package(package_id=package_id, **fields) for package_id in package_ids]
    assert server.request("POST", "/packages/batch", body).status == 200


def put_preferences(server: Server, recipient_id: str, timestamp: str, wanted: bool) -> None:
    """Update a recipient's preferences, like another client."""
    body = {
        "timestamp": timestamp,
        "personal_preference": True,
        "marketing_preference": wanted,
    }
    path = f"/recipients/{quote(recipient_id, safe='')}/preferences"
    assert server.request("PUT", path, body).status == 200


# The queue, the size and the version


def test_queue_is_shown(window: Window, installation: Installation) -> None:
    """While the database is locked, the page shows how many packages wait; and again later."""
    installation.configure("metrics.enabled", "true")
    installation.environment["GALAXY_EXPRESS_METRICS_BIND"] = str(free_port())
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)
        dashboard.wait_for_text("#queue", "0 packages waiting")
        clients = [
            Thread(target=lambda: server.request("POST", "/packages", package())) for _ in range(8)
        ]
        with installation.database.locked():
            for client in clients:
                client.start()
            wait_until(
                lambda: re.match("[1-9]", dashboard.text("#queue")) is not None, "packages wait"
            )
        for client in clients:
            client.join()
        dashboard.wait_for_text("#queue", "0 packages waiting")


def test_unknown_queue(dashboard: Dashboard) -> None:
    """If metrics are off, the page says that the queue is unknown, and why."""
    dashboard.wait_for_text("#queue", "unknown, as metrics are off")


def test_size_is_shown(window: Window, installation: Installation) -> None:
    """The page shows the size of the database, which grows."""
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)

        def kilobytes() -> float:
            size = re.fullmatch(r"([\d.]+) kB", dashboard.text("#size"))
            return float(size[1]) if size else 0

        wait_until(lambda: kilobytes() > 10, "the size is shown")
        before = kilobytes()
        send(server, *(f"p-{number}" for number in range(200)))
        wait_until(lambda: kilobytes() > before + 20, "the size has grown")
        size = sum(path.stat().st_size for path in installation.folder.glob("*.db*"))
        wait_until(lambda: kilobytes() <= size / 1000, "it isn't larger than the files")


NEWER = """
import galaxy_express

galaxy_express.__version__ = "99.0.0"
make = galaxy_express.make_wsgi_app
"""


def test_upgrade_while_the_page_is_open(window: Window, installation: Installation) -> None:
    """After an upgrade, the page shows the new version, and asks to be reloaded."""
    (installation.folder / "newer.py").write_text(NEWER)
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)
        dashboard.wait_for_text("#version", f"Version {__version__}")
        server.terminate()
        installation.configure("factory", "newer:make")
        server.start()
        dashboard.wait_for_text(
            "#version", f"Version 99.0.0 (reload this page: it is from version {__version__})"
        )


# The feed


@pytest.fixture
def postgresql_installation(
    tmp_path: Path, make_postgresql: Callable[[], PostgreSQLBackend]
) -> Installation:
    """The service on PostgreSQL."""
    installation = Installation(tmp_path, make_postgresql())
    installation.create_schema()
    return installation


@pytest.mark.parametrize("is_open", [True, False])
def test_late_commit_is_not_missed(
    window: Window, postgresql_installation: Installation, is_open: bool
) -> None:
    """A decision that commits after many later ones is listed, whether the page was opened before
    them or between them and the late one; and each is listed once."""
    database = database_from_config(postgresql_installation.database.config)
    ids = [f"p-{number}" for number in range(150)]
    with postgresql_installation.gunicorn(workers=1) as server:
        if is_open:
            dashboard = Dashboard(window, server)
        with late_commit(database):
            send(server, *ids)
            if not is_open:
                dashboard = Dashboard(window, server)
                wait_until(
                    lambda: dashboard.texts("#latest .link") == ids[:-11:-1], "the newest are shown"
                )
            dashboard.wait_for_totals("150", "0", "0")
        dashboard.wait_for_text("#latest-more", "141 more decisions")
        for _ in range(2):
            dashboard.click("#latest-more")
        assert dashboard.texts("#latest .link") == [*ids[::-1], "late"]
    database.close()


def test_restored_database(dashboard: Dashboard, installation_of_session: Installation) -> None:
    """If the database has lost decisions, the list doesn't show them any more."""
    send(dashboard.server, "a", "b")
    wait_until(lambda: dashboard.texts("#latest .link") == ["b", "a"], "both are shown")
    installation_of_session.database.empty_tables()
    dashboard.wait_for_text("#latest-none", "No packages have been decided yet.")
    send(dashboard.server, "c")
    wait_until(lambda: dashboard.texts("#latest .link") == ["c"], "only the new one is shown")


def test_page_that_is_far_behind(dashboard: Dashboard) -> None:
    """After thousands of decisions, the list continues at once with the newest, without a glimpse
    of those in between."""
    send(dashboard.server, "first")
    wait_until(lambda: dashboard.texts("#latest .link") == ["first"], "the first is shown")
    dashboard.run(
        "const list = document.getElementById('latest'); window.tops = [];"
        "new MutationObserver(() => tops.push(list.querySelector('.link').textContent))"
        ".observe(list, {childList: true})"
    )
    here = dashboard.hide()
    for start in range(0, 3000, 1000):
        send(dashboard.server, *(f"p-{start + number}" for number in range(1000)))
    dashboard.show(here)
    wait_until(lambda: dashboard.texts("#latest .link")[0] == "p-2999", "the newest is shown")
    assert set(dashboard.run("return tops")) == {"p-2999"}
    assert dashboard.text("#latest-more") == "990 more decisions"


def test_focus_is_not_lost(dashboard: Dashboard) -> None:
    """If new decisions push the focused one out of the list, the button to pause gets the focus."""
    send(dashboard.server, *(f"p-{number}" for number in range(10)))
    wait_until(lambda: len(dashboard.texts("#latest .link")) == 10, "the list is full")
    dashboard.run("document.querySelector('#latest li:last-child button').focus()")
    send(dashboard.server, "last")
    wait_until(lambda: dashboard.texts("#latest .link")[0] == "last", "the last is shown")
    assert dashboard.run("return document.activeElement.id") == "latest-pause"


# Outages and slow responses


def test_send_while_the_database_is_locked(window: Window, installation: Installation) -> None:
    """A send that fails after a long wait is neither called rejected nor unanswered."""
    installation.configure("database.lock_timeout", "6 seconds")
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)
        with installation.database.locked():
            answer = dashboard.submit(
                "send", "Failed: the database is unavailable; a retry is safe."
            )
        assert answer.startswith("503 ")
        dashboard.submit("send", "Delivered.")
        dashboard.wait_for_totals("1", "0", "0")


def test_page_opened_during_an_outage(window: Window, installation: Installation) -> None:
    """A page that is opened while the database is unavailable shows the reason and the version, and
    everything else as soon as the database is back."""
    with installation.gunicorn(workers=1) as server:
        send(server, "a")
        with installation.database.unavailable():
            window.open(f"http://localhost:{server.port}/")
            window.wait_for_text("#state", "Not in service: the database is not set up")
            window.wait_for_text("#prefer-recipient_id-hint", "can't be read. Trying again.")
            window.wait_for_text("#version", f"Version {__version__}")
        window.wait_for_text("#state", "In service")
        wait_until(lambda: window.texts("#latest .link") == ["a"], "the package is listed")
        window.wait_for_text("#prefer-recipient_id-hint", "Nothing is stored")


def test_slow_responses(proxied: Dashboard, proxy: Proxy) -> None:
    """While a response takes long, the page says so, and its figures are marked as old."""
    with proxy.holding():
        proxied.wait_for_text("#state", "No response for 5 seconds. Still waiting.")
        assert proxied.title == "No response: Galaxy Express"
        assert proxied.text("#delivered-rate").startswith("as of ")
    proxied.wait_for_text("#state", "In service")
    assert proxied.title == "Galaxy Express"


ARRIVED = """
return performance.getEntriesByType("resource").some(({name}) => name.endsWith(arguments[0]));
"""


def test_late_response_to_a_search(proxied: Dashboard, proxy: Proxy) -> None:
    """A response that arrives after that of the next search changes nothing."""
    send(proxy.server, "slow")
    with proxy.holding("/packages/slow"):
        proxied.fill("#find-package_id", "slow")
        proxied.submit_search("find", "Searching …")
        proxied.fill("#find-package_id", "unknown")
        proxied.submit_search("find", "There is no package with this id.")
    wait_until(lambda: bool(proxied.run(ARRIVED, "/packages/slow")), "the response has arrived")
    time.sleep(0.1)
    assert proxied.text("#find .outcome") == "There is no package with this id."


def test_recipient_is_kept_until_the_response(proxied: Dashboard, proxy: Proxy) -> None:
    """The outcome of an update isn't shown for another recipient: the id can't be changed until
    then."""
    proxied.look_up("leela", "Nothing is stored")
    proxied.click("#prefer input[name=marketing_preference][value=false]")
    with proxy.holding():
        proxied.submit("prefer", "Sending …")
        proxied.find("#prefer-recipient_id").send_keys(Keys.ENTER, "fry")
        assert proxied.find("#prefer-recipient_id").get_attribute("value") == "leela"
    proxied.wait_for_text("#prefer .outcome", "Applied: these are the current preferences.")
    proxied.look_up("fry", "Nothing is stored")


def test_more_packages_during_an_outage(proxied: Dashboard, proxy: Proxy) -> None:
    """If more packages can't be read, the page says why; the button works again afterwards."""
    send(proxied.server, *(f"p-{number}" for number in range(15)))
    proxied.fill("#list-recipient_id", "leela")
    proxied.submit_search("list", "Packages for leela")
    with proxy.down():
        proxied.click("#list-packages .plain")
        proxied.wait_for_text(
            "#list-packages [role=status]", "No response: the service is unreachable."
        )
        assert proxied.run("return document.activeElement.textContent") == "More packages"
        assert len(proxied.texts("#list-packages .link")) == 10
        proxied.submit_search("find", "Enter the package_id")
        proxied.fill("#find-package_id", "p-1")
        proxied.submit_search("find", "No response: the service is unreachable.")
        proxied.wait_for_text("#state", "Unreachable since")
    proxied.wait_for_text("#state", "In service")
    proxied.click("#list-packages .plain")
    wait_until(lambda: len(proxied.texts("#list-packages .link")) == 15, "all are listed")
    assert proxied.text("#list-packages [role=status]") == ""


PROXY_ERRORS = [
    (401, b'{"message": "the token has expired"}'),
    (429, b'"slow down"'),
    (502, b'{"error": "no upstream"}'),
    (504, b"null"),
]


def test_error_of_a_proxy(proxied: Dashboard, proxy: Proxy) -> None:
    """A proxy's own error in JSON isn't taken for a response of the service: the page shows that
    the service is unreachable, and works again afterwards."""
    send(proxied.server, "p-1")
    for status, body in PROXY_ERRORS:
        with proxy.down(status, "application/json", body):
            proxied.wait_for_text("#state", "Unreachable since")
            find(proxied, "No response: the service is unreachable.")
        proxied.wait_for_text("#state", "In service")
        find(proxied, "Delivered.")
    with proxy.down(502, "application/json", b"null"):
        use_other_forms(proxied, "No response: the service is unreachable.")
    proxied.wait_for_text("#prefer-recipient_id-hint", "these are the defaults")


FOREIGN_RESPONSES = [
    ("application/json", b'{"status": "ok"}'),
    ("application/json", b"null"),
    ("application/json", b"true"),
    ("text/html", b"<form>Log in</form>"),
]


def test_foreign_responses(proxied: Dashboard, proxy: Proxy) -> None:
    """If something else responds with 200, such as a proxy's login page, the page says so, and
    works again afterwards."""
    send(proxied.server, "p-1")
    proxied.wait_for_totals("1", "0", "0")
    for content_type, body in FOREIGN_RESPONSES:
        with proxy.down(200, content_type, body):
            proxied.wait_for_text("#state", ": something else responded. Trying again.")
            assert proxied.title == "Unreachable: Galaxy Express"
            find(proxied, "Something else responded instead of the service.")
            assert proxied.totals == ["1", "0", "0"]
        proxied.wait_for_text("#state", "In service")
        find(proxied, "Delivered.")
    with proxy.down(200, "text/html", b"<form>Log in</form>"):
        use_other_forms(proxied, "Something else responded instead of the service.")
    proxied.wait_for_text("#prefer-recipient_id-hint", "these are the defaults")
    assert proxied.console_messages() == []


def find(dashboard: Dashboard, outcome: str) -> None:
    """Look for a package, and wait for the outcome."""
    dashboard.set_value("#find-package_id", "p-1")
    dashboard.submit_search("find", outcome)


def use_other_forms(dashboard: Dashboard, message: str) -> None:
    """Use each other form, and wait for the message."""
    dashboard.set_value("#prefer-recipient_id", "leela")
    dashboard.wait_for_text("#prefer-recipient_id-hint", "can't be read. Trying again.")
    dashboard.submit("send", f"{message} A retry is safe.")
    dashboard.set_value("#list-recipient_id", "p-1")
    dashboard.submit_search("list", message)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_accessibility_during_an_outage(
    proxied: Dashboard, proxy: Proxy, scheme: str, width: int
) -> None:
    """axe-core finds no violations in a page whose figures are old and whose searches failed."""
    proxied.resize(width, 800)
    proxied.prefer(color_scheme=scheme, reduced_motion="reduce")
    send(proxied.server, *(f"p-{number}" for number in range(15)))
    proxied.fill("#list-recipient_id", "leela")
    proxied.submit_search("list", "Packages for leela")
    with proxy.down():
        proxied.click("#list-packages .plain")
        proxied.wait_for_text("#list-packages [role=status]", "No response")
        proxied.fill("#find-package_id", "p-1")
        proxied.submit_search("find", "No response")
        proxied.wait_for_text("#state", "Unreachable since")
        assert proxied.violations() == []


def test_page_under_a_path_prefix(window: Window, installation: Installation) -> None:
    """Behind a proxy with a path prefix, everything works, and locations have the prefix."""
    installation.configure("http.path_prefix", PREFIX)
    with installation.gunicorn(workers=1) as server, Proxy(server) as proxy:
        dashboard = Dashboard(window, server, f"http://localhost:{proxy.port}{PREFIX}/")
        dashboard.fill("#send-package_id", "a/b")
        answer = dashboard.submit("send", "Delivered.")
        assert f"Location: {PREFIX}/packages/a%2Fb" in answer
        assert f"http://localhost:{proxy.port}{PREFIX}/packages" in dashboard.text("#send .request")
        wait_until(lambda: dashboard.texts("#latest .link") == ["a/b"], "it is listed")
        dashboard.click("#latest .link")
        dashboard.wait_for_text("#find .outcome", "Delivered.")
        assert dashboard.console_messages() == []


# Ids


UNUSUAL_IDS = [
    "a/b",
    "100%",
    "%2F",
    "?x=1&y#z",
    "..a",
    "batch",
    "🚀 é",
    "שלום",
    "<b>&amp;",
    "\N{ZERO WIDTH NO-BREAK SPACE}a",  # JavaScript's trim() removes it, but it's no white space
    "W" * 255,
]


def test_unusual_ids(dashboard: Dashboard) -> None:
    """A package is found and listed by any id, which fits on a phone."""
    dashboard.resize(375, 800)
    for second, any_id in enumerate(UNUSUAL_IDS, start=10):
        send(dashboard.server, any_id, recipient_id=any_id)
        wait_until(lambda: dashboard.texts("#latest .link")[:1] == [any_id], "it is listed")  # noqa: B023
        dashboard.click("#latest .link")
        dashboard.wait_for_text("#find dd", any_id)
        assert dashboard.text("#find .outcome") == "Delivered."
        dashboard.set_value("#list-recipient_id", any_id)
        dashboard.submit_search("list", f"Packages for {any_id}, newest first.")
        assert dashboard.texts("#list-packages .link") == [any_id]
        put_preferences(dashboard.server, any_id, f"2026-03-01T12:00:{second}Z", wanted=False)
        dashboard.set_value("#prefer-recipient_id", any_id)
        updated = f"last updated 2026-03-01 12:00:{second} UTC."
        dashboard.wait_for_text("#prefer-recipient_id-hint", updated)
        assert dashboard.run("return document.documentElement.scrollWidth") <= 375


@pytest.mark.parametrize("impossible", [".", "..", "x" * 256])
def test_impossible_ids(dashboard: Dashboard, impossible: str) -> None:
    """An id that can't exist isn't found, and isn't valid for a recipient."""
    dashboard.set_value("#find-package_id", impossible)
    dashboard.submit_search("find", "There is no package with this id.")
    assert dashboard.texts("#find dt") == []
    dashboard.set_value("#list-recipient_id", impossible)
    dashboard.submit_search("list", "Rejected: recipient_id is not a valid id.")
    dashboard.set_value("#prefer-recipient_id", impossible)
    dashboard.wait_for_text("#prefer-recipient_id-error", "is invalid")


def test_pasted_white_space(dashboard: Dashboard) -> None:
    """White space around an id, which is often pasted with it, doesn't prevent finding it."""
    send(dashboard.server, "a b", recipient_id="leela")
    dashboard.set_value("#find-package_id", " a b\t")
    dashboard.submit_search("find", "Delivered.")
    dashboard.set_value("#list-recipient_id", " leela ")
    dashboard.submit_search("list", "Packages for leela, newest first.")
    assert dashboard.texts("#list-packages .link") == ["a b"]


RIGHT_TO_LEFT = "שלום"
OVERRIDE = "\N{RIGHT-TO-LEFT OVERRIDE}abc"  # reverses everything up to its end


@pytest.mark.parametrize("recipient_id", [RIGHT_TO_LEFT, OVERRIDE])
def test_direction_of_an_id(dashboard: Dashboard, recipient_id: str) -> None:
    """The time of a decision stays after a recipient that is written from right to left."""
    send(dashboard.server, "a", recipient_id=recipient_id)
    wait_until(lambda: dashboard.texts("#latest .link") == ["a"], "it is listed")
    end, start = dashboard.run(
        "const [name, time] = ['bdi:last-of-type', 'time'].map((which) =>"
        " document.querySelector(`#latest ${which}`).getBoundingClientRect());"
        "return [name.right, time.left]"
    )
    assert end < start


PLACES = """
const [element, ...words] = arguments;
const walker = document.createTreeWalker(element, NodeFilter.SHOW_TEXT);
const nodes = [];
while (walker.nextNode()) nodes.push(walker.currentNode);
return words.map((word) => {
  const node = nodes.find(({data}) => data.includes(word));
  const range = document.createRange();
  range.setStart(node, node.data.indexOf(word));
  range.setEnd(node, node.data.indexOf(word) + word.length);
  const {top, left} = range.getBoundingClientRect();
  return [Math.round(top), left];
});
"""


@pytest.mark.parametrize("recipient_id", [RIGHT_TO_LEFT, OVERRIDE])
def test_direction_of_a_sentence(dashboard: Dashboard, recipient_id: str) -> None:
    """Each sentence with an id is written from left to right, whatever the id."""
    put_preferences(dashboard.server, recipient_id, "2026-03-01T12:00:00Z", wanted=False)
    dashboard.set_value("#send-recipient_id", recipient_id)
    dashboard.set_value("#send-package_id", "a")
    dashboard.choose("#send-package_type", "marketing")
    dashboard.submit("send", "Dropped: ")
    dashboard.set_value("#find-package_id", "a")
    dashboard.submit_search("find", "Dropped: ")
    dashboard.set_value("#list-recipient_id", recipient_id)
    dashboard.submit_search("list", "Packages for ")
    wait_until(lambda: dashboard.texts("#latest .link") == ["a"], "it is listed")
    for sentence, first, second in (
        ("#send .outcome", "declined", "marketing"),
        ("#find .outcome", "declined", "marketing"),
        ("#latest b", "declined", "marketing"),
        ("#list-packages b", "declined", "marketing"),
        ("#list .outcome", "newest", "first"),
    ):
        before, after = dashboard.run(PLACES, dashboard.find(sentence), first, second)
        assert before < after, sentence


def test_recipient_with_thousands_of_packages(dashboard: Dashboard) -> None:
    """Ten packages are listed at first, and a hundred more each time, with the focus on the first
    of them."""
    for start in range(0, 3000, 1000):
        send(dashboard.server, *(f"p-{start + number}" for number in range(1000)))
    dashboard.fill("#list-recipient_id", "leela")
    dashboard.submit_search("list", "Packages for leela")
    listed = [f"p-{number}" for number in range(2999, -1, -1)]
    for number in (10, 110, 210):
        wait_until(
            lambda: dashboard.texts("#list-packages .link") == listed[:number],  # noqa: B023
            f"{number} are listed",
        )
        dashboard.find("#list-packages .plain").send_keys(Keys.ENTER)
    wait_until(lambda: len(dashboard.texts("#list-packages .link")) == 310, "310 are listed")
    assert dashboard.run("return document.activeElement.dataset.package") == listed[210]


# Preferences, and clocks


def test_empty_history(dashboard: Dashboard) -> None:
    """The history of a recipient without updates says so, until there is one."""
    dashboard.wait_for_text("#history [role=status]", "No updates yet.")
    put_preferences(dashboard.server, "scruffy", "2026-03-01T12:00:00Z", wanted=False)
    dashboard.wait_for_text("#history li", "marketing declined")
    assert dashboard.text("#history [role=status]") == ""


@pytest.mark.parametrize("hours", [-1, 1])
def test_chart_after_sleep(
    proxied: Dashboard, proxy: Proxy, installation_of_session: Installation, hours: int
) -> None:
    """Packages that were decided while the computer slept aren't shown as a high rate; nor are
    packages after the clock was set back."""
    proxied.wait_for_text("#chart-summary", "No packages")
    with proxy.holding():
        proxied.wait_for_text("#state", "Still waiting")
        proxied.run(WRONG_CLOCK % (hours * 3600 * 1000))
        installation_of_session.database.rows(
            "INSERT INTO counters VALUES (99, 'delivered', 'personal', 100000)"
        )
    proxied.wait_for_totals("100,000", "0", "0")
    shown = {*proxied.texts("#chart-summary"), *proxied.texts("#delivered-rate")}
    send(proxied.server, "p-1")
    proxied.wait_for_totals("100,001", "0", "0")
    proxied.wait_for_text("#chart-summary", "busiest moment")
    shown |= {*proxied.texts("#chart-summary"), *proxied.texts("#delivered-rate")}
    rates = re.findall(r"([\d,.]+) a second", " ".join(shown))
    assert rates
    assert all(float(rate.replace(",", "")) < 10 for rate in rates)


def test_updates_that_are_not_applied_are_shown(dashboard: Dashboard) -> None:
    """The open history shows other clients' updates, even if they changed nothing."""
    put_preferences(dashboard.server, "leela", "2026-03-01T12:00:00Z", wanted=False)
    dashboard.look_up("leela", "last updated 2026-03-01 12:00:00 UTC.")
    put_preferences(dashboard.server, "leela", "2025-03-01T12:00:00Z", wanted=True)
    dashboard.wait_for_text("#history", "Not applied: it was older.")
    assert len(dashboard.texts("#history li")) == 2


def test_history_is_not_collapsed(dashboard: Dashboard) -> None:
    """Other clients' updates are added to an open history, which keeps its length and the focus; if
    there are many at once, it starts again, with the focus on the newest."""
    update = partial(put_preferences, dashboard.server, "leela", wanted=False)
    for minute in range(12):
        update(f"2026-03-01T12:{minute:02}:00Z")
    dashboard.look_up("leela", "last updated 2026-03-01 12:11:00 UTC.")
    dashboard.click("#history button")
    wait_until(lambda: len(dashboard.texts("#history li")) == 12, "the whole history is shown")
    focused = dashboard.driver.switch_to.active_element
    assert "12:01:00" in focused.text
    update("2026-03-01T13:00:00Z")
    dashboard.wait_for_text("#prefer-recipient_id-hint", "last updated 2026-03-01 13:00:00 UTC.")
    update("2025-03-01T12:00:00Z")
    dashboard.wait_for_text("#history", "Not applied: it was older.")
    assert len(dashboard.texts("#history li")) == 14
    assert dashboard.driver.switch_to.active_element == focused

    here = dashboard.hide()
    for minute in range(15):
        update(f"2026-03-01T14:{minute:02}:00Z")
    dashboard.show(here)
    wait_until(lambda: len(dashboard.texts("#history li")) == 10, "the first page is shown")
    assert "14:14:00" in dashboard.driver.switch_to.active_element.text


@pytest.mark.parametrize("days", [-3, 3])
def test_wrong_clock_of_the_browser(window: Window, server: Server, days: int) -> None:
    """Requests have the service's time, and so do all times on the page, in UTC."""
    a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)
    put_preferences(server, "scruffy", a_minute_ago.isoformat(), wanted=False)
    with window.wrong_clock(days * 24 * 3600 + 1800):
        dashboard = Dashboard(window, server)
        assert "future" not in dashboard.text("#prefer-timestamp-hint")
        dashboard.click("#prefer input[name=marketing_preference][value=true]")
        dashboard.submit("prefer", "Applied: these are the current preferences.")
        answer = dashboard.submit("send", "Delivered.")
        sent = datetime.fromisoformat(json.loads(answer.partition("\n\n")[2])["timestamp"])
        assert abs(datetime.now(UTC) - sent) < timedelta(minutes=1)
        dashboard.wait_for_text("#updated", "UTC")
        updated = dashboard.text("#updated").removeprefix("updated ").removesuffix(" UTC")
        minutes = [
            (datetime.now(UTC) - timedelta(minutes=back)).strftime("%H:%M") for back in (0, 1)
        ]
        assert updated[:5] in minutes
