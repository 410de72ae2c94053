"""The browser window and the dashboard, from a user's point of view."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selenium.webdriver.chrome.webdriver import WebDriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from tests.servers.running import Server, wait_until

VIOLATIONS = """
const [within, done] = arguments;
axe.run(within).then(({violations}) => done(violations.flatMap(({id, nodes}) =>
  nodes.map(({target, failureSummary}) => `${id}: ${target} ${failureSummary}`))));
"""
SET_VALUE = """
const [field, text] = arguments;
field.value = text;
field.dispatchEvent(new Event("input", {bubbles: true}));
"""
WRONG_CLOCK = """
Date = class extends Date {
  constructor(...values) {
    if (values.length) super(...values);
    else super(Date.now());
  }
  static now() { return super.now() + %d; }
};
"""
AXE = Path(__file__).parent / "vendor" / "axe-core" / "axe.min.js"


class Window:
    """A window of the browser.

    :ivar driver: Selenium's driver.
    """

    def __init__(self, driver: WebDriver) -> None:
        self.driver = driver

    def open(self, url: str) -> None:
        """Go to a page."""
        self.driver.get(url)

    @property
    def title(self) -> str:
        """The title of the page, which its tab shows."""
        return self.driver.title

    def resize(self, width: int, height: int) -> None:
        """Set the width and height of the page in pixels."""
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
        )

    def prefer(self, **features: str) -> None:
        """Emulate the system's preferences ``color_scheme`` and ``reduced_motion``."""
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {
                "features": [
                    {"name": f"prefers-{name.replace('_', '-')}", "value": value}
                    for name, value in features.items()
                ]
            },
        )

    def console_messages(self) -> list[str]:
        """The messages that the browser wrote to its console since the last call."""
        # Selenium's method has no type annotations.
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]

    def run(self, script: str, *arguments: object) -> Any:
        """Run a script in the page, and return its result."""
        return self.driver.execute_script(script, *arguments)

    def violations(self, within: str = "body") -> list[str]:
        """The violations of axe-core's accessibility rules within an element."""
        self.driver.execute_script(AXE.read_text())
        found: list[str] = self.driver.execute_async_script(VIOLATIONS, within)
        return found

    def find(self, selector: str) -> WebElement:
        """The first element that matches a CSS selector."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        """All elements that match a CSS selector."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The visible text of an element."""
        return self.find(selector).text

    def texts(self, selector: str) -> list[str]:
        """The visible texts of all matching elements, read at the same time."""
        found: list[str] = self.run(TEXTS, selector)
        return found

    def wait_for_text(self, selector: str, text: str) -> None:
        """Wait until an element exists and contains a text."""
        wait_until(
            lambda: any(text in shown for shown in self.texts(selector)),
            f"{selector} contains {text!r}",
        )

    def fill(self, selector: str, text: str) -> None:
        """Replace the text of a field."""
        self.find(selector).clear()
        self.find(selector).send_keys(text)

    def set_value(self, selector: str, text: str) -> None:
        """Replace the text of a field at once, like pasting it."""
        self.run(SET_VALUE, self.find(selector), text)

    def choose(self, selector: str, text: str) -> None:
        """Choose an option of a list."""
        Select(self.find(selector)).select_by_visible_text(text)

    def choices(self, selector: str) -> list[str]:
        """The options of a list."""
        return [option.text for option in Select(self.find(selector)).options]

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.find(selector).click()

    def press(self, key: str) -> WebElement:
        """Press a key, and return the element that has the focus afterwards."""
        self.driver.switch_to.active_element.send_keys(key)
        return self.driver.switch_to.active_element

    def press_tab(self) -> WebElement:
        """Move the focus to the next element."""
        return self.press(Keys.TAB)

    @contextmanager
    def wrong_clock(self, seconds: int) -> Iterator[None]:
        """Make the browser's clock wrong by so many seconds, for pages that are opened next."""
        script = self.driver.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": WRONG_CLOCK % (1000 * seconds)}
        )
        yield
        self.driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)

    def hide(self) -> str:
        """Hide the page behind a new tab, and return the handle of the page's tab."""
        here = self.driver.current_window_handle
        self.driver.switch_to.new_window("tab")
        return here

    def show(self, tab: str) -> None:
        """Close the current tab, and show the given one."""
        self.driver.close()
        self.driver.switch_to.window(tab)


TEXTS = """
const elements = [...document.querySelectorAll(arguments[0])];
return elements.filter((element) => element.checkVisibility()).map((element) => element.innerText);
"""


class Dashboard(Window):
    """A window with the dashboard of a server.

    :param url: the URL of the page, if it isn't the server's own.
    """

    def __init__(self, window: Window, server: Server, url: str = "") -> None:
        super().__init__(window.driver)
        self.server = server
        self.open(url or f"http://localhost:{server.port}/")
        self.wait_for_text("#state", "In service")
        wait_until(self.find("#requests").is_displayed, "the forms are shown")
        wait_until(self.find("#prefer button").is_enabled, "the stored preferences are shown")

    def look_up(self, recipient_id: str, stored: str) -> None:
        """Enter a recipient in the preferences form, and wait for the stored preferences."""
        self.fill("#prefer-recipient_id", recipient_id)
        self.wait_for_text("#prefer-recipient_id-hint", stored)

    @property
    def preferences(self) -> dict[str, str]:
        """The chosen value of each preference."""
        return {
            radio.get_attribute("name") or "": radio.get_attribute("value") or ""
            for radio in self.find_all("#prefer [type=radio]:checked")
        }

    @property
    def totals(self) -> list[str]:
        """The displayed totals: delivered, dropped, rejected."""
        return [self.text(f"#{kind}") for kind in ("delivered", "dropped", "rejected")]

    def wait_for_totals(self, *totals: str) -> None:
        """Wait until the dashboard shows the given totals."""
        wait_until(lambda: self.totals == list(totals), f"the totals are {totals}")

    @property
    def rows(self) -> dict[str, list[str]]:
        """The displayed figures of each type."""
        return {
            row.get_attribute("data-type") or "": [
                cell.text for cell in row.find_elements(By.TAG_NAME, "td")
            ]
            for row in self.find_all("#types tr")
        }

    def submit_search(self, form: str, outcome: str) -> None:
        """Submit a search form, and wait for its outcome."""
        self.click(f"#{form} button:not([type])")
        self.wait_for_text(f"#{form} .outcome", outcome)

    def submit(self, form: str, outcome: str) -> str:
        """Submit a form, wait for its outcome, and return the displayed response."""
        self.click(f"#{form} button:not([type])")
        self.wait_for_text(f"#{form} .outcome", outcome)
        return self.text(f"#{form} .answer")
