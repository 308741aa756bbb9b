"""A page in headless Chromium."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@contextmanager
def chromium():
    """The browser of this machine; skips the test if there is none."""
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
    """The page; fails at the end if it logged an error or a warning, or asked for anything from the network."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(60_000)
    complaints = []

    def on_console(message):
        if "GPU stall due to ReadPixels" not in message.text:  # of the software renderer, about WebGL
            complaints.append(f"{message.type}: {message.text}")

    def on_request(request):
        if not request.url.startswith(("file:", "data:", "blob:")):
            complaints.append(f"asks {request.url}")

    page.on("console", on_console)
    page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    page.on("request", on_request)
    page.goto(path.as_uri())
    yield page
    assert not complaints
    context.close()


def draw_all(page):
    """Scrolls through the page until every plot is drawn. Returns how many there are."""
    plots = page.locator(".plot:visible")
    for number in range(plots.count()):
        draw(plots.nth(number))
    return plots.count()


def draw(plot):
    """Scrolls to a plot and waits until it is drawn."""
    plot.scroll_into_view_if_needed()
    plot.locator(".main-svg").first.wait_for()
