"""Speed and memory of additive attention's fast forms, against the textbook form, softmax and another library.

    python benchmarks/additive.py                   all rows of the table, a few minutes
    python benchmarks/additive.py --rows 1 4 7      selected rows
    python benchmarks/additive.py --json FILE       write JSON to FILE instead of logs/benchmarks/additive.json

Whole models with a class token, in float32 and one process. Models are timed in turns; a ratio is the median of the
rounds' ratios, with their interquartile range. Freed memory is kept, as in `fvit-train`, since what the C library
returns to the system depends on the order of blocks, not on the model. A ceiling is the ratio for the least that any
exact form can compute. Rows against another library need ``pip install fast-transformer-pytorch`` and are skipped
without it.
"""

import argparse
import importlib.util
import json
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from fvit.attention import Mechanism
from fvit.cost.memory import saved_for_backward
from fvit.cost.timing import Step, time_in_turns
from fvit.cost.workload import fix_threads, machine
from fvit.launch.allocator import keep_freed_memory
from fvit.models import build

SHAPES = {
    "B": dict(embed_dim=768, num_heads=12),
    "S": dict(embed_dim=384, num_heads=6),
    "Ti": dict(embed_dim=192, num_heads=3),
}
OURS = dict(attention="additive")
TEXTBOOK = dict(attention={"name": "additive", "form": "textbook"})
SOFTMAX = dict(attention=None)


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(ROWS)), help="row numbers, from 0")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("logs/benchmarks/additive.json"))
    options = parser.parse_args()
    fix_threads(options.threads)
    keep_freed_memory()
    console = Console(width=120)
    results = []
    for number in options.rows:
        name, target, measure, *arguments = ROWS[number]
        if "fast-transformer" in name and importlib.util.find_spec("fast_transformer_pytorch") is None:
            console.print(f"{number}  {name}: skipped, pip install fast-transformer-pytorch")
            continue
        with console.status(f"{number}  {name}"):
            found = measure(*arguments, rounds=options.rounds)
        low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
        results.append(dict(row=number, name=name, target=target, median=middle, low=low, high=high))
        console.print(f"{number}  {name}: {middle:.2f}")
    print_table(console, results)
    on = machine(torch.device("cpu")) | dict(timm=timm.__version__, python=platform.python_version())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(dict(results=results, machine=on), indent=2) + "\n", encoding="utf-8")
    console.print(f"saved to {options.json}")


def print_table(console: Console, results: list[dict]) -> None:
    """One row per ratio, in Markdown."""
    table = Table("row", "against, what", "target", "ratio", "interquartile range", box=box.MARKDOWN)
    for r in results:
        table.add_row(str(r["row"]), r["name"], r["target"], f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}")
    console.print(table)


def vit(shape: str, size: int, **options: object) -> nn.Module:
    """A ViT of 12 blocks with patches of 16 px and a class token."""
    torch.manual_seed(0)
    name = "vit_base_patch16_224"
    return build(name, size, 1000, **{"depth": 12, **SHAPES[shape], **options})


def ratios(rounds: int, ours: Step, other: Step) -> list[float]:
    """Time of the other divided by ours, per round."""
    timings = time_in_turns({"ours": ours, "other": other}, runs=rounds)
    return [b / a for a, b in zip(timings["ours"].seconds, timings["other"].seconds, strict=True)]


def inference(model: nn.Module, images: Tensor) -> Step:
    """One forward pass."""
    model.eval()

    def step() -> None:
        with torch.inference_mode():
            model(images)

    return step


def training(model: nn.Module, images: Tensor) -> Step:
    """Forward, backward and a step of SGD."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        model(images).logsumexp(dim=1).sum().backward()
        optimizer.step()

    return step


def against(
    other: dict, mode: Callable[[nn.Module, Tensor], Step], shape: str, size: int, batch: int, rounds: int
) -> list[float]:
    """Our model against the same model with other options."""
    images = torch.randn(batch, 3, size, size)
    return ratios(rounds, mode(vit(shape, size, **OURS), images), mode(vit(shape, size, **other), images))


class OneLayer(Mechanism):
    """The least that any exact form can compute: one linear layer per token, without mixing."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.layer = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        return self.layer(x)


def ceiling(mode: Callable[[nn.Module, Tensor], Step], shape: str, size: int, batch: int, rounds: int) -> list[float]:
    """The model with one linear layer as its attention, against the textbook form."""
    images = torch.randn(batch, 3, size, size)
    least = vit(shape, size, **OURS)
    for block in least.blocks:
        block.attn = OneLayer(least.embed_dim, SHAPES[shape]["num_heads"])
    return ratios(rounds, mode(least, images), mode(vit(shape, size, **TEXTBOOK), images))


def against_library(
    mode: Callable[[nn.Module, Tensor], Step], shape: str, size: int, batch: int, rounds: int
) -> list[float]:
    """Our model against the same with the attention of fast-transformer-pytorch, which requires a mask."""
    from fast_transformer_pytorch.fast_transformer_pytorch import FastAttention

    class Theirs(nn.Module):
        def __init__(self, dim: int, heads: int) -> None:
            super().__init__()
            self.attention = FastAttention(dim, heads=heads, dim_head=dim // heads, max_seq_len=8192)

        def forward(self, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
            return self.attention(x, mask=torch.ones(x.shape[:2], dtype=torch.bool))

    images = torch.randn(batch, 3, size, size)
    other = vit(shape, size, **SOFTMAX)
    for block in other.blocks:
        block.attn = Theirs(other.embed_dim, SHAPES[shape]["num_heads"])
    return ratios(rounds, mode(vit(shape, size, **OURS), images), mode(other, images))


def memory(shape: str, size: int, batch: int, rounds: int) -> list[float]:
    """Bytes saved for the backward pass relative to the textbook form, without weights."""
    images = torch.randn(batch, 3, size, size)
    models = vit(shape, size, **OURS).train(), vit(shape, size, **TEXTBOOK).train()
    least, textbook = (saved_for_backward(lambda m=model: m(images), model.parameters()) for model in models)
    return [least / textbook]


def share_of_products(shape: str, size: int, batch: int, rounds: int) -> list[float]:
    """Time of the model's large matrix products alone, relative to the model's."""
    model = vit(shape, size, **OURS)
    images = torch.randn(batch, 3, size, size)
    tokens = torch.randn(batch * ((size // 16) ** 2 + 1), SHAPES[shape]["embed_dim"])
    chain = nn.Sequential(
        *(
            layer
            for block in model.blocks
            for layer in (block.attn.q, block.attn.transform, block.mlp.fc1, block.mlp.fc2)
        )
    )

    def products() -> None:
        with torch.inference_mode():
            model.patch_embed.proj(images)
            chain(tokens)

    return ratios(rounds, inference(model, images), products)


ROWS: list[tuple] = [
    ("textbook form: forward B/16 384 px, batch 4", "≥ 1.1", against, TEXTBOOK, inference, "B", 384, 4),
    ("textbook form: forward S/16 1024 px, batch 1", "≥ 1.15", against, TEXTBOOK, inference, "S", 1024, 1),
    ("textbook form: training step S/16 384 px, batch 4", "≥ 1.20", against, TEXTBOOK, training, "S", 384, 4),
    ("textbook form: training step Ti/16 1024 px, batch 1", "≥ 1.25", against, TEXTBOOK, training, "Ti", 1024, 1),
    ("textbook form: memory for backward, Ti/16 384 px", "≤ 0.80", memory, "Ti", 384, 4),
    ("timm's ViT, fused softmax: forward B/16 384 px, batch 4", "≥ 1.2", against, SOFTMAX, inference, "B", 384, 4),
    ("timm's ViT, fused softmax: forward S/16 1024 px, batch 1", "≥ 3.5", against, SOFTMAX, inference, "S", 1024, 1),
    ("timm's ViT, fused softmax: training step Ti/16 1024 px", "≥ 6.5", against, SOFTMAX, training, "Ti", 1024, 1),
    ("fast-transformer-pytorch: forward S/16 384 px, batch 4", "≥ 1.3", against_library, inference, "S", 384, 4),
    ("fast-transformer-pytorch: training step S/16 384 px", "≥ 1.3", against_library, training, "S", 384, 4),
    ("bare matrix products: share, forward B/16 384 px", "≥ 0.85", share_of_products, "B", 384, 4),
    ("ceiling of row 1: one linear layer for attention", "", ceiling, inference, "S", 1024, 1),
    ("ceiling of row 3: one linear layer for attention", "", ceiling, training, "Ti", 1024, 1),
]

if __name__ == "__main__":
    main()
