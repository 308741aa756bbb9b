"""Builds an HTML file that opens offline: style, scripts, data and plotly.js are inlined."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>
{style}</style>
</head>
<body>
{body}
{data}
{scripts}
</body>
</html>
"""


def document(
    title: str,
    body: str,
    figures: Mapping[str, dict[str, Any]],
    data: Mapping[str, Any] | None = None,
    scripts: Sequence[str] = (),
) -> str:
    """The page.

    Args:
        title: plain text.
        body: HTML with a `plot` for each figure.
        figures: by name, plotly's traces and layout as ``data`` and ``layout``. Drawn when scrolled into view.
        data: further content for `scripts`, as JSON in elements with the id ``data-NAME``.
        scripts: JavaScript that runs before the first figure is drawn.
    """
    # Before the scripts, so that the page shows while plotly loads.
    blocks = [_json_element(name, content) for name, content in {"figures": dict(figures), **(data or {})}.items()]
    return _PAGE.format(
        title=html.escape(title),
        style=read_file("style.css"),
        body=body,
        data="\n".join(blocks),
        scripts="\n".join(f"<script>{text}</script>" for text in (_plotly(), read_file("plots.js"), *scripts)),
    )


def plot(name: str, height: int = 360, title: str = "") -> str:
    """The HTML element in which the figure `name` is drawn, `height` pixels high."""
    head = f"<h3>{html.escape(title)}</h3>\n" if title else ""
    return f'<figure>{head}<div class="plot" id="plot-{name}" style="height:{height}px"></div></figure>'


def read_file(name: str, folder: Path = Path(__file__).parent) -> str:
    """The text of a packaged file."""
    return (folder / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """plotly.js with its function in parentheses: they make Chromium parse its 4.8 MB once instead of twice."""
    from plotly.offline import get_plotlyjs

    text = get_plotlyjs()
    begin, end = '(typeof self !== "undefined" ? self : this, ', "));"
    head, found, function = text.partition(begin)
    body, closed, tail = function.rpartition(end)
    return f"{head}{begin}({body}){end}{tail}" if found and closed else text


def _json_element(name: str, content: Any) -> str:
    """JSON in a script element; without `<` it cannot close the element."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data-{name}">{text}</script>'
