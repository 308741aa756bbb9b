"""`make docs` builds a complete site that loads nothing from the network."""

import importlib
import os
import re
import string
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from mkdocs.exceptions import PluginError

from fvit.config.paths import conf_dir

from .browser import chromium
from .serving import served
from .test_zoo import load

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
site = load("site")
SEARCHES = {
    "linformer": "zoo",
    "resume": "resume",
    "finetune": "finetuning",
    "freeze": "probes",
    "mixed precision": "hardware",
    "early stopping": "command_line",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a page loads, and what can be linked to in it."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.anchors = [], set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "img", "iframe", "link"):
            self.loads += [value for name in ("src", "href") if (value := attrs.get(name))]
        self.anchors.add(attrs.get("id"))


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_is_whole(built):
    pages = {path.relative_to(built).as_posix(): Page(path) for path in built.rglob("*.html")}
    written = {path.stem for path in DOCS.glob("*.md")}
    assert {f"{name}.html" for name in (*written, "index", "reference/commands")} <= set(pages)
    assert [url for page in pages.values() for url in page.loads if re.match("(https?:)?//", url)] == []
    for group in (path for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"):
        options = {path.stem for path in group.glob("[!_]*.yaml")}
        assert options <= pages[f"reference/{group.name}.html"].anchors, group.name
    for package in site.PACKAGES:
        module = importlib.import_module(f"fvit.{package}")
        anchors = " ".join(filter(None, pages[f"api/{package}.html"].anchors))
        for name in module.__all__:
            assert re.search(rf"\bfvit\.{package}\.[\w.]*\b{name}\b", anchors), name
    assert "fvit.attention.zoo.xca" in pages["api/attention.html"].anchors  # where the zoo links to
    assert 'href="api/attention.html#fvit.attention.zoo.xca"' in (built / "zoo.html").read_text(encoding="utf-8")
    assert not list(built.rglob("*.py*"))


@pytest.mark.slow
def test_a_browser_finds_no_fault_and_searches(built):
    with served(built) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        complaints = []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
        page.on("request", lambda r: None if r.url.startswith((address, "data:")) else complaints.append(r.url))
        for name in ("index", "first_run", "which_one", "zoo", "reference/attention", "api/models"):
            page.goto(f"{address}/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= 1280
        page.goto(f"{address}/zoo.html")
        shown = "document.querySelectorAll('.filterable + * tbody tr:not([hidden])').length"
        everything = page.evaluate(shown)
        page.locator(".filterable input").fill("deit o(n·d·d)")
        assert 3 < page.evaluate(shown) < 15
        page.locator(".filterable select").first.select_option("linear")
        page.locator(".filterable input").fill("mhla_deit")
        assert page.evaluate(shown) == 1
        assert page.locator(".filterable output").inner_text() == f"1 of {everything}"
        page.goto(f"{address}/api/models.html")
        # By keys: the page listens to those, and not to a value that is put there.
        for query, target in SEARCHES.items():
            page.locator("input[name=query]").fill("")
            page.locator("input[name=query]").press_sequentially(query)
            page.locator(f".md-search-result__item a[href*='{target}']").first.wait_for(timeout=30_000)
        # The beginning of every word of the index.
        for letter in string.ascii_lowercase:
            page.locator("input[name=query]").fill("")
            page.locator("input[name=query]").press("Backspace")
            page.locator(".md-search-result__item").first.wait_for(state="detached", timeout=30_000)
            page.locator("input[name=query]").press(letter)
            page.locator(".md-search-result__item").first.wait_for(timeout=30_000)
        assert not complaints


@pytest.mark.parametrize("page", [*sorted(DOCS.glob("*.md")), ROOT / "README.md"], ids=lambda page: page.name)
def test_links_lead_somewhere_on_github_too(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        assert target.startswith("https://") or (page.parent / target).is_file(), target


def test_new_pages_need_no_change_of_the_navigation(tmp_path):
    for name in ("data", "something_new"):
        (tmp_path / f"{name}.md").write_text(f"# {name}")
    nav = [{"Overview": "index.md"}, {"More": [{"Data": "data.md"}]}, {"Python": "api/"}]
    assert site.on_config(SimpleNamespace(docs_dir=str(tmp_path), nav=nav)).nav == [
        {"Overview": "index.md"},
        {"More": [{"Data": "data.md"}, "something_new.md"]},
        {"Python": [f"api/{package}.md" for package in site.PACKAGES]},
    ]


def test_a_page_that_is_named_and_not_there_is_an_error(tmp_path):
    (tmp_path / "data.md").write_text("# Data")
    nav = [{"More": [{"Data": "data.md"}, {"Resume": "resmue.md"}]}]
    with pytest.raises(PluginError, match=r"names pages that are not in .*: resmue\.md$"):
        site.on_config(SimpleNamespace(docs_dir=str(tmp_path), nav=nav))


def test_a_list_behind_a_paragraph_is_one():
    text = "Words\n* one\n  more\n* two\n\n```text\nwords\n* none\n```\n"
    assert site._spaced_lists(text) == text.replace("Words\n", "Words\n\n")
