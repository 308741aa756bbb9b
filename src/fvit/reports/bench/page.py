"""The plots and tables of a benchmark as one page that opens offline."""

import html
from collections.abc import Sequence

from fvit.reports.bench.charts import Chart
from fvit.reports.bench.figures import figure, height
from fvit.reports.bench.tables import Table
from fvit.reports.web.document import document, plot


def page(title: str, note: str, charts: Sequence[Chart], tables: Sequence[Table]) -> str:
    """HTML with all that it needs inside it."""
    head = f'<h1>{html.escape(title)}</h1>\n<p class="note">{html.escape(note)}</p>'
    plots = "\n".join(plot(chart.key, height(chart), chart.title) for chart in charts)
    body = "\n".join([head, f'<div class="plots">\n{plots}\n</div>', *map(_table, tables)])
    return document("fvit-bench", body, {chart.key: figure(chart) for chart in charts})


def _table(table: Table) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    rows = "\n".join([line(table.head, "th"), *(line(row, "td") for row in table.rows)])
    title, note = html.escape(table.title), html.escape(table.note)
    return f'<h2>{title}</h2>\n<div class="wide"><table>\n{rows}\n</table></div>\n<p class="note">{note}</p>'
