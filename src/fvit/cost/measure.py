"""Measure a set of models side by side: parameters, MACs, latency, throughput, memory, training step."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

from torch import nn

from fvit.cost.count import count
from fvit.cost.memory import bounded, peak_of, ran_out, saved_for_backward
from fvit.cost.timing import Step, Timing, best_batch, time_in_turns
from fvit.cost.utilisation import matmul_rate, mfu
from fvit.cost.workload import DTYPES, Conditions, Workload, compiling, with_tf32

Made = TypeVar("Made")

WHAT = ("params", "macs", "latency", "throughput", "memory", "train")
_BATCHES = tuple(2**k for k in range(11))


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        what: a selection from `WHAT`.
        runs: most runs of each step.
        seconds: most seconds per figure and candidate, but at least three runs.
        batch: batch size of a training step and of memory measurements.
    """

    what: Sequence[str] = WHAT
    runs: int = 20
    seconds: float = 5.0
    batch: int = 4


class Built(NamedTuple):
    """A model, and values for its row, such as its matched width."""

    model: nn.Module
    values: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One model under one set of conditions. An error raised by `build` becomes the row's status."""

    model: str
    attention: str
    conditions: Conditions
    build: Callable[[], Built]

    @property
    def name(self) -> str:
        """Model, attention and conditions without the image size."""
        return f"{self.model} {self.attention}{self.conditions.manner}"

    @property
    def label(self) -> str:
        """Model, attention and all conditions."""
        return f"{self.model} {self.attention} {self.conditions.size} px{self.conditions.manner}"


@dataclass
class Row:
    """Measurements of a candidate: figures in `values`, individual times in `runs`, and a status if it failed."""

    candidate: Candidate
    status: str = "ok"
    tokens: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    runs: dict[str, Timing] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether nothing has failed so far."""
        return self.status == "ok"

    def time(self, name: str, timing: Timing) -> None:
        """Record the median of a timing in ms, its interval, and the number of runs."""
        self.runs[name] = timing
        self.values[name] = timing.median * 1e3
        if timing.interval is not None:
            low, high = timing.interval
            self.values |= {f"{name}_low": low * 1e3, f"{name}_high": high * 1e3}
        self.values[f"{name}_runs"] = len(timing.seconds)

    def attempt(self, work: Callable[[], Made]) -> Made | None:
        """The result of `work`; None if it fails, with the reason as status, or if something failed before."""
        if not self.alive:
            return None
        try:
            return work()
        except Exception as error:
            # Any error concerns this candidate alone, and the others are still measured.
            text = next(iter(str(error).strip().splitlines()), "")
            kind = "" if isinstance(error, RuntimeError | ValueError) and text else type(error).__name__
            self.status = "out of memory" if ran_out(error) else ": ".join(filter(None, (kind, text)))
            return None


Pairs = list[tuple[Row, Workload]]
Progress = Callable[[float], None]
"""Called with the share of the current work that is done, up to 1."""


def measure(rows: Sequence[Row], settings: Settings, advance: Callable[[int], None] = lambda _: None) -> None:
    """Measure the candidates of all rows, those with the same conditions in turns.

    A candidate that fails is not measured further, and its row's status gives the reason. On KeyboardInterrupt, the
    status of unfinished rows is ``interrupted``.

    Args:
        rows: filled in.
        settings: how to measure.
        advance: called with the number of figures that are done; figures of candidates that take turns are done
            together, in proportion to the work.
    """
    groups: dict[Conditions, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.candidate.conditions, []).append(row)
    on_cpu = all(row.candidate.conditions.device.type == "cpu" for row in rows)
    left = dict(groups)
    try:
        with bounded() if on_cpu else nullcontext():
            for conditions, group in groups.items():
                with compiling() if conditions.compiled else nullcontext(), with_tf32(conditions):
                    _measure_together(group, settings, advance)
                del left[conditions]
    except KeyboardInterrupt:
        for row in chain.from_iterable(left.values()):
            if row.alive:
                row.status = "interrupted"
        raise


def _measure_together(group: Sequence[Row], settings: Settings, advance: Callable[[int], None]) -> None:
    """Measure candidates with the same conditions."""
    pairs = [(row, row.attempt(partial(_prepare, row, settings))) for row in group]
    for what in settings.what:
        # Drops failed candidates and their memory.
        pairs = [(row, workload) for row, workload in pairs if row.alive and workload is not None]
        progress = _counter(len(group), advance)
        if what in _FIGURES:
            _FIGURES[what](pairs, settings, progress)
        progress(1.0)


def _counter(figures: int, advance: Callable[[int], None]) -> Progress:
    """Convert a share of `figures` into a number of new figures."""
    done = 0

    def progress(share: float) -> None:
        nonlocal done
        new = int(figures * share) - done
        done += new
        if new:
            advance(new)

    return progress


def _prepare(row: Row, settings: Settings) -> Workload:
    model, values = row.candidate.build()
    row.values |= values
    row.tokens = _tokens(model)
    # Before compilation, after which nothing would be counted.
    if "params" in settings.what:
        row.values["params"] = sum(p.numel() for p in model.parameters())
    if "macs" in settings.what:
        cost = count(model, row.candidate.conditions.res)
        row.values |= {"macs_paper": cost.macs_paper, "macs": cost.macs}
    return Workload(model, row.candidate.conditions)


def _in_turns(
    pairs: Pairs,
    name: str,
    step_of: Callable[[Row, Workload], Step],
    settings: Settings,
    progress: Progress,
    queued: bool = True,
) -> None:
    """Time a step of each candidate, and record it as `name`."""
    steps: dict[str, Step] = {}
    for number, (row, workload) in enumerate(pairs):
        step = row.attempt(partial(step_of, row, workload))
        if step is not None:
            steps[str(number)] = partial(row.attempt, step)
    if not steps:
        return
    device = pairs[0][0].candidate.conditions.device
    timings = time_in_turns(steps, settings.runs, settings.seconds, device, queued, progress)
    for number, (row, _) in enumerate(pairs):
        if row.alive:
            row.time(name, timings[str(number)])


def _latency(pairs: Pairs, settings: Settings, progress: Progress) -> None:
    _in_turns(pairs, "latency_ms", lambda _, workload: workload.forward(1), settings, progress, queued=False)


def _throughput(pairs: Pairs, settings: Settings, progress: Progress) -> None:
    for number, (row, workload) in enumerate(pairs, 1):
        best = row.attempt(partial(_best_batch, workload, settings))
        if best is not None:
            row.values["batch"] = best
        progress(0.5 * number / len(pairs))
    _in_turns(
        pairs,
        "batch_ms",
        lambda row, workload: workload.forward(int(row.values["batch"])),
        settings,
        lambda share: progress(0.5 + 0.5 * share),
    )
    for row, _ in pairs:
        if row.alive:
            images = 1e3 * row.values["batch"]
            for end, of_time in (("", ""), ("_low", "_high"), ("_high", "_low")):
                if f"batch_ms{of_time}" in row.values:
                    row.values[f"images_per_s{end}"] = images / row.values[f"batch_ms{of_time}"]


def _best_batch(workload: Workload, settings: Settings) -> int:
    def seconds(batch: int) -> float:
        steps, budget = {"": workload.forward(batch)}, settings.seconds / 3
        return time_in_turns(steps, 3, budget, workload.conditions.device, queued=True)[""].median

    # A batch that takes longer than the time for one figure says no more than a smaller one.
    return best_batch(seconds, _BATCHES, longest=settings.seconds)[0]


def _memory(pairs: Pairs, settings: Settings, progress: Progress) -> None:
    for number, (row, workload) in enumerate(pairs, 1):
        row.values |= row.attempt(partial(_mebibytes, workload, settings.batch)) or {}
        progress(number / len(pairs))


def _mebibytes(workload: Workload, batch: int) -> dict[str, float]:
    device, model = workload.conditions.device, workload.model
    found = {
        "saved_mib": saved_for_backward(workload.loss(batch), chain(model.parameters(), model.buffers())),
        "peak_mib": peak_of(workload.forward(batch), device),
        "train_peak_mib": peak_of(workload.backward(batch), device),
    }
    return {name: number / 2**20 for name, number in found.items() if number is not None}


def _train(pairs: Pairs, settings: Settings, progress: Progress) -> None:
    _in_turns(pairs, "train_ms", lambda _, workload: workload.train(settings.batch), settings, progress)
    counted = [row for row, _ in pairs if row.alive and "macs" in row.values]
    if counted:
        conditions = counted[0].candidate.conditions
        rate = matmul_rate(conditions.device, DTYPES[conditions.precision])
        for row in counted:
            images_per_s = 1e3 * settings.batch / row.values["train_ms"]
            row.values |= {"mfu": mfu(row.values["macs"], images_per_s, rate), "matmul_tflops": rate / 1e12}


# `_prepare` counts parameters and MACs.
_FIGURES: dict[str, Callable[[Pairs, Settings, Progress], None]] = {
    "latency": _latency,
    "throughput": _throughput,
    "memory": _memory,
    "train": _train,
}


def _tokens(model: nn.Module) -> int | None:
    """Tokens per image of a model with the same number in all blocks."""
    patches = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if patches is None or not hasattr(model, "num_prefix_tokens"):
        return None
    return math.prod(patches) + model.num_prefix_tokens
