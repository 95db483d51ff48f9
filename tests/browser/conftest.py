"""A headless Chromium, and the page to look at: the real webui's, or a plain one made of the same panel."""

import os
import shutil
from pathlib import Path

import pytest

from tests.host.conftest import checkpoints, start, webui, webui_folder, webui_python  # noqa: F401

HERE = Path(__file__).resolve().parent
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.fspath).parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (pip install playwright)")
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.skip("no Chromium found (CHROMIUM names one)")
    with api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser):
    """A page that cannot leave this machine. Errors of our own script fail the test."""
    page = browser.new_page(viewport={"width": 1300, "height": 1600})
    page.set_default_timeout(60000)
    errors = []
    page.on("pageerror", lambda error: errors.append(f"{error}\n{error.stack}"))

    def local_only(route):
        url = route.request.url
        local = "127.0.0.1" in url or url.startswith(("data:", "blob:"))
        route.continue_() if local else route.abort()

    page.route("**/*", local_only)
    yield page
    page.close()
    assert not [error for error in errors if "attention" in error.lower()]


@pytest.fixture
def keep(tmp_path):
    """``keep(page, name)`` takes a screenshot, into the folder SCREENSHOTS if that is set."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png")
