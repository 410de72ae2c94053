"""The dashboard."""

import json
import re
import signal
import subprocess
import time
from itertools import pairwise
from math import floor, log10

import pytest
from selenium.webdriver.common.keys import Keys

from galaxy_express import __version__
from tests.browser.window import Dashboard, Window
from tests.servers.http_client import package
from tests.servers.running import Installation, Server, wait_until


@pytest.fixture
def dashboard(window: Window, server: Server) -> Dashboard:
    """The dashboard of a service without requests."""
    return Dashboard(window, server)


def send(server: Server, **fields: str) -> None:
    """Send a package, like another client."""
    assert server.request("POST", "/packages", package(**fields)).status in (201, 422)


def count(installation: Installation, rejected: int, **types: int) -> None:
    """Set the counters: for each type, a number of delivered packages and as many dropped ones."""
    rows = [("rejected", "", rejected)]
    for name, number in types.items():
        rows += [("delivered", name, number), ("dropped", name, number)]
    with installation.database.transaction() as cursor:
        cursor.executemany("INSERT INTO counters VALUES (99, ?, ?, ?)", rows)


def test_empty_dashboard(dashboard: Dashboard) -> None:
    """An empty dashboard has zeros, a row for each type, and a hint on how to send packages."""
    dashboard.wait_for_totals("0", "0", "0")
    assert "make demo" in dashboard.text("#empty")
    assert dashboard.rows == {"marketing": ["0", "0", "—"], "personal": ["0", "0", "—"]}
    dashboard.wait_for_text("#chart-summary", "No packages in five minutes.")
    dashboard.wait_for_text("#latest-none", "No packages have been decided yet.")
    assert dashboard.console_messages() == []
    command = dashboard.text("#empty-curl")
    subprocess.run(["bash", "-c", f"{command} --silent --fail"], capture_output=True, check=True)
    dashboard.wait_for_totals("1", "0", "0")
    assert not dashboard.find("#empty").is_displayed()


def test_chart_shows_earlier_packages(window: Window, server: Server) -> None:
    """The chart shows packages that were decided before the page was opened."""
    for _ in range(30):
        send(server)
    time.sleep(3)  # the chart has a bar for every two seconds
    dashboard = Dashboard(window, server)
    wait_until(lambda: is_drawn(dashboard, "delivered"), "delivered packages are drawn")
    dashboard.wait_for_text("#chart-summary", "The busiest moment had ")
    rate = re.search(r"had ([\d.]+) a second", dashboard.text("#chart-summary"))
    assert rate
    assert 5 <= float(rate[1]) <= 15


def test_quiet_chart_has_the_time_of_the_last_decision(
    window: Window, server: Server, installation_of_session: Installation
) -> None:
    """If nothing was decided in five minutes, the chart shows the time of the last decision."""
    send(server)
    with installation_of_session.database.transaction() as cursor:
        cursor.execute("UPDATE packages SET decided_at = 1767225600000000")  # 2026-01-01
    dashboard = Dashboard(window, server)
    dashboard.wait_for_text(
        "#chart-summary",
        "No packages in five minutes. The last package was decided on 2026-01-01 00:00:00 UTC.",
    )


def put_preferences(server: Server, timestamp: str, marketing: bool) -> None:
    """Update leela's preferences, like another client."""
    body = {
        "timestamp": timestamp,
        "personal_preference": True,
        "marketing_preference": marketing,
    }
    assert server.request("PUT", "/recipients/leela/preferences", body).status == 200


def test_figures_are_updated(dashboard: Dashboard) -> None:
    """Totals, types, rates and the chart follow other clients' sends without reloading."""
    server = dashboard.server
    put_preferences(server, "2142-03-01T12:00:00Z", marketing=False)
    for _ in range(3):
        send(server)
    send(server, package_type="marketing")
    send(server, recipient_id="amy", package_type="marketing")
    send(server, sender_id="")
    dashboard.wait_for_totals("4", "1", "1")
    assert dashboard.rows == {
        "marketing": ["1", "1", "50.0%"],
        "personal": ["3", "0", "100.0%"],
    }
    for kind in ("delivered", "dropped", "rejected"):
        # Only called in this iteration of the loop.
        wait_until(lambda: is_drawn(dashboard, kind), f"{kind} is drawn")  # noqa: B023
    assert "busiest moment" in dashboard.text("#chart-summary")
    assert dashboard.console_messages() == []


HEIGHT = "return document.querySelector(arguments[0]).getBBox().height"


def is_drawn(dashboard: Dashboard, kind: str) -> bool:
    """Whether the chart shows anything of a kind."""
    return bool(dashboard.run(HEIGHT, f"#chart path.{kind}") > 0)


def test_rate_is_drawn_to_scale(dashboard: Dashboard) -> None:
    """The bars fill most of the chart without exceeding it, and the scale has round numbers."""
    for _ in range(40):
        send(dashboard.server)
    dashboard.wait_for_totals("40", "0", "0")
    bar, whole = dashboard.run(
        "const chart = document.getElementById('chart');"
        "return [chart.querySelector('.delivered').getBBox().height, chart.clientHeight]"
    )
    assert whole / 2 <= bar <= whole
    top, unit = dashboard.text("#chart-top").split()
    assert unit == "/s"
    assert float(top) / 10 ** floor(log10(float(top))) in (1, 1.2, 1.6, 2, 3, 4, 5, 6, 8)
    assert dashboard.text("#chart-half") == f"{float(top) / 2:g} /s"


@pytest.mark.parametrize("width", [320, 1280])
def test_minutes_are_below_their_lines(dashboard: Dashboard, width: int) -> None:
    """Each minute is labelled at its place in the chart, and labels don't overlap."""
    dashboard.resize(width, 800)
    left, length, names = dashboard.run(
        "const {left, width} = document.getElementById('chart').getBoundingClientRect();"
        "return [left, width, [...document.querySelectorAll('.minutes span')]"
        ".map((name) => name.getBoundingClientRect()).map(({left, right}) => [left, right])]"
    )
    for minute, (start, end) in enumerate(names[:5]):
        assert (start + end) / 2 == pytest.approx(left + length * minute / 5, abs=1)
    assert names[5][1] == pytest.approx(left + length, abs=1)
    assert all(name[1] < following[0] for name, following in pairwise(names))


def test_small_numbers_are_visible(
    dashboard: Dashboard, installation_of_session: Installation
) -> None:
    """A single rejected request is drawn at least one pixel high, whatever the scale."""
    dashboard.wait_for_text("#chart-summary", "No packages in five minutes")
    count(installation_of_session, personal=1_000_000, rejected=1)
    wait_until(lambda: is_drawn(dashboard, "rejected"), "rejected requests are drawn")
    assert dashboard.run(HEIGHT, "#chart .rejected") == pytest.approx(1, abs=0.01)


def test_sending_a_package(dashboard: Dashboard) -> None:
    """The form shows the request, the response and its meaning, and the totals are updated."""
    dashboard.fill("#send-sender_id", "nibbler")
    dashboard.fill("#send-package_id", "a/b 'c' \"d\" 🚀")
    answer = dashboard.submit("send", "Delivered.")
    assert "201 Created" in answer
    assert "Location: /packages/a%2Fb%20%27c%27%20%22d%22%20%F0%9F%9A%80" in answer
    assert json.loads(answer.partition("\n\n")[2])["sender_id"] == "nibbler"
    dashboard.wait_for_totals("1", "0", "0")
    assert dashboard.console_messages() == []


def test_one_package_is_not_a_high_rate(dashboard: Dashboard) -> None:
    """After a send the totals are requested immediately, but the rate covers a longer time."""
    dashboard.submit("send", "Delivered.")
    dashboard.wait_for_text("#chart-summary", "busiest moment")
    rate = re.search(r"had ([\d.]+) a second", dashboard.text("#chart-summary"))
    assert rate
    assert 0 < float(rate[1]) <= 1


def test_resending_a_package(dashboard: Dashboard) -> None:
    """A retry is shown as one and not counted, until a new id is used."""
    dashboard.submit("send", "Delivered.")
    answer = dashboard.submit("send", "decided before, so nothing was counted again")
    assert "200 OK" in answer
    assert "Idempotent-Replayed: true" in answer
    dashboard.click("#new-id")
    dashboard.submit("send", "Delivered.")
    dashboard.wait_for_totals("2", "0", "0")


def test_conflict(dashboard: Dashboard) -> None:
    """A rejection is shown with its detail."""
    dashboard.submit("send", "Delivered.")
    dashboard.fill("#send-recipient_id", "amy")
    assert "409 Conflict" in dashboard.submit("send", "Rejected: this package_id was used before")


def test_updating_preferences(dashboard: Dashboard) -> None:
    """A declined type is dropped, and an older update changes nothing."""
    dashboard.click("#prefer input[name=marketing_preference][value=false]")
    assert '"marketing_preference": false' in dashboard.submit(
        "prefer", "Applied: these are the current preferences."
    )
    dashboard.choose("#send-package_type", "marketing")
    assert '"recipient_declined"' in dashboard.submit(
        "send", "Dropped: scruffy declined marketing on 20"
    )
    dashboard.wait_for_totals("0", "1", "0")

    dashboard.click("#prefer input[name=marketing_preference][value=true]")
    dashboard.fill("#prefer-timestamp", "1999-12-31T23:59:59Z")
    answer = dashboard.submit("prefer", "Not applied: the current preferences are newer (20")
    assert '"applied": false' in answer
    assert dashboard.preferences["marketing_preference"] == "false"


def test_form_shows_stored_preferences_first(window: Window, server: Server) -> None:
    """The form starts with the stored preferences, so that an update keeps untouched ones."""
    put_preferences(server, "2026-03-01T12:00:00Z", marketing=False)
    dashboard = Dashboard(window, server)
    assert dashboard.preferences == {"personal_preference": "true", "marketing_preference": "true"}
    dashboard.wait_for_text(
        "#prefer-recipient_id-hint", "Nothing is stored: these are the defaults"
    )

    dashboard.look_up("leela", "Stored preferences, last updated 2026-03-01 12:00:00 UTC.")
    declined = {"personal_preference": "true", "marketing_preference": "false"}
    assert dashboard.preferences == declined
    dashboard.submit("prefer", "Choose a preference to change.")
    assert dashboard.preferences == declined


def test_only_changed_preferences_are_sent(dashboard: Dashboard) -> None:
    """An update from an older form doesn't undo another client's update."""
    dashboard.look_up("leela", "Nothing is stored")
    put_preferences(dashboard.server, "2026-03-01T12:00:00Z", marketing=False)
    dashboard.click("#prefer input[name=personal_preference][value=false]")
    dashboard.submit("prefer", "Applied")
    assert dashboard.preferences == {
        "personal_preference": "false",
        "marketing_preference": "false",
    }


def test_form_follows_the_stored_preferences(dashboard: Dashboard) -> None:
    """An open form shows updates by other clients, also in the history."""
    dashboard.look_up("leela", "Nothing is stored")
    put_preferences(dashboard.server, "2026-03-01T12:00:00Z", marketing=False)
    dashboard.wait_for_text("#prefer-recipient_id-hint", "last updated 2026-03-01 12:00:00 UTC.")
    assert dashboard.preferences == {"personal_preference": "true", "marketing_preference": "false"}
    dashboard.wait_for_text("#history", "personal wanted, marketing declined")

    dashboard.click("#prefer input[name=marketing_preference][value=true]")
    dashboard.submit("prefer", "Applied: these are the current preferences.")
    put_preferences(dashboard.server, "2142-03-01T12:00:00Z", marketing=False)
    dashboard.wait_for_text("#prefer-recipient_id-hint", "last updated 2142-03-01 12:00:00 UTC.")
    assert dashboard.text("#prefer .outcome") == ""


def test_choice_is_kept_when_the_stored_preferences_change(dashboard: Dashboard) -> None:
    """Preferences that the user has changed in the form are kept; the others are updated."""
    dashboard.look_up("leela", "Nothing is stored")
    dashboard.click("#prefer input[name=personal_preference][value=false]")
    dashboard.fill("#prefer-timestamp", "2142-03-01T12:00:00Z")
    put_preferences(dashboard.server, "2026-03-01T12:00:00Z", marketing=False)
    dashboard.wait_for_text("#prefer-recipient_id-hint", "last updated 2026-03-01 12:00:00 UTC.")
    assert dashboard.preferences == {
        "personal_preference": "false",
        "marketing_preference": "false",
    }
    request = dashboard.text("#prefer .request")
    assert '"personal_preference": false' in request
    assert '"timestamp": "2142-03-01T12:00:00Z"' in request
    assert "marketing" not in request


def test_history_of_preferences_is_shown(dashboard: Dashboard) -> None:
    """The updates of a recipient are listed, newest first, and more on demand."""
    for minute in range(12):
        put_preferences(dashboard.server, f"2026-03-01T12:{minute:02}:00Z", marketing=minute == 5)
    put_preferences(dashboard.server, "2025-03-01T12:00:00Z", marketing=True)
    dashboard.look_up("leela", "last updated 2026-03-01 12:11:00 UTC.")
    wait_until(lambda: len(dashboard.texts("#history li")) == 10, "a page of the history is shown")
    assert dashboard.texts("#history li")[0].startswith(
        "personal wanted, marketing wanted\n2025-03-01 12:00:00 UTC"
    )
    assert dashboard.texts("#history li")[0].endswith("Not applied: it was older.")
    assert dashboard.texts("#history li")[1].startswith(
        "personal wanted, marketing declined\n2026-03-01 12:11:00 UTC"
    )
    dashboard.click("#history button")
    wait_until(lambda: len(dashboard.texts("#history li")) == 13, "the whole history is shown")
    assert not dashboard.find("#history button").is_displayed()


def test_listing_packages_of_a_recipient(dashboard: Dashboard) -> None:
    """A recipient's packages are listed, newest first, and more on demand; each can be found."""
    for number in range(12):
        send(dashboard.server, package_id=f"p-{number}", recipient_id="o'neill/&?")
    send(dashboard.server, package_id="other")
    dashboard.fill("#list-recipient_id", "o'neill/&?")
    dashboard.find("#list-recipient_id").send_keys(Keys.ENTER)
    dashboard.wait_for_text("#list .outcome", "Packages for o'neill/&?, newest first.")
    assert dashboard.texts("#list-packages .link") == [f"p-{number}" for number in range(11, 1, -1)]
    dashboard.click("#list-packages .plain")
    wait_until(lambda: len(dashboard.texts("#list-packages .link")) == 12, "all are listed")
    assert dashboard.texts("#list-packages .link")[-1] == "p-0"
    assert not dashboard.find("#list-packages .plain").is_displayed()
    dashboard.click("#list-packages .link")
    dashboard.wait_for_text("#find .outcome", "Delivered.")
    assert dashboard.find("#find-package_id").get_attribute("value") == "p-11"

    dashboard.fill("#list-recipient_id", "nobody")
    dashboard.click("#list button:not([type])")
    dashboard.wait_for_text("#list .outcome", "No packages for nobody.")
    assert dashboard.texts("#list-packages .link") == []


def test_latest_decisions_are_updated(dashboard: Dashboard) -> None:
    """New decisions appear at the top without reloading, each once, and old ones disappear."""
    for number in range(3):
        send(dashboard.server, package_id=f"p-{number}")
    wait_until(lambda: dashboard.texts("#latest .link") == ["p-2", "p-1", "p-0"], "three are shown")
    for number in range(3, 12):
        send(dashboard.server, package_id=f"p-{number}")
    newest = [f"p-{number}" for number in range(11, 1, -1)]
    wait_until(lambda: dashboard.texts("#latest .link") == newest, "the ten newest are shown")


def send_batch(server: Server, *package_ids: str) -> None:
    """Send packages in one request, like another client."""
    body = [package(package_id=package_id) for package_id in package_ids]
    assert server.request("POST", "/packages/batch", body).status == 200


def test_no_decision_is_missed_between_two_polls(dashboard: Dashboard) -> None:
    """However many decisions are made between two polls, each is listed once: the newest
    immediately, the others on demand."""
    ids = [f"p-{number}" for number in range(5)]
    send_batch(dashboard.server, *ids)
    wait_until(lambda: dashboard.texts("#latest .link") == ids[::-1], "the first are shown")
    assert not dashboard.find("#latest-more").is_displayed()
    ids += [f"p-{number}" for number in range(5, 235)]
    send_batch(dashboard.server, *ids[5:])
    wait_until(lambda: dashboard.texts("#latest .link") == ids[:-11:-1], "the newest are shown")
    for hidden in (225, 125, 25):
        dashboard.wait_for_text("#latest-more", f"{hidden} more decisions")
        dashboard.click("#latest-more")
    assert dashboard.texts("#latest .link") == ids[::-1]
    assert not dashboard.find("#latest-more").is_displayed()
    ids += [f"p-{number}" for number in range(235, 250)]
    send_batch(dashboard.server, *ids[235:])
    wait_until(lambda: dashboard.texts("#latest .link") == ids[::-1], "all are shown")


def test_list_of_decisions_is_bounded(dashboard: Dashboard) -> None:
    """The page keeps the newest thousand decisions, and counts up to a thousand new ones while the
    list is paused."""
    send_batch(dashboard.server, "first")
    wait_until(lambda: dashboard.texts("#latest .link") == ["first"], "the first is shown")
    ids = [f"p-{number}" for number in range(1000)]
    send_batch(dashboard.server, *ids)
    dashboard.wait_for_text("#latest-more", "990 more decisions")
    send_batch(dashboard.server, "last")
    wait_until(lambda: dashboard.texts("#latest .link")[0] == "last", "the last is shown")
    assert dashboard.text("#latest-more") == "990 more decisions"
    dashboard.click("#latest-pause")
    send_batch(dashboard.server, *(f"late-{number}" for number in range(1000)))
    dashboard.wait_for_text("#latest-paused", "Decided since: 1000 or more.")


def test_latest_decisions_can_be_paused(dashboard: Dashboard) -> None:
    """A paused list doesn't change, and shows how many decisions were made since."""
    assert not dashboard.find("#latest-pause").is_displayed()
    send(dashboard.server, package_id="a")
    wait_until(lambda: dashboard.texts("#latest .link") == ["a"], "the first is shown")
    dashboard.click("#latest-pause")
    dashboard.wait_for_text("#latest-paused", "Decided since: 0.")
    send_batch(dashboard.server, "b", "c")
    dashboard.wait_for_text("#latest-paused", "Decided since: 2.")
    assert dashboard.texts("#latest .link") == ["a"]
    assert dashboard.text("#latest-pause") == "Resume"
    dashboard.click("#latest-pause")
    assert dashboard.texts("#latest .link") == ["c", "b", "a"]
    assert dashboard.text("#latest-paused") == ""


def test_version_is_shown(dashboard: Dashboard) -> None:
    """The page shows the version of the service."""
    dashboard.wait_for_text("#version", f"Version {__version__}")


def test_unknown_preferences_cannot_be_changed(dashboard: Dashboard) -> None:
    """From the first key press in the recipient's field until the response, nothing can be chosen
    or sent."""
    disabled, checked = dashboard.run(
        "const recipient = document.getElementById('prefer-recipient_id');"
        "recipient.value = 'leela';"
        "recipient.dispatchEvent(new Event('input', {bubbles: true}));"
        "const fields = '#prefer [type=radio], #prefer .actions button';"
        "const controls = [...document.querySelectorAll(fields)];"
        "return [controls.map(({disabled}) => disabled), controls.some(({checked}) => checked)]"
    )
    assert disabled == [True] * 5
    assert not checked
    dashboard.wait_for_text("#prefer-recipient_id-hint", "Nothing is stored")
    assert dashboard.find("#prefer button").is_enabled()


def test_stored_timestamp_in_the_future_is_explained(dashboard: Dashboard) -> None:
    """The form explains why an update with the current time would not be applied."""
    put_preferences(dashboard.server, "2142-03-01T12:00:00Z", marketing=False)
    dashboard.look_up("leela", "last updated 2142-03-01 12:00:00 UTC.")
    assert "only updates with a later timestamp are applied" in dashboard.text(
        "#prefer-timestamp-hint"
    )


def test_finding_a_package(dashboard: Dashboard) -> None:
    """A package is found by its id, and its decision is described in words."""
    put_preferences(dashboard.server, "2026-03-01T12:00:00Z", marketing=False)
    send(dashboard.server, package_id="a/b 1", package_type="personal", recipient_id="leela")
    send(dashboard.server, package_id="<i>2", package_type="marketing", recipient_id="leela")
    for package_id, outcome in (
        ("a/b 1", "Delivered."),
        ("<i>2", "Dropped: leela declined marketing on 2026-03-01 12:00:00 UTC."),
    ):
        dashboard.fill("#find-package_id", package_id)
        dashboard.find("#find-package_id").send_keys(Keys.ENTER)
        dashboard.wait_for_text("#find .outcome", outcome)
        names = dashboard.texts("#find dt")
        values = dashboard.texts("#find dd")
        found = dict(zip(names, values, strict=True))
        assert found["package_id"] == package_id
        assert found["recipient_id"] == "leela"


@pytest.mark.parametrize(
    ("package_id", "outcome"),
    [
        ("nothing", "There is no package with this id."),
        ("", "Enter the package_id of a package."),
    ],
)
def test_finding_an_unknown_package(dashboard: Dashboard, package_id: str, outcome: str) -> None:
    """For an unknown or missing id a message is shown, without the previous details."""
    send(dashboard.server, package_id="known")
    dashboard.fill("#find-package_id", "known")
    dashboard.click("#find button")
    dashboard.wait_for_text("#find .outcome", "Delivered.")
    dashboard.fill("#find-package_id", package_id)
    dashboard.click("#find button")
    dashboard.wait_for_text("#find .outcome", outcome)
    assert dashboard.find_all("#find dt") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_accessibility(dashboard: Dashboard, scheme: str, width: int) -> None:
    """axe-core finds no violations, with forms that are filled, successful and rejected."""
    dashboard.resize(width, 800)
    dashboard.prefer(color_scheme=scheme, reduced_motion="reduce")
    assert dashboard.violations() == []
    dashboard.submit("send", "Delivered.")
    dashboard.fill(
        "#find-package_id", dashboard.find("#send-package_id").get_attribute("value") or ""
    )
    dashboard.click("#find button")
    dashboard.wait_for_text("#find .outcome", "Delivered.")
    dashboard.find("#send-sender_id").clear()
    dashboard.submit("send", "Rejected")
    dashboard.click("#prefer input[name=marketing_preference][value=false]")
    dashboard.submit("prefer", "Applied")
    dashboard.choose("#send-package_type", "marketing")
    dashboard.fill("#send-sender_id", "zap")
    dashboard.click("#new-id")
    dashboard.submit("send", "Dropped")
    dashboard.fill("#list-recipient_id", "scruffy")
    dashboard.click("#list button:not([type])")
    dashboard.wait_for_text("#list .outcome", "Packages for scruffy")
    wait_until(lambda: len(dashboard.find_all("#history li")) == 1, "the history is shown")
    wait_until(lambda: len(dashboard.find_all("#latest li")) == 2, "the latest are shown")
    assert dashboard.violations() == []


def test_outcome_is_next_to_the_button(dashboard: Dashboard) -> None:
    """The outcome of a request is visible next to its button, even on a phone."""
    dashboard.resize(390, 844)
    dashboard.submit("send", "Delivered.")
    # Read together, since elements above them may grow.
    button, outcome = dashboard.run(
        "return ['button:not([type])', '.outcome'].map("
        " (which) => document.querySelector(`#send ${which}`).getBoundingClientRect().y);"
    )
    assert outcome - button < 100


def test_errors_are_shown_next_to_their_fields(dashboard: Dashboard) -> None:
    """Each invalid field is marked, with its error, until it is corrected."""
    dashboard.find("#send-sender_id").clear()
    dashboard.fill("#send-timestamp", "tomorrow")
    assert "422 " in dashboard.submit("send", "Rejected: some fields are invalid")
    assert dashboard.text("#send-sender_id-error") == "must have 1 to 255 characters"
    assert "RFC 3339" in dashboard.text("#send-timestamp-error")
    marked = [field.get_attribute("name") for field in dashboard.find_all("[aria-invalid=true]")]
    assert marked == ["sender_id", "timestamp"]
    dashboard.wait_for_totals("0", "0", "1")

    dashboard.fill("#send-sender_id", "zap")
    dashboard.find("#send-timestamp").clear()
    dashboard.submit("send", "Delivered.")
    assert dashboard.find_all("[aria-invalid=true]") == []
    assert dashboard.text("#send-sender_id-error") == ""


def test_error_in_the_path_is_shown_next_to_its_field(dashboard: Dashboard) -> None:
    """An invalid recipient is marked, although the response names no field of the body."""
    dashboard.fill("#prefer-recipient_id", "x" * 256)
    dashboard.wait_for_text("#prefer-recipient_id-error", "is invalid")
    assert not dashboard.find("#prefer button").is_enabled()
    (field,) = dashboard.find_all("[aria-invalid=true]")
    assert field.get_attribute("id") == "prefer-recipient_id"
    dashboard.look_up("leela", "Nothing is stored")
    assert dashboard.find_all("[aria-invalid=true]") == []


@pytest.mark.parametrize("form", ["send", "prefer"])
def test_displayed_command_equals_the_request(dashboard: Dashboard, form: str) -> None:
    """The request is shown during typing, as a command that can be pasted into a shell."""
    dashboard.fill(f"#{form}-recipient_id", "o'neill/$HOME `x` \\ ü")
    if form == "prefer":
        wait_until(dashboard.find("#prefer button").is_enabled, "the preferences are shown")
        dashboard.click("#prefer input[name=marketing_preference][value=false]")
    # With the same timestamp, the second of two equal requests is answered like the first.
    dashboard.fill(f"#{form}-timestamp", "2026-01-02T03:04:05Z")
    command = dashboard.text(f"#{form} .request")
    # The form first: it has nothing to send once it shows what the command changed.
    answer = dashboard.submit(form, "Delivered" if form == "send" else "Applied")
    printed = subprocess.run(
        ["bash", "-c", f"{command} --silent"], capture_output=True, check=True, text=True
    ).stdout
    head, _, body = printed.partition("\n\n")
    assert head.startswith("HTTP/1.1 200")
    by_command = json.loads(body)
    assert by_command["recipient_id"] == "o'neill/$HOME `x` \\ ü"
    assert json.loads(answer.partition("\n\n")[2]) == by_command


def test_service_outage(window: Window, installation: Installation) -> None:
    """The page shows when the service is shutting down or unreachable, keeps its figures, and
    recovers."""
    installation.environment["GALAXY_EXPRESS_DRAIN_SECONDS"] = "5"
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)
        send(server)
        dashboard.wait_for_totals("1", "0", "0")
        assert dashboard.console_messages() == []

        server.signal(signal.SIGTERM)
        dashboard.wait_for_text("#state", "Not in service: the service is shutting down")
        dashboard.wait_for_text("#state", "Unreachable since")
        assert dashboard.title == "Unreachable: Galaxy Express"
        assert server.wait() == 0
        assert dashboard.find("#state").get_attribute("role") == "status"
        assert dashboard.totals == ["1", "0", "0"]
        assert re.fullmatch(r"as of \d\d:\d\d:\d\d UTC", dashboard.text("#delivered-rate"))
        assert dashboard.submit("send", "No response: the service is unreachable.") == "None."

        server.start()
        server.wait_until_alive()
        dashboard.wait_for_text("#state", "In service")
        assert dashboard.title == "Galaxy Express"
        send(server)
        dashboard.wait_for_totals("2", "0", "0")
        assert "a second" in dashboard.text("#delivered-rate")
        dashboard.submit("send", "Delivered.")
    # The browser itself logs each request that fails or is answered with 503.
    expected = ("ERR_CONNECTION", "/health - Failed to load resource: the server responded with a")
    assert [
        each for each in dashboard.console_messages() if not any(e in each for e in expected)
    ] == []


def test_database_outage(window: Window, installation: Installation) -> None:
    """The page shows when the service is alive but not ready, and why."""
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)
        with installation.database.unavailable():
            dashboard.wait_for_text(
                "#state", "Not in service: the database is not set up (make migratedb)"
            )
            assert dashboard.title == "Not in service: Galaxy Express"
        dashboard.wait_for_text("#state", "In service")


MORE_TYPES = """
from galaxy_express import make_wsgi_app
from galaxy_express.package_types import PACKAGE_TYPES, PackageType, PackageTypeRegistry

TYPES = [*PACKAGE_TYPES, PackageType("express", declinable=False), PackageType("gift")]


def make(app_config):
    return make_wsgi_app(app_config, PackageTypeRegistry(TYPES))
"""


def test_registered_type_is_shown(window: Window, installation: Installation) -> None:
    """A type that is added to the registry has a row, an option and a preference."""
    (installation.folder / "more_types.py").write_text(MORE_TYPES)
    installation.configure("factory", "more_types:make")
    with installation.gunicorn(workers=1) as server:
        dashboard = Dashboard(window, server)
        assert set(dashboard.rows) == {"personal", "marketing", "express", "gift"}
        assert dashboard.choices("#send-package_type") == [
            "personal",
            "marketing",
            "express",
            "gift",
        ]
        choices = {
            name: [
                field.get_attribute("value") or ""
                for field in dashboard.find_all(f"#prefer input[name={name}_preference]")
            ]
            for name in ("personal", "express", "gift")
        }
        assert choices == {
            "personal": ["true", "false"],
            "express": ["true"],  # may not be declined
            "gift": ["true", "false"],
        }
        assert '"gift_preference"' not in dashboard.text("#prefer .request")
        dashboard.click("#prefer input[name=gift_preference][value=false]")
        assert '"gift_preference": false' in dashboard.text("#prefer .request")
        dashboard.submit("prefer", "Applied")
        dashboard.choose("#send-package_type", "gift")
        dashboard.submit("send", "Dropped")
        wait_until(lambda: dashboard.rows["gift"] == ["0", "1", "0.0%"], "the gift is counted")
        assert dashboard.console_messages() == []


def test_keyboard_navigation(dashboard: Dashboard) -> None:
    """Tab moves through all controls in order, each shows its focus, and Enter submits a form."""
    for name in (
        *("package_id", "Find", "recipient_id", "List"),
        *("sender_id", "recipient_id", "package_id", "package_type", "timestamp"),
        *("Send", "New id"),
        *("recipient_id", "wanted", "wanted", "timestamp", "Update"),
        *("API documentation", "API description"),
    ):
        element = dashboard.press_tab()
        assert element.accessible_name == name
        assert element.value_of_css_property("outline-style") == "solid"
    dashboard.find("#send-sender_id").send_keys(Keys.ENTER)
    dashboard.wait_for_text("#send .outcome", "Delivered.")


def test_all_controls_have_names(dashboard: Dashboard) -> None:
    """Each field, button, image and group has a name for screen readers."""
    for element in dashboard.find_all(
        "input, select, button:not([hidden]), a, fieldset, form, table, section, [role=img]"
    ):
        assert element.accessible_name, element.get_attribute("outerHTML")
    for live in (
        "#state",
        "#find .outcome",
        "#list .outcome",
        "#send .outcome",
        "#prefer .outcome",
    ):
        assert dashboard.find(live).get_attribute("role") == "status"


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_nothing_overflows(
    dashboard: Dashboard, installation_of_session: Installation, width: int
) -> None:
    """The page isn't wider than the screen, even on a phone with long ids and large numbers, and
    each number fits into its place."""
    dashboard.resize(width, 800)
    count(
        installation_of_session,
        personal=5_999_999_999,
        marketing=3_999_999_999,
        rejected=9_999_999_999,
    )
    for field in ("sender_id", "recipient_id", "package_id"):
        dashboard.fill(f"#send-{field}", "W" * 255)
    dashboard.submit("send", "Delivered")
    dashboard.wait_for_totals("9,999,999,999", "9,999,999,998", "9,999,999,999")
    assert dashboard.run("return document.documentElement.scrollWidth") <= width
    assert dashboard.run(STICKING_OUT) == []


def test_page_with_text_twice_as_large(dashboard: Dashboard) -> None:
    """With a zoom of 200%, the page isn't wider than a phone either."""
    send(dashboard.server)
    dashboard.resize(375 // 2, 400)
    wait_until(lambda: len(dashboard.texts("#latest li")) == 1, "the package is listed")
    dashboard.fill("#find-package_id", dashboard.text("#latest .link"))
    dashboard.submit_search("find", "Delivered.")
    assert dashboard.run("return document.documentElement.scrollWidth") <= 375 // 2
    assert dashboard.run(STICKING_OUT) == []


STICKING_OUT = """
return [...document.querySelectorAll(".totals div, .totals b, dd span, th, td, .slip, pre, h2")]
  .filter((element) => element.clientWidth && !element.matches(".unseen"))
  .filter((element) => element.scrollWidth > element.clientWidth)
  .map((element) => element.outerHTML)
"""


LUMINANCE = """
const channel = (c) => c <= 10.3 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4;
const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
"""

CONTRASTS = (
    LUMINANCE
    + """
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const color = rgb(getComputedStyle(element).backgroundColor);
    if (color.length === 3 || color[3] === 1) return color;
  }
};
const found = {};
for (const element of document.querySelectorAll("body *")) {
  const text = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  if (!text || !element.checkVisibility()) continue;
  const [a, b] = [luminance(rgb(getComputedStyle(element).color)), luminance(behind(element))];
  const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  found[element.tagName + "#" + element.id + "." + element.className] = contrast;
}
return found;
"""
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrast(dashboard: Dashboard, scheme: str) -> None:
    """In light and dark mode, each text has enough contrast with its background (WCAG 2.2, success
    criterion 1.4.3: 4.5 to 1)."""
    dashboard.prefer(color_scheme=scheme, reduced_motion="reduce")
    dashboard.find("#send-sender_id").clear()
    dashboard.submit("send", "Rejected")
    contrasts = dashboard.run(CONTRASTS)
    assert len(contrasts) > 20
    assert {what: contrast for what, contrast in contrasts.items() if contrast < 4.5} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_kinds_differ_in_lightness(dashboard: Dashboard, scheme: str) -> None:
    """The three colours of the chart have enough contrast with the page (WCAG 2.2, success
    criterion 1.4.11: 3 to 1), differ in lightness, and equal those of the legend."""
    dashboard.prefer(color_scheme=scheme)
    page, *kinds = dashboard.run(
        LUMINANCE + "const fills = [...document.querySelectorAll('#chart path')]"
        ".map((path) => getComputedStyle(path).fill);"
        "return [getComputedStyle(document.body).backgroundColor, ...fills]"
        ".map((color) => luminance(rgb(color)) + 0.05)"
    )
    assert len(kinds) == 3
    assert all(max(kind, page) / min(kind, page) >= 3 for kind in kinds)
    assert all(lighter / darker > 1.3 for darker, lighter in pairwise(sorted(kinds)))
    for kind in ("delivered", "dropped", "rejected"):
        in_picture, in_legend = dashboard.run(
            "return [getComputedStyle(document.querySelector(`#chart .${arguments[0]}`)).fill,"
            "getComputedStyle(document.querySelector(`.legend .${arguments[0]}`), '::before')"
            ".backgroundColor]",
            kind,
        )
        assert in_picture == in_legend


def test_changing_figures_are_not_announced(dashboard: Dashboard) -> None:
    """Screen readers announce nothing while only the figures change."""
    dashboard.run(
        "window.announced = [];"
        "const observer = new MutationObserver((changes) => announced.push(...changes"
        ".map(({target}) => target.textContent))); for (const live of document.querySelectorAll("
        "'[role=status], [aria-live]')) observer.observe(live, {childList: true, subtree: true,"
        "characterData: true})"
    )
    for number in ("1", "2"):
        send(dashboard.server)
        dashboard.wait_for_totals(number, "0", "0")
    assert dashboard.run("return announced") == []


def test_dark_mode_follows_the_system(dashboard: Dashboard) -> None:
    """The page follows the system's colour scheme without reloading."""
    lightness = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    assert sum(dashboard.run(lightness)) > 600
    dashboard.prefer(color_scheme="dark")
    assert sum(dashboard.run(lightness)) < 150


def test_reduced_motion(dashboard: Dashboard) -> None:
    """There are no transitions if reduced motion is preferred."""
    moving = (
        "return [...document.querySelectorAll('*')].filter((element) => "
        "getComputedStyle(element).transitionDuration.split(', ').some((d) => d !== '0s')).length"
    )
    assert dashboard.run(moving) > 0
    dashboard.prefer(reduced_motion="reduce")
    assert dashboard.run(moving) == 0


def test_hidden_page_sends_no_requests(dashboard: Dashboard) -> None:
    """A hidden page sends no requests, and refreshes as soon as it is visible."""
    dashboard.run(
        "const fetch = window.fetch; window.asked = [];"
        "window.fetch = (...what) => { asked.push(document.hidden); return fetch(...what); };"
        "document.addEventListener('visibilitychange', () => asked.push(document.visibilityState))"
    )
    here = dashboard.hide()
    send(dashboard.server)
    time.sleep(5)  # a visible page would poll twice in this time
    dashboard.show(here)
    dashboard.wait_for_totals("1", "0", "0")
    asked = dashboard.run("return asked")
    assert [what for what in asked if what is not False] == ["hidden", "visible"]


def test_no_external_resources(dashboard: Dashboard) -> None:
    """The page only loads resources from the service, so it works without internet access."""
    names = dashboard.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    assert len(names) > 3
    here = f"http://localhost:{dashboard.server.port}/"
    assert [name for name in names if not name.startswith(here)] == []
