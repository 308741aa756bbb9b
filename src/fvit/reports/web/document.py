"""One HTML file that opens offline: its style, its scripts and plotly.js inside it, light and dark, wide and narrow."""

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
        body: HTML; `plot` makes the place of a figure in it.
        figures: plotly's traces and layout under ``data`` and ``layout``, by the name of their place. Each is drawn
            when it comes into view.
        data: further content as JSON, for `scripts`, each in an element of the id ``data-NAME``.
        scripts: JavaScript that runs after `figures` are known and before any is drawn.
    """
    # The content stands in front of the library, so that it is seen while that one loads.
    blocks = [_block(name, content) for name, content in {"figures": dict(figures), **(data or {})}.items()]
    return _PAGE.format(
        title=html.escape(title),
        style=read("style.css"),
        body=body,
        data="\n".join(blocks),
        scripts="\n".join(f"<script>{text}</script>" for text in (_plotly(), read("plots.js"), *scripts)),
    )


def plot(name: str, height: int = 360, title: str = "", note: str = "") -> str:
    """The place of a figure, `height` pixels high, its title above it."""
    head = f"<h3>{html.escape(title)}</h3>\n" if title else ""
    told = f'<p class="note">{html.escape(note)}</p>\n' if note else ""
    return f'<figure>{head}{told}<div class="plot" id="plot-{name}" style="height:{height}px"></div></figure>'


def read(name: str, folder: Path = Path(__file__).parent) -> str:
    """A packaged text file."""
    return (folder / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """The library, the function that holds all of it in parentheses.

    They tell a browser that it is called at once, and without them Chromium reads its 4.8 MB twice.
    """
    from plotly.offline import get_plotlyjs

    text = get_plotlyjs()
    begin, end = '(typeof self !== "undefined" ? self : this, ', "));"
    head, found, function = text.partition(begin)
    body, closed, tail = function.rpartition(end)
    return f"{head}{begin}({body}){end}{tail}" if found and closed else text


def _block(name: str, content: Any) -> str:
    """JSON inside a script element: no `<` of it ends or opens anything."""
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
    return f'<script type="application/json" id="data-{name}">{text}</script>'
