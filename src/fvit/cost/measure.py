"""Measuring a set of models side by side: what each costs to run and to train."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fvit.cost.count import count
from fvit.cost.memory import peak_of, saved_for_backward
from fvit.cost.timing import Step, Timing, best_batch, synchroniser, time_in_turns

Made = TypeVar("Made")

WHAT = ("params", "macs", "latency", "throughput", "memory", "train")
_CPU = torch.device("cpu")
_BATCHES = tuple(2**k for k in range(11))
_UNFIT = (RuntimeError, ValueError, MemoryError, NotImplementedError)  # out of memory is a RuntimeError


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        what: of `WHAT`.
        device: where.
        runs: of each step, at most.
        seconds: for each figure of a candidate, at most; three runs are made in any case.
        batch: images of a training step.
    """

    what: Sequence[str] = WHAT
    device: torch.device = _CPU
    runs: int = 20
    seconds: float = 5.0
    batch: int = 4


@dataclass(frozen=True)
class Candidate:
    """One model under one set of conditions. `build` makes it anew; what it raises becomes the row's status."""

    model: str
    attention: str
    res: int
    build: Callable[[], nn.Module]
    precision: str = "float32"
    compiled: bool = False

    @property
    def conditions(self) -> tuple[int, str, bool]:
        """Candidates that share these are measured in turns."""
        return self.res, self.precision, self.compiled

    @property
    def manner(self) -> str:
        """How it is run, where that is not float32 and eager."""
        return f" {self.precision}" * (self.precision != "float32") + " compiled" * self.compiled

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.model} {self.attention} {self.res} px{self.manner}"


@dataclass
class Row:
    """What was found about a candidate. `values` holds what could be had, `runs` the single durations in seconds."""

    candidate: Candidate
    status: str = "ok"
    tokens: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    runs: dict[str, Timing] = field(default_factory=dict)

    def time(self, name: str, timing: Timing, unit: float = 1e3) -> None:
        """Note the median of a timing, in ms, with the interval of it."""
        low, high = timing.interval
        self.runs[name] = timing
        self.values |= {name: timing.median * unit, f"{name}_low": low * unit, f"{name}_high": high * unit}


def measure(
    candidates: Sequence[Candidate], settings: Settings, tell: Callable[[int], None] = lambda _: None
) -> list[Row]:
    """Measure all candidates, those of the same conditions in turns. A row each, in their order.

    A candidate that fails is measured no further, and its row's status says why.

    Args:
        candidates: what to measure.
        settings: how.
        tell: called with the number of figures that have become known.
    """
    rows = {candidate: Row(candidate) for candidate in candidates}
    groups: dict[tuple[int, str, bool], list[Row]] = {}
    for row in rows.values():
        groups.setdefault(row.candidate.conditions, []).append(row)
    for group in groups.values():
        _measure_group(group, settings, tell)
    return list(rows.values())


def _measure_group(rows: list[Row], settings: Settings, tell: Callable[[int], None]) -> None:
    subjects = {}
    for row in rows:
        subject = _attempt(row, lambda row=row: _Subject(row.candidate, settings))
        if subject is not None:
            row.tokens = subject.tokens
            subjects[id(row)] = subject
    for what in settings.what:
        alive = [(row, subjects[id(row)]) for row in rows if row.status == "ok"]
        _FIGURES[what](alive, settings)
        tell(len(rows))


def _attempt(row: Row, work: Callable[[], Made]) -> Made | None:
    """What `work` returns; None if the candidate does not stand it, which its status then says."""
    try:
        return work()
    except _UNFIT as error:
        text = next(iter(str(error).strip().splitlines()), type(error).__name__)
        row.status = f"out of memory ({text})" if "memory" in text.lower() or isinstance(error, MemoryError) else text
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


class _Subject:
    """A candidate's model, ready to run."""

    def __init__(self, candidate: Candidate, settings: Settings) -> None:
        self.candidate, self.device = candidate, settings.device
        self.model = candidate.build().to(settings.device)
        self.cost = count(self.model, candidate.res)
        self.tokens = _tokens(self.model)
        if candidate.compiled:
            self.model.compile()

    def images(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return torch.randn(batch, 3, self.candidate.res, self.candidate.res, generator=generator).to(self.device)

    def autocast(self) -> Any:
        if self.candidate.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def forward(self, batch: int) -> Step:
        """One batch in inference."""
        images = self.images(batch)

        def step() -> None:
            with torch.inference_mode(), self.autocast():
                self.model.eval()(images)

        return step

    def loss(self, batch: int) -> Callable[[], Tensor]:
        """The loss of one batch in training."""
        images = self.images(batch)

        def step() -> Tensor:
            with self.autocast():
                return self.model.train()(images).float().logsumexp(dim=1).mean()

        return step

    def train(self, batch: int) -> Step:
        """Forward, backward and a step of AdamW, whose rate is 0: weights stay as they are."""
        loss = self.loss(batch)
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0)

        def step() -> None:
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

        return step


Alive = list[tuple[Row, _Subject]]


def _in_turns(alive: Alive, name: str, step_of: Callable[[Row, _Subject], Step], settings: Settings) -> None:
    """Time one step of each that stands a first run, and note it as `name`."""
    steps: dict[int, Step] = {}
    for row, subject in alive:

        def prepared(row: Row = row, subject: _Subject = subject) -> Step:
            step = step_of(row, subject)
            step()
            return step

        step = _attempt(row, prepared)
        if step is not None:
            steps[id(row)] = step
    timings = time_in_turns(steps, settings.runs, settings.seconds, synchroniser(settings.device))
    for row, _ in alive:
        if id(row) in timings:
            row.time(name, timings[id(row)])


def _params(alive: Alive, settings: Settings) -> None:
    for row, subject in alive:
        row.values["params"] = subject.cost.params


def _macs(alive: Alive, settings: Settings) -> None:
    for row, subject in alive:
        row.values |= {"macs_paper": subject.cost.macs_paper, "macs": subject.cost.macs}


def _latency(alive: Alive, settings: Settings) -> None:
    _in_turns(alive, "latency_ms", lambda _, subject: subject.forward(1), settings)


def _throughput(alive: Alive, settings: Settings) -> None:
    wait = synchroniser(settings.device)
    for row, subject in alive:

        def seconds(batch: int, subject: _Subject = subject) -> float:
            step = subject.forward(batch)
            return time_in_turns({"": step}, runs=3, budget=settings.seconds / 3, synchronise=wait)[""].median

        # A batch that takes longer than a figure may take says no more than a smaller one.
        one = row.values.get("latency_ms", 0.0) / 1e3
        sizes = [size for size in _BATCHES if size * one <= settings.seconds] or [1]
        best = _attempt(row, lambda sizes=sizes, seconds=seconds: best_batch(seconds, sizes))
        if best is not None:
            row.values["batch"] = best[0]
    alive = [(row, subject) for row, subject in alive if row.status == "ok"]
    _in_turns(alive, "batch_ms", lambda row, subject: subject.forward(int(row.values["batch"])), settings)
    for row, _ in alive:
        if row.status == "ok":
            row.values["images_per_s"] = 1e3 * row.values["batch"] / row.values["batch_ms"]


def _memory(alive: Alive, settings: Settings) -> None:
    for row, subject in alive:

        def look(row: Row = row, subject: _Subject = subject) -> dict[str, float]:
            loss = subject.loss(settings.batch)
            saved = saved_for_backward(loss, subject.model.parameters())
            peaks = {
                "peak_mib": peak_of(subject.forward(settings.batch), settings.device),
                "train_peak_mib": peak_of(lambda: loss().backward(), settings.device),
            }
            found = {"saved_mib": saved, **{name: peak for name, peak in peaks.items() if peak is not None}}
            return {name: number / 2**20 for name, number in found.items()}

        row.values |= _attempt(row, look) or {}
        subject.model.zero_grad()


def _train(alive: Alive, settings: Settings) -> None:
    _in_turns(alive, "train_ms", lambda _, subject: subject.train(settings.batch), settings)
    for row, subject in alive:
        subject.model.zero_grad()
        if row.status == "ok":
            row.values["train_images_per_s"] = 1e3 * settings.batch / row.values["train_ms"]


_FIGURES: dict[str, Callable[[Alive, Settings], None]] = {
    "params": _params,
    "macs": _macs,
    "latency": _latency,
    "throughput": _throughput,
    "memory": _memory,
    "train": _train,
}


def _tokens(model: nn.Module) -> int | None:
    """Tokens of one image, where the model has them all along."""
    patches = getattr(getattr(model, "patch_embed", None), "grid_size", None)
    if patches is None or not hasattr(model, "num_prefix_tokens"):
        return None
    return math.prod(patches) + model.num_prefix_tokens
