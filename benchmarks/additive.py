"""What additive attention's fast forms bring, against the textbook form, softmax, another library and bare products.

    python benchmarks/additive.py                   every row of the table, some minutes
    python benchmarks/additive.py --rows 1 4 7      some of them
    python benchmarks/additive.py --json FILE       JSON goes there, and not to logs/benchmarks/additive.json

Whole models with a class token, float32, in one process; contenders take turns, and a ratio is the median of the
rounds' ratios, with the interval that holds the middle half of them. Freed memory is kept, as `fvit-train` does: what
the C library gives back and fetches anew depends on the order of blocks and not on the contender. A ceiling is what the
least that any exact form can compute would bring. Rows against other people's attention need
``pip install fast-transformer-pytorch``, and are left out without it.
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
TEXTBOOK = dict(attention={"name": "additive", "form": "textbook"})


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=range(len(ROWS)), help="numbers of the rows, from 0")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=Path("logs/benchmarks/additive.json"))
    options = parser.parse_args()
    fix_threads(options.threads)
    keep_freed_memory()
    ours = dict(attention="additive")
    console = Console(width=120)
    results = []
    for number in options.rows:
        name, target, measure, *arguments = ROWS[number]
        if "fast-transformer" in name and importlib.util.find_spec("fast_transformer_pytorch") is None:
            console.print(f"{number}  {name}: left out, pip install fast-transformer-pytorch")
            continue
        with console.status(f"{number}  {name}"):
            found = measure(ours, *arguments, rounds=options.rounds)
        low, middle, high = statistics.quantiles(found, n=4) if len(found) > 1 else found * 3
        results.append(dict(row=number, name=name, target=target, median=middle, low=low, high=high))
        console.print(f"{number}  {name}: {middle:.2f}")
    print_table(console, results)
    on = machine(torch.device("cpu")) | dict(timm=timm.__version__, python=platform.python_version())
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(dict(results=results, machine=on), indent=2) + "\n", encoding="utf-8")
    console.print(f"written to {options.json}")


def print_table(console: Console, results: list[dict]) -> None:
    """A row a ratio, in Markdown."""
    table = Table("row", "against, what", "target", "ratio", "middle half", box=box.MARKDOWN)
    for r in results:
        table.add_row(str(r["row"]), r["name"], r["target"], f"{r['median']:.2f}", f"{r['low']:.2f} to {r['high']:.2f}")
    console.print(table)


def vit(shape: str, size: int, **options: object) -> nn.Module:
    """A ViT of 12 blocks with patches of 16 px and a class token."""
    torch.manual_seed(0)
    name = "vit_base_patch16_224"
    return build(name, size, 1000, **{"depth": 12, **SHAPES[shape], **options})


def ratios(rounds: int, ours: Step, other: Step) -> list[float]:
    """How many times as long as ours the other takes, round by round."""
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
    ours: dict, other: dict, mode: Callable[[nn.Module, Tensor], Step], shape: str, size: int, batch: int, rounds: int
) -> list[float]:
    """Our model against the same with other options."""
    images = torch.randn(batch, 3, size, size)
    return ratios(rounds, mode(vit(shape, size, **ours), images), mode(vit(shape, size, **other), images))


class OneLayer(Mechanism):
    """The least that any exact form can do: one linear layer a token, and nothing mixed."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__(dim, num_heads)
        self.layer = nn.Linear(dim, dim)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Tokens [B, N, C] to [B, N, C]."""
        return self.layer(x)


def ceiling(
    ours: dict, mode: Callable[[nn.Module, Tensor], Step], shape: str, size: int, batch: int, rounds: int
) -> list[float]:
    """The same model with one linear layer for its attention, against the textbook form."""
    images = torch.randn(batch, 3, size, size)
    least = vit(shape, size, **ours)
    for block in least.blocks:
        block.attn = OneLayer(least.embed_dim, SHAPES[shape]["num_heads"])
    return ratios(rounds, mode(least, images), mode(vit(shape, size, **TEXTBOOK), images))


def against_library(
    ours: dict, mode: Callable[[nn.Module, Tensor], Step], shape: str, size: int, batch: int, rounds: int
) -> list[float]:
    """Our model against the same with the attention of fast-transformer-pytorch, which wants a mask."""
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
    return ratios(rounds, mode(vit(shape, size, **ours), images), mode(other, images))


def memory(ours: dict, shape: str, size: int, batch: int, rounds: int) -> list[float]:
    """Bytes saved for the backward pass, ours to the textbook form's; weights are not counted."""
    images = torch.randn(batch, 3, size, size)
    models = vit(shape, size, **ours).train(), vit(shape, size, **TEXTBOOK).train()
    least, textbook = (saved_for_backward(lambda m=model: m(images), model.parameters()) for model in models)
    return [least / textbook]


def share_of_products(ours: dict, shape: str, size: int, batch: int, rounds: int) -> list[float]:
    """The time of the model's large matrix products alone, to that of the model."""
    model = vit(shape, size, **ours)
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


SOFTMAX = dict(attention=None)
ROWS: list[tuple] = [
    ("textbook form: forward B/16 384 px, batch 4", "≥ 1.15", against, TEXTBOOK, inference, "B", 384, 4),
    ("textbook form: forward S/16 1024 px, batch 1", "≥ 1.35", against, TEXTBOOK, inference, "S", 1024, 1),
    ("textbook form: training step S/16 384 px, batch 4", "≥ 1.20", against, TEXTBOOK, training, "S", 384, 4),
    ("textbook form: training step Ti/16 1024 px, batch 1", "≥ 1.35", against, TEXTBOOK, training, "Ti", 1024, 1),
    ("textbook form: memory for backward, Ti/16 384 px", "≤ 0.80", memory, "Ti", 384, 4),
    ("timm's ViT, fused softmax: forward B/16 384 px, batch 4", "≥ 1.4", against, SOFTMAX, inference, "B", 384, 4),
    ("timm's ViT, fused softmax: forward S/16 1024 px, batch 1", "≥ 4", against, SOFTMAX, inference, "S", 1024, 1),
    ("timm's ViT, fused softmax: training step Ti/16 1024 px", "≥ 7.5", against, SOFTMAX, training, "Ti", 1024, 1),
    ("fast-transformer-pytorch: forward S/16 384 px, batch 4", "≥ 1.3", against_library, inference, "S", 384, 4),
    ("fast-transformer-pytorch: training step S/16 384 px", "≥ 1.3", against_library, training, "S", 384, 4),
    ("bare matrix products: share, forward B/16 384 px", "≥ 0.85", share_of_products, "B", 384, 4),
    ("ceiling of row 1: one linear layer for attention", "", ceiling, inference, "S", 1024, 1),
    ("ceiling of row 3: one linear layer for attention", "", ceiling, training, "Ti", 1024, 1),
]

if __name__ == "__main__":
    main()
