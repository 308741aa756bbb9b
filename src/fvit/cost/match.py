"""Giving every mechanism the same budget: the width or depth at which a model costs what another does."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from fvit.cost.count import count
from fvit.cost.subject import Conditions, Subject
from fvit.cost.timing import synchroniser, time_in_turns
from fvit.models import attention_spec, build

Measure = Callable[[nn.Module, int], float]
"""What a model costs for images of a size; grows with the model's width and depth."""

By = Literal["width", "depth"]


def params(model: nn.Module, img_size: int) -> float:
    """Parameters."""
    return count(model, img_size).params


def macs(model: nn.Module, img_size: int) -> float:
    """Multiply-accumulates, every product."""
    return count(model, img_size).macs


COUNTED: dict[str, Measure] = {"params": params, "macs": macs}
"""Budgets that are counted, and so the same on every machine."""


@dataclass(frozen=True)
class Matched:
    """The outcome: the model's options, and what it costs next to what it should cost.

    Where the cost was measured, both are in units of the other model's.
    """

    model: dict[str, Any]
    cost: float
    budget: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.cost / self.budget - 1


def match(
    model: Mapping[str, Any], img_size: int, num_classes: int, measure: Measure, budget: float, by: By = "width"
) -> Matched:
    """The model whose cost is nearest to `budget`, by its width at the same number of heads, or by its depth.

    Widths are multiples of 8 and of twice the number of heads.

    Args:
        model: options as for `fvit.models.build`, `attention` as in a configuration; `embed_dim`, `num_heads` and
            `depth` say where the search begins.
        img_size: pixels.
        num_classes: width of the head.
        measure: one of `COUNTED`, or a measurement. Where it only counts, no weight is made.
        budget: what the model shall cost, in the same unit.
        by: what is changed.

    Raises:
        ValueError: the model's options do not give its width, heads and depth; even the smallest costs more than twice
            the budget.
    """
    if missing := [key for key in ("embed_dim", "num_heads", "depth") if not model.get(key)]:
        names = ", ".join(f"model.{key}" for key in missing)
        raise ValueError(
            f"a budget is met by width or depth, and {model['name']} does not say {names}; use model=vit_*"
        )
    key, step = ("embed_dim", math.lcm(8, 2 * model["num_heads"])) if by == "width" else ("depth", 1)
    costs: dict[int, float] = {}

    def cost(steps: int) -> float:
        if steps not in costs:
            options = {**model, key: steps * step}
            costs[steps] = measure(make(options, img_size, num_classes, measure in COUNTED.values()), img_size)
        return costs[steps]

    low, high = 1, max(1, round(model[key] / step))
    while cost(high) < budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) < budget else (low, middle)
    best = min((low, high), key=lambda steps: abs(cost(steps) - budget))
    if cost(best) > 2 * budget:
        raise ValueError(f"{model['name']} costs {cost(best):.4g} at its smallest {by}, and {budget:.4g} is asked for")
    return Matched({**model, key: best * step}, cost(best), budget)


def match_count(
    model: Mapping[str, Any],
    reference: Mapping[str, Any],
    img_size: int,
    num_classes: int,
    metric: Literal["params", "macs"],
    by: By = "width",
) -> Matched:
    """`match` to what the model of the options `reference` counts."""
    measure = COUNTED[metric]
    budget = measure(make(reference, img_size, num_classes, on_meta=True), img_size)
    return match(model, img_size, num_classes, measure, budget, by)


def match_latency(
    model: Mapping[str, Any],
    reference: Mapping[str, Any],
    conditions: Conditions,
    num_classes: int,
    by: By = "width",
    runs: int = 20,
    seconds: float = 5.0,
) -> Matched:
    """`match` to the time that one image takes in the model of the options `reference`.

    Each width or depth that is tried takes turns with it, so that what disturbs the machine disturbs both.

    Args:
        model: as for `match`.
        reference: likewise.
        conditions: how both are run.
        num_classes: width of the heads.
        by: what is changed.
        runs: of each, at most.
        seconds: for each, at most.
    """
    other = Subject(make(reference, conditions.res, num_classes), conditions).forward(1)

    def beside(tried: nn.Module, img_size: int) -> float:
        steps = {"tried": Subject(tried, conditions).forward(1), "other": other}
        timings = time_in_turns(steps, runs, seconds, synchroniser(conditions.device))
        return timings["tried"].median / timings["other"].median

    return match(model, conditions.res, num_classes, beside, 1.0, by)


def make(model: Mapping[str, Any], img_size: int, num_classes: int, on_meta: bool = False) -> nn.Module:
    """The model of these options, with weights of no origin; on the meta device where it is only counted."""
    apart = ("attention", "num_classes", "pretrained", "init_from", "keep")
    options = {key: value for key, value in model.items() if key not in apart}
    attention = attention_spec(model["attention"])
    with torch.device("meta" if on_meta else "cpu"):
        return build(img_size=img_size, num_classes=num_classes, attention=attention, **options)
