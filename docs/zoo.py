"""Write docs/zoo.md, the table of all mechanisms, from the classes themselves: `python docs/zoo.py`.

A mechanism tells what it is in its module's docstring: a line of summary, paragraphs that start with `Source:` and
`Cost:`, and the formula as the first indented one. What its options do stands under `Args:` of the class, and sets of
options in conf/attention. What it needs is read off an instance, masks are tried out, and costs are counted.
"""

import copy
import functools
import inspect
import itertools
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import yaml
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import Mechanism, get, names
from fvit.attention.base import HOST_OPTIONS
from fvit.config.paths import conf_dir
from fvit.cost import Cost, count
from fvit.models import exchange

PAGE = Path(__file__).resolve().with_name("zoo.md")
SIZES = (224, 384)

INTRODUCTION = """\
# The zoo

<!-- Written by `make zoo` from src/fvit/attention and conf/attention. What is changed here is lost. -->

All mechanisms, as their classes describe them. One suite holds each to a slow reference in float64
(`tests/attention/cases.py`). [own_mechanism.md](own_mechanism.md) adds one of your own.

Names follow one rule. `attention=KEY` is the mechanism as its paper defines it, with every add-on off: convolution,
gate, position, bias. `attention=KEY_MODEL`, indented below it, is the attention of the model that its authors released,
under the name of that model (`KEY_released` where that is the key itself): what theirs has inside the attention is on,
and what it has elsewhere, in blocks, stages or training, is the host's. A key without such a line was released as it
is, or with nothing more that is attention. Single options are set by `model.attention.OPTION=VALUE`.

* N tokens, D channels, H heads, d = D/H. *Cost* is that beside the projections.
* *Needs*: a **grid**, the patches in rows and columns; a **fixed length**, for it has weights for each token, which are
  resampled when the size of the images changes; **no prefix**: a host without class and register tokens; an
  **average**: `global_pool=avg`, for a class token would see nothing of the image.
* *Masks*: over **keys** ([B, 1, 1, N]), or between **pairs** as well ([B, H, N, N]); **causal**: `is_causal=True`. What
  is not honoured is refused.
"""

COSTS = """\
## What they cost

Parameters, and multiply-accumulates of one image, of timm's `vit_small_patch16_224` with its attention exchanged in
every block. *Paper's way*: convolutions and linear layers alone. *True*: the products inside attention as well, Fourier
transforms and average pooling included; sums and exponentials are in neither. `fvit.cost.count` counts both. Where a
class token cannot be, there is one token less.
"""


class Description(NamedTuple):
    """What the docstring of a mechanism's module says."""

    summary: str
    source: str
    formula: str
    cost: str


class Option(NamedTuple):
    """An argument of the constructor that is the mechanism's own."""

    name: str
    default: Any
    text: str


class Choice(NamedTuple):
    """What `attention=` can choose: a file of conf/attention."""

    name: str
    comment: str
    options: dict[str, Any]


class Entry(NamedTuple):
    """What the page says of one mechanism: its lines in both tables, and its section."""

    overview: str
    costs: str
    section: str


def main() -> None:
    """Write the page."""
    PAGE.write_text(render(), encoding="utf-8")
    print(f"wrote {PAGE}")


def render() -> str:
    """The page."""
    entries = [entry(key) for key in mechanisms()]
    figures = [f"{size} px: {what}" for size in SIZES for what in ("parameters", "paper's way", "true")]
    parts = [
        INTRODUCTION,
        table(["attention", "what it is", "paper", "cost", "needs", "masks"], [e.overview for e in entries]),
        COSTS,
        table(["attention", *figures], [e.costs for e in entries], numbers=True),
        "## One by one\n",
        *(e.section for e in entries),
    ]
    return "\n".join(parts)


def mechanisms() -> list[str]:
    """All mechanisms of the zoo; somebody may have registered others."""
    return [key for key in names() if get(key).__module__.startswith("fvit.")]


def entry(key: str) -> Entry:
    """All that the page says of one mechanism."""
    cls = get(key)
    described, own_options, (core, *sets) = describe(cls), options(cls), choices(key)
    about = [described.summary, _linked(f"arXiv:{_papers(described.source)[0]}"), _order(described.cost)]
    overview, costs = [], []
    for choice in (core, *sets):
        attn, counted = build({"name": key, **choice.options})
        label = f"[`{key}`](#{key})" if choice is core else f"&emsp;`{choice.name}`"
        overview.append([label, *(about if choice is core else ["", "", ""]), needs(attn), masks(attn)])
        figures = [(f"{c.params / 1e6:.2f} M", f"{c.macs_paper / 1e9:.2f} G", f"{c.macs / 1e9:.2f} G") for c in counted]
        costs.append([label, *itertools.chain(*figures)])
    return Entry(lines(overview), lines(costs), section(key, cls, described, own_options, sets))


def section(
    key: str, cls: type[Mechanism], described: Description, own_options: list[Option], sets: list[Choice]
) -> str:
    """A mechanism's formula, source, options and sets of options."""
    file = f"src/{cls.__module__.replace('.', '/')}.py"
    parts = [
        f"### {key}\n\n{described.summary}.\n",
        f"```text\n{described.formula}\n```\n",
        f"{_linked(described.source)} Cost: {described.cost}. More in [{file}](../{file}).\n",
    ]
    if own_options:
        rows = [[f"`{option.name}`", f"`{_written(option.default)}`", option.text] for option in own_options]
        parts.append(table(["option", "default", "what it is"], [lines(rows)]))
    if sets:
        rows = [
            [
                f"`{one.name}`",
                f"`{' '.join(f'{name}={_written(value)}' for name, value in one.options.items())}`",
                _linked(one.comment),
            ]
            for one in sets
        ]
        parts.append(table(["`attention=`", "sets", "which is"], [lines(rows)]))
    return "\n".join(parts)


def describe(cls: type[Mechanism]) -> Description:
    """Read the docstring of a mechanism's module.

    Raises:
        ValueError: a part is missing; the text says which, and its form.
    """
    module = sys.modules[cls.__module__]
    paragraphs = inspect.cleandoc(module.__doc__ or "").split("\n\n")
    texts = [" ".join(paragraph.split()) for paragraph in paragraphs]

    def lacks(what: str) -> ValueError:
        return ValueError(f"{cls.__name__}: the docstring of {module.__name__} {what}")

    def starting_with(word: str, example: str) -> str:
        found = next((text for text in texts if text.startswith(word)), None)
        if found is None:
            raise lacks(f"has no paragraph that starts with '{word}'; write '{word} {example}'")
        return found.removeprefix(word).strip()

    source = starting_with("Source:", 'Authors, "Title", arXiv:2108.09084.')
    if not _papers(source):
        raise lacks(f"names no paper in the form arXiv:2108.09084 under 'Source:': {source}")
    cost = re.split(r"[.;](?:\s|$)", starting_with("Cost:", "O(N·D) besides the four projections."))[0]
    if not _order(cost):
        raise lacks(f"starts 'Cost:' with no order such as O(N·D), and not with none: {cost}")
    formula = next((text for text in paragraphs if all(line.startswith("    ") for line in text.splitlines())), None)
    if formula is None:
        raise lacks("has no formula; write it as a paragraph of its own, indented by four spaces")
    return Description(texts[0].removesuffix("."), source, inspect.cleandoc(formula), cost)


def options(cls: type[Mechanism]) -> list[Option]:
    """The arguments of the constructor that hosts do not know, in its order.

    Raises:
        ValueError: the docstring of the class does not explain one.
    """
    of_hosts = {*inspect.signature(Mechanism).parameters, *HOST_OPTIONS, "device", "dtype"}
    texts = dict(re.findall(r"^    (\w+): (.+(?:\n {8,}.+)*)", inspect.cleandoc(cls.__doc__ or ""), flags=re.MULTILINE))
    found = []
    for name, parameter in inspect.signature(cls).parameters.items():
        if name in of_hosts:
            continue
        if name not in texts:
            raise ValueError(f"{cls.__name__}: its docstring does not explain the option {name}; add it under 'Args:'")
        text = " ".join(texts[name].split()).replace("``", "`").removesuffix(".")
        found.append(Option(name, parameter.default, text))
    return found


def choices(key: str) -> list[Choice]:
    """The files of conf/attention that choose a mechanism: its own first, then those that set its options.

    Raises:
        ValueError: it has none of its own, or the name of another one does not start with the key.
    """
    found = []
    for path in sorted((conf_dir() / "attention").glob("*.yaml"), key=lambda path: (path.stem != key, path.stem)):
        text = path.read_text(encoding="utf-8")
        chosen = yaml.safe_load(text)
        if chosen.pop("name") == key:
            if path.stem != key and not path.stem.startswith(f"{key}_"):
                raise ValueError(f"conf/attention/{path.name} sets options of {key}; name it {key}_MODEL.yaml")
            comment = " ".join(re.findall(r"^# (?!@package)(.*)$", text, flags=re.MULTILINE))
            found.append(Choice(path.stem, comment.removesuffix("."), chosen))
    if not found or found[0].name != key:
        raise ValueError(f"attention '{key}' has no file of its own in conf/attention; write {key}.yaml")
    return found


def build(attention: dict[str, Any]) -> tuple[Mechanism, list[Cost]]:
    """A mechanism in its host, and what the host costs at each size."""
    cls = get(attention["name"])
    costs = []
    for size in SIZES:
        host = exchange(copy.deepcopy(_host(size, cls.takes_prefix and cls.reaches_prefix)), attention)
        costs.append(count(host, size))
    return host.blocks[0].attn, costs


@functools.cache
def _host(size: int, class_token: bool) -> VisionTransformer:
    """A ViT-S/16 on the meta device, where nothing is computed."""
    with torch.device("meta"):
        options = {} if class_token else {"class_token": False, "global_pool": "avg"}
        return timm.create_model("vit_small_patch16_224", img_size=size, **options)


def needs(attn: Mechanism) -> str:
    """What a mechanism with its options needs of its host."""
    facts = {
        "grid": attn.needs_grid,
        "fixed length": attn.fixed_length,
        "no prefix": not attn.takes_prefix,
        "average": attn.takes_prefix and not attn.reaches_prefix,
    }
    return ", ".join(need for need, is_so in facts.items() if is_so)


def masks(attn: Mechanism) -> str:
    """Which masks a mechanism does not refuse; by its contract it then honours them."""
    rows, columns = attn.grid_size
    tokens = attn.num_prefix_tokens + rows * columns
    x = torch.empty(1, tokens, attn.dim, device="meta")

    def honours(**arguments: Any) -> bool:
        try:
            attn(x, **arguments)
        except ValueError:
            return False
        return True

    between_pairs = honours(attn_mask=x.new_ones(1, 1, tokens, tokens, dtype=torch.bool))
    over_keys = honours(attn_mask=x.new_ones(1, 1, 1, tokens, dtype=torch.bool))
    kinds = {"pairs": between_pairs, "keys": over_keys and not between_pairs, "causal": honours(is_causal=True)}
    return ", ".join(kind for kind, is_so in kinds.items() if is_so) or "none"


def table(head: list[str], rows: list[str], numbers: bool = False) -> str:
    """A table in Markdown of what `lines` made; with `numbers`, all columns but the first are aligned to the right."""
    rule = ["---", *["---:" if numbers else "---"] * (len(head) - 1)]
    return lines([head, rule]) + "".join(rows)


def lines(rows: list[list[str]]) -> str:
    """Cells as lines of a table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def _papers(source: str) -> list[str]:
    return re.findall(r"arXiv:(\d{4}\.\d{4,5})", source)


def _linked(text: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _order(cost: str) -> str:
    """The leading O(…), or none."""
    match = re.match(r"O\((?:[^()]|\([^()]*\))*\)|none\b", cost)
    return match[0] if match else ""


def _written(value: Any) -> str:
    """A value as the command line takes it."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n").removesuffix("\n...")


if __name__ == "__main__":
    main()
