"""Writes the tables of published numbers in docs/baselines.md and docs/cost.md, from published.csv and the models.

    python docs/published.py    # or: make published

A table stands between <!-- KEY: written by `make published` --> and <!-- /KEY -->.
"""

from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import timm
import torch

from fvit.config.paths import conf_dir
from fvit.cost import count
from fvit.cost.published import SOURCES, Published, published

DOCS = Path(__file__).resolve().parent
BASELINES = ("timm", "ViP", "CAS-ViT", "CrossFormer++", "FasterViT", "ViT-5")
"""Sources of the rows of docs/baselines.md."""
FAMILIES = {
    **{name: f"{name}_" for name in ("convmixer", "convnextv2", "efficientformerv2", "fastvit")},
    **{name: f"{name}_" for name in ("mobilevitv2", "swiftformer")},
    "clip_vit": "vit_",
    **{name: name for name in ("vip", "casvit", "crossformerpp", "fastervit", "vit5")},
}
"""The tables of docs/baselines.md, and how timm's names of their models start."""
HEAD = [
    "published",
    "px",
    "parameters",
    "MACs",
    "top-1",
    "weights",
    "here: parameters",
    "papers' convention",
    "all MACs",
]
MOST_TAGS = 4


def main() -> None:
    """Write both pages."""
    pages = {
        "baselines": {family: baseline_table(baselines(family)) for family in FAMILIES}
        | {"sources": citations(BASELINES)},
        "cost": {"published": cost_table()},
    }
    for page, tables in pages.items():
        path = DOCS / f"{page}.md"
        path.write_text(with_tables(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


def with_tables(text: str, tables: dict[str, str]) -> str:
    """A page with its tables replaced."""
    for key, table in tables.items():
        start, end = f"<!-- {key}: written by `make published` -->\n", f"<!-- /{key} -->"
        before, rest = text.split(start)
        text = before + start + table + end + rest.split(end)[1]
    return text


def baselines(family: str) -> list[Published]:
    """The rows of one family, smallest first."""
    return [row for row in published() if row.source in BASELINES and row.model.startswith(FAMILIES[family])]


def baseline_table(rows: list[Published]) -> str:
    """The sizes of one family, as published and as counted here."""
    key = "`model=`" if (conf_dir() / "model" / f"{rows[0].model}.yaml").is_file() else "`model.name=`"
    lines = [[*published_cells(row), *counted_cells(row.model, row.res)] for row in rows]
    return markdown([key, *HEAD], lines, right=(3, 4, 5, 7, 8, 9))


def published_cells(row: Published) -> list[str]:
    """The cells of a baseline up to its weights."""
    with_units = [f"{text} {unit}" if text else "–" for text, unit in zip((row.params_m, row.gmacs), "MG", strict=True)]
    return [f"`{row.model}`", row.name, str(row.res), *with_units, row.top1 or "–", weights(row)]


def counted_cells(model: str, res: int) -> list[str]:
    """The cells that `fvit.cost.count` fills."""
    with torch.device("meta"):
        cost = count(timm.create_model(model).eval(), res)
    return [f"{cost.params / 1e6:.2f} M", f"{cost.macs_paper / 1e9:.2f} G", f"{cost.macs / 1e9:.2f} G"]


def weights(row: Published) -> str:
    """The released weights: timm's tags, the default first, or a link."""
    config = timm.get_pretrained_cfg(row.model)
    if row.source == "timm":
        tags = [name.partition(".")[2] for name in timm.list_pretrained(row.model)]
        tags.sort(key=lambda tag: tag != config.tag)
        more = [f"{len(tags) - MOST_TAGS} more"] if len(tags) > MOST_TAGS else []
        return ", ".join([f"`{tag}`" for tag in tags[:MOST_TAGS]] + more) or "none"
    address = config.url or config.origin_url
    hosts = {"drive.google.com": "Google Drive", "pan.baidu.com": "BaiduCloud", "huggingface.co": "Hugging Face"}
    return f"[{hosts[urlsplit(address).hostname]}]({address})" if address else "none"


def cost_table() -> str:
    """Published numbers of models that exist here, other than the baselines, and their sources."""
    rows = [row for row in published() if row.model and row.source not in BASELINES]
    head = ["as printed", "here", "res", "params, M", "GMACs", "images/s", "on", "top-1, %", "source"]
    lines = []
    for row in rows:
        numbers = (row.params_m, row.gmacs, row.images_per_s, row.hardware, row.top1)
        cells = [row.name, f"`{row.model}` {row.attention}", str(row.res), *(text or "–" for text in numbers)]
        lines.append([*cells, row.source])
    return markdown(head, lines, right=(2, 3, 4, 5, 7)) + "\n" + citations(dict.fromkeys(row.source for row in rows))


def citations(sources: Iterable[str]) -> str:
    """A list of sources."""
    return "".join(f"* {name}: {SOURCES[name]}.\n" for name in sources)


def markdown(head: list[str], rows: list[list[str]], right: tuple[int, ...]) -> str:
    """A table whose columns `right` are right-aligned."""
    rule = ["---:" if column in right else "---" for column in range(len(head))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in ([*head], rule, *rows))


if __name__ == "__main__":
    main()
