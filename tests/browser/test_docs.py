"""The page on which the API is tried."""

import pytest

from tests.browser.window import Window
from tests.servers.running import Server, wait_until

# In the order in which one finds what another left.
OPERATIONS = {
    "packages-send_package": "201",
    "packages-send_batch": "200",
    "packages-read_package": "200",
    "packages-read_package_named_batch": "404",
    "preferences-update_preferences": "200",
    "preferences-read_preferences": "200",
    "preferences-patch_preferences": "200",
    "preferences-list_updates": "200",
    "packages-list_packages": "200",
    "service-read_statistics": "200",
    "service-is_healthy": "200",
}


@pytest.fixture
def docs(window: Window, server: Server) -> Window:
    """The page, with all operations on it."""
    window.open(f"http://localhost:{server.port}/docs")
    wait_until(lambda: bool(window.find_all(".opblock")), "the operations are there")
    return window


def test_every_operation_can_be_tried(docs: Window) -> None:
    """Each operation is answered when it is executed as the page proposes it."""
    assert {block.get_attribute("id") for block in docs.find_all(".opblock")} == {
        f"operations-{name}" for name in OPERATIONS
    }
    for name, status in OPERATIONS.items():
        assert execute(docs, f"#operations-{name}") == status
    complaints = docs.complaints()
    assert [complaint for complaint in complaints if "404" not in complaint] == []
    assert len(complaints) == 1


def execute(docs: Window, operation: str) -> str:
    """Open an operation, execute it as it is proposed, and return the status of the answer."""
    docs.click(f"{operation} .opblock-summary-control")
    # References are followed only now, and nobody is that quick to click on Execute.
    wait_until(lambda: bool(docs.run(IS_WHOLE, operation)), f"{operation} is there as a whole")
    docs.run("document.querySelector(`${arguments[0]} .execute`).click()", operation)
    wait_until(lambda: bool(docs.run(STATUS, operation)), f"{operation} is answered")
    status: str = docs.run(STATUS, operation)
    docs.click(f"{operation} .opblock-summary-control")
    return status


IS_WHOLE = """
const all = (selector) => [...document.querySelectorAll(`${arguments[0]} ${selector}`)];
return all("[data-code='405']").some((row) => row.textContent.includes("Allow"))
  && all(".parameters tr:has(.required) input").every((field) => field.value);
"""

STATUS = """
const [status] = document.querySelectorAll(
  `${arguments[0]} .live-responses-table tbody .response-col_status`);
return status?.firstChild.textContent;
"""


def test_nothing_comes_from_elsewhere(docs: Window, server: Server) -> None:
    """It works where there is no internet."""
    names = docs.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    here = (f"http://localhost:{server.port}/", "data:")
    assert f"http://localhost:{server.port}/static/swagger-ui-bundle.js" in names
    assert [name for name in names if not name.startswith(here)] == []
    assert docs.complaints() == []


def test_darkness_follows_the_system(docs: Window) -> None:
    """Where the system is dark the page is, without reloading."""
    lightness = "return getComputedStyle(document.documentElement).backgroundColor"
    light = docs.run(lightness)
    docs.prefer(color_scheme="dark")
    wait_until(lambda: docs.run(lightness) != light, "it is dark")
