"""Measuring a set of models side by side: what each costs to run and to train."""

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
from fvit.cost.subject import Conditions, Subject, compiling
from fvit.cost.timing import Step, Timing, best_batch, synchroniser, time_in_turns

Made = TypeVar("Made")

WHAT = ("params", "macs", "latency", "throughput", "memory", "train")
_BATCHES = tuple(2**k for k in range(11))


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        what: of `WHAT`.
        runs: of each step, at most.
        seconds: for each figure of a candidate, at most; three runs are made in any case.
        batch: images of a training step, and of what is measured of memory.
    """

    what: Sequence[str] = WHAT
    runs: int = 20
    seconds: float = 5.0
    batch: int = 4


class Built(NamedTuple):
    """A model, and figures about its making that belong into its row."""

    model: nn.Module
    values: dict[str, float]


@dataclass(frozen=True)
class Candidate:
    """One model under one set of conditions. `build` makes it anew; what it raises becomes the row's status."""

    model: str
    attention: str
    conditions: Conditions
    build: Callable[[], Built]

    @property
    def name(self) -> str:
        """For people: all but the size of the images."""
        return f"{self.model} {self.attention}{self.conditions.manner}"

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.model} {self.attention} {self.conditions.res} px{self.conditions.manner}"


@dataclass
class Row:
    """What was found about a candidate. `values` holds what could be had, `runs` the single durations in seconds."""

    candidate: Candidate
    status: str = "ok"
    tokens: int | None = None
    values: dict[str, float] = field(default_factory=dict)
    runs: dict[str, Timing] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Nothing has failed so far."""
        return self.status == "ok"

    def time(self, name: str, timing: Timing) -> None:
        """Note the median of a timing, in ms, with its interval if it has one, and of how many runs it is."""
        self.runs[name] = timing
        self.values[name] = timing.median * 1e3
        if timing.interval is not None:
            low, high = timing.interval
            self.values |= {f"{name}_low": low * 1e3, f"{name}_high": high * 1e3}
        self.values[f"{name}_runs"] = len(timing.seconds)

    def attempt(self, work: Callable[[], Made]) -> Made | None:
        """What `work` returns. None if it fails, which the status then says, or if something has failed before."""
        if not self.alive:
            return None
        try:
            return work()
        except Exception as error:
            # Whatever it is, it is this candidate's: the others are measured.
            text = next(iter(str(error).strip().splitlines()), "")
            kind = "" if isinstance(error, RuntimeError | ValueError) and text else type(error).__name__
            self.status = "out of memory" if ran_out(error) else ": ".join(filter(None, (kind, text)))
            return None


Pairs = list[tuple[Row, Subject]]
Tell = Callable[[float], None]
"""Called with the share of the work in hand that is done, which grows to 1."""


def measure(rows: Sequence[Row], settings: Settings, tell: Callable[[int], None] = lambda _: None) -> None:
    """Measure the candidates of all rows, those of the same conditions in turns.

    A candidate that fails is measured no further, and its row's status says why; so says that of all that have not been
    measured to the end when somebody interrupts.

    Args:
        rows: to be filled in.
        settings: how.
        tell: called with the number of figures that have become known. Those of candidates that take turns become
            known together, and are told in proportion to the work that is done.
    """
    groups: dict[Conditions, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.candidate.conditions, []).append(row)
    on_cpu = all(row.candidate.conditions.device.type == "cpu" for row in rows)
    left = dict(groups)
    try:
        with bounded() if on_cpu else nullcontext():
            for conditions, group in groups.items():
                with compiling() if conditions.compiled else nullcontext():
                    _measure_together(group, settings, tell)
                del left[conditions]
    except KeyboardInterrupt:
        for row in chain.from_iterable(left.values()):
            if row.alive:
                row.status = "interrupted"
        raise


def _measure_together(group: Sequence[Row], settings: Settings, tell: Callable[[int], None]) -> None:
    """Measure candidates of the same conditions."""
    pairs = [(row, row.attempt(partial(_prepare, row, settings))) for row in group]
    for what in settings.what:
        # Whoever has failed frees its memory.
        pairs = [(row, subject) for row, subject in pairs if row.alive and subject is not None]
        reached = _counter(len(group), tell)
        if what in _FIGURES:
            _FIGURES[what](pairs, settings, reached)
        reached(1.0)


def _counter(figures: int, tell: Callable[[int], None]) -> Tell:
    """Tells of so many figures, as the share that is done of them all grows."""
    told = 0

    def reached(share: float) -> None:
        nonlocal told
        new = int(figures * share) - told
        told += new
        if new:
            tell(new)

    return reached


def _prepare(row: Row, settings: Settings) -> Subject:
    model, values = row.candidate.build()
    row.values |= values
    row.tokens = _tokens(model)
    # Before it is compiled, which would count nothing.
    if "params" in settings.what:
        row.values["params"] = sum(p.numel() for p in model.parameters())
    if "macs" in settings.what:
        cost = count(model, row.candidate.conditions.res)
        row.values |= {"macs_paper": cost.macs_paper, "macs": cost.macs}
    return Subject(model, row.candidate.conditions)


def _in_turns(
    pairs: Pairs,
    name: str,
    step_of: Callable[[Row, Subject], Step],
    settings: Settings,
    reached: Tell,
) -> None:
    """Time a step of each, and note it as `name`."""
    steps: dict[str, Step] = {}
    for number, (row, subject) in enumerate(pairs):
        step = row.attempt(partial(step_of, row, subject))
        if step is not None:
            steps[str(number)] = partial(row.attempt, step)
    wait = synchroniser(pairs[0][0].candidate.conditions.device) if pairs else lambda: None
    timings = time_in_turns(steps, settings.runs, settings.seconds, wait, reached)
    for number, (row, _) in enumerate(pairs):
        if row.alive:
            row.time(name, timings[str(number)])


def _latency(pairs: Pairs, settings: Settings, reached: Tell) -> None:
    _in_turns(pairs, "latency_ms", lambda _, subject: subject.forward(1), settings, reached)


def _throughput(pairs: Pairs, settings: Settings, reached: Tell) -> None:
    for number, (row, subject) in enumerate(pairs, 1):
        best = row.attempt(partial(_best_batch, subject, settings))
        if best is not None:
            row.values["batch"] = best
        reached(0.5 * number / len(pairs))
    _in_turns(
        pairs,
        "batch_ms",
        lambda row, subject: subject.forward(int(row.values["batch"])),
        settings,
        lambda share: reached(0.5 + 0.5 * share),
    )
    for row, _ in pairs:
        if row.alive:
            images = 1e3 * row.values["batch"]
            for end, of_time in (("", ""), ("_low", "_high"), ("_high", "_low")):
                if f"batch_ms{of_time}" in row.values:
                    row.values[f"images_per_s{end}"] = images / row.values[f"batch_ms{of_time}"]


def _best_batch(subject: Subject, settings: Settings) -> int:
    wait = synchroniser(subject.conditions.device)

    def seconds(batch: int) -> float:
        steps = {"": subject.forward(batch)}
        return time_in_turns(steps, runs=3, budget=settings.seconds / 3, synchronise=wait)[""].median

    # A batch that takes longer than a figure may take says no more than a smaller one.
    return best_batch(seconds, _BATCHES, longest=settings.seconds)[0]


def _memory(pairs: Pairs, settings: Settings, reached: Tell) -> None:
    for number, (row, subject) in enumerate(pairs, 1):
        row.values |= row.attempt(partial(_bytes, subject, settings.batch)) or {}
        reached(number / len(pairs))


def _bytes(subject: Subject, batch: int) -> dict[str, float]:
    device, model = subject.conditions.device, subject.model
    found = {
        "saved_mib": saved_for_backward(subject.loss(batch), chain(model.parameters(), model.buffers())),
        "peak_mib": peak_of(subject.forward(batch), device),
        "train_peak_mib": peak_of(subject.backward(batch), device),
    }
    return {name: number / 2**20 for name, number in found.items() if number is not None}


def _train(pairs: Pairs, settings: Settings, reached: Tell) -> None:
    _in_turns(pairs, "train_ms", lambda _, subject: subject.train(settings.batch), settings, reached)


# What is counted, `_prepare` has done.
_FIGURES: dict[str, Callable[[Pairs, Settings, Tell], None]] = {
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
