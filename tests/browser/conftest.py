"""Fixtures: a browser, and servers for it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.webdriver import WebDriver

from tests.backends import SQLiteBackend
from tests.browser.window import Window
from tests.conftest import skip_or_fail
from tests.servers.running import Installation, Server


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Headless Chromium."""
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and chromedriver):
        skip_or_fail("Chromium or its driver isn't installed (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new",
        "--no-sandbox",  # the sandbox doesn't work for root
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(chromedriver)
    with webdriver.Chrome(options=options, service=service) as driver:
        yield driver


@pytest.fixture
def window(driver: WebDriver) -> Iterator[Window]:
    """The browser's window: empty, wide, and with a light colour scheme."""
    window = Window(driver)
    window.resize(1280, 900)
    window.prefer(color_scheme="light", reduced_motion="no-preference")
    window.open("about:blank")
    window.console_messages()  # discards the messages of the previous test
    yield window
    window.open("about:blank")


@pytest.fixture(scope="session")
def installation_of_session(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """The service shared by all tests, which use it one after another."""
    return _install(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="session")
def server_of_session(installation_of_session: Installation) -> Iterator[Server]:
    """The server of the shared service."""
    with installation_of_session.gunicorn(workers=1) as server:
        yield server


@pytest.fixture
def server(installation_of_session: Installation, server_of_session: Server) -> Server:
    """A server with empty tables."""
    installation_of_session.database.empty_tables()
    return server_of_session


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """The service for a single test."""
    return _install(tmp_path)


def _install(folder: Path) -> Installation:
    installation = Installation(folder, SQLiteBackend(folder / "galaxy_express.db"))
    installation.create_schema()
    return installation
