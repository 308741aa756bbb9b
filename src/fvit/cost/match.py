"""Equal budgets: the width or depth at which a model has the cost of another one."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from fvit.attention.base import Size
from fvit.cost.count import count
from fvit.cost.timing import time_in_turns
from fvit.cost.workload import Conditions, Workload
from fvit.models import attention_spec, build

Measure = Callable[[nn.Module, int | Size], float]
"""The cost of a model for images of a size in pixels; increases with width and depth."""

By = Literal["width", "depth"]


def params(model: nn.Module, img_size: int | Size) -> float:
    """Number of parameters."""
    return count(model, img_size).params


def macs(model: nn.Module, img_size: int | Size) -> float:
    """MACs of all products."""
    return count(model, img_size).macs


COUNTED: dict[str, Measure] = {"params": params, "macs": macs}
"""Budgets that are counted, and so the same on every machine."""


@dataclass(frozen=True)
class Matched:
    """Options of the matched model, its cost and the budget; a measured cost is relative to the other model's."""

    model: dict[str, Any]
    cost: float
    budget: float

    @property
    def error(self) -> float:
        """Relative, signed."""
        return self.cost / self.budget - 1


def match(
    model: Mapping[str, Any],
    img_size: int | Size,
    num_classes: int,
    measure: Measure,
    budget: float,
    by: By = "width",
) -> Matched:
    """The model whose cost is nearest to `budget`, with another width (a multiple of 8 and of 2 · heads) or depth.

    Args:
        model: arguments of `fvit.models.build`, with `attention` as in a configuration. The search starts at its
            `embed_dim` or `depth`; the number of heads stays.
        img_size: of the images in pixels: the side of squares, or height and width.
        num_classes: number of outputs of the head.
        measure: one of `COUNTED`, which need no weights, or a measurement.
        budget: the target cost, in the unit of `measure`.
        by: what to change.

    Raises:
        ValueError: `embed_dim`, `num_heads` or `depth` is missing, or the smallest model costs more than twice the
            budget.
    """
    _check_shape(model)
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
        raise ValueError(f"{model['name']} costs {cost(best):.4g} at its smallest {by}, and the budget is {budget:.4g}")
    return Matched({**model, key: best * step}, cost(best), budget)


def _check_shape(model: Mapping[str, Any]) -> None:
    if missing := [f"model.{key}" for key in ("embed_dim", "num_heads", "depth") if not model.get(key)]:
        raise ValueError(
            f"a budget is met by changing width or depth, and {model['name']} has no {', '.join(missing)}; "
            "use model=vit_tiny, for example"
        )


def match_count(
    model: Mapping[str, Any],
    reference: Mapping[str, Any],
    img_size: int | Size,
    num_classes: int,
    metric: Literal["params", "macs"],
    by: By = "width",
) -> Matched:
    """`match` to the parameters or MACs of the model with the options `reference`."""
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
    """`match` to the latency of one image in the model with the options `reference`.

    Each width or depth is timed in turns with the reference, at most `runs` times or for `seconds` each.
    """
    other = Workload(make(reference, conditions.res, num_classes), conditions).forward(1)

    def relative_latency(tried: nn.Module, img_size: int | Size) -> float:
        steps = {"tried": Workload(tried, conditions).forward(1), "other": other}
        timings = time_in_turns(steps, runs, seconds, conditions.device)
        return timings["tried"].median / timings["other"].median

    return match(model, conditions.res, num_classes, relative_latency, 1.0, by)


def meet_budget(config: dict[str, Any], num_classes: int) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Replace `model.match` by the width that it asks for. The width is counted, so all ranks and machines agree on it.

    Args:
        config: the configuration of a training run.
        num_classes: of the dataset; the head has as many outputs unless the configuration says otherwise.

    Returns:
        the configuration without `model.match`, and the outcome as names and values.

    Raises:
        ValueError: the model keeps its own attention or pretrained weights, or does not have a width to change.
    """
    options = dict(config["model"])
    metric = options.pop("match", None)
    if metric is None:
        return {**config, "model": options}, []
    attention = options["attention"]["name"]
    if attention == "native":
        raise ValueError(
            f"model.match={metric} has no effect with attention=native, which keeps the model's own attention; leave "
            "it out, or use attention=softmax, which sets the budget that others meet"
        )
    _check_shape(options)
    for origin in ("pretrained", "init_from"):
        if value := options.get(origin):
            raise ValueError(
                f"model.match={metric} changes the width, and the weights of model.{origin}={value} would not fit; "
                "leave one of them out"
            )
    if attention == "softmax":
        found = f"{metric} of softmax attention, which is this model: embed_dim={options['embed_dim']} stays"
        return {**config, "model": options}, [("budget", found)]
    softmax = {**options, "attention": {"name": "softmax"}}
    outputs = options["num_classes"] or num_classes
    matched = match_count(options, softmax, config["data"]["img_size"], outputs, metric)
    found = (
        f"{metric} of softmax attention, {matched.budget / 1e6:.4g} M: embed_dim={matched.model['embed_dim']} instead "
        f"of {options['embed_dim']} has {matched.cost / 1e6:.4g} M, {100 * matched.error:+.1f} %"
    )
    return {**config, "model": matched.model}, [("budget", found)]


def make(model: Mapping[str, Any], img_size: int | Size, num_classes: int, on_meta: bool = False) -> nn.Module:
    """Build a model from options, without pretrained weights; on the meta device if it is only counted."""
    ignored = ("attention", "num_classes", "pretrained", "init_from", "keep", "freeze", "origin")
    options = {key: value for key, value in model.items() if key not in ignored}
    attention = attention_spec(model["attention"])
    with torch.device("meta" if on_meta else "cpu"):
        return build(img_size=img_size, num_classes=num_classes, attention=attention, **options)
