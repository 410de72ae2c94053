"""The interactive API documentation (Swagger UI)."""

import pytest

from tests.browser.window import Window
from tests.servers.running import Server, wait_until

# In this order, each operation finds the data that earlier ones created.
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
    """The page, once all operations are shown."""
    window.open(f"http://localhost:{server.port}/docs")
    wait_until(lambda: bool(window.find_all(".opblock")), "the operations are shown")
    return window


def test_every_operation_can_be_tried(docs: Window) -> None:
    """Each operation succeeds when it is executed with the suggested values."""
    assert {block.get_attribute("id") for block in docs.find_all(".opblock")} == {
        f"operations-{name}" for name in OPERATIONS
    }
    for name, status in OPERATIONS.items():
        assert execute(docs, f"#operations-{name}") == status
    messages = docs.console_messages()
    assert [message for message in messages if "404" not in message] == []
    assert len(messages) == 1


def execute(docs: Window, operation: str) -> str:
    """Expand an operation, execute it with the suggested values, and return the status."""
    docs.click(f"{operation} .opblock-summary-control")
    # Swagger UI only resolves references now; a user wouldn't click Execute that quickly.
    wait_until(lambda: bool(docs.run(IS_COMPLETE, operation)), f"{operation} is completely shown")
    docs.run("document.querySelector(`${arguments[0]} .execute`).click()", operation)
    wait_until(lambda: bool(docs.run(STATUS, operation)), f"{operation} is answered")
    status: str = docs.run(STATUS, operation)
    docs.click(f"{operation} .opblock-summary-control")
    return status


IS_COMPLETE = """
const all = (selector) => [...document.querySelectorAll(`${arguments[0]} ${selector}`)];
return all("[data-code='405']").some((row) => row.textContent.includes("Allow"))
  && all(".parameters tr:has(.required) input").every((field) => field.value);
"""

STATUS = """
const [status] = document.querySelectorAll(
  `${arguments[0]} .live-responses-table tbody .response-col_status`);
return status?.firstChild.textContent;
"""


def test_no_external_resources(docs: Window, server: Server) -> None:
    """The page works without internet access: it loads nothing from other hosts."""
    names = docs.run("return performance.getEntriesByType('resource').map(({name}) => name)")
    here = (f"http://localhost:{server.port}/", "data:")
    assert f"http://localhost:{server.port}/static/swagger-ui-bundle.js" in names
    assert [name for name in names if not name.startswith(here)] == []
    assert docs.console_messages() == []


def test_dark_mode_follows_the_system(docs: Window) -> None:
    """The page follows the system's colour scheme without reloading."""
    lightness = "return getComputedStyle(document.documentElement).backgroundColor"
    light = docs.run(lightness)
    docs.prefer(color_scheme="dark")
    wait_until(lambda: docs.run(lightness) != light, "the page is dark")
