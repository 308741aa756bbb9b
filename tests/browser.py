"""A page in headless Chromium: what it says, asks for and looks like."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def chromium():
    """A browser of this machine; skips the test where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = next(filter(None, map(shutil.which, _NAMES)), None)
    if path is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()


@contextmanager
def opened(browser, path: Path, width=1280, scheme="light"):
    """The page; at the end it must have drawn all that was seen without an error or a request to the network."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", lambda request: None if _local(request.url) else complaints.append(f"asks {request.url}"))
    page.goto(path.as_uri())
    yield page
    assert not complaints
    context.close()


def draw_all(page):
    """Scroll through the page, and wait until every plot on the way is drawn. Returns how many there are."""
    plots = page.locator(".plot:visible")
    for number in range(plots.count()):
        plots.nth(number).scroll_into_view_if_needed()
        plots.nth(number).locator(".main-svg").first.wait_for()
    return plots.count()


def _local(url: str) -> bool:
    return url.startswith(("file:", "data:", "blob:"))
