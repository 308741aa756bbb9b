"""The terminal output before and after a run and after a sweep; plain text without a terminal."""

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fvit.config.overrides import argument, parse
from fvit.config.recorded import overrides_of
from fvit.config.wording import count, pixels
from fvit.launch.quiet import QUIET, is_quiet

if TYPE_CHECKING:
    from lightning import LightningDataModule

    from fvit.config.batch_plan import BatchPlan
    from fvit.launch.sweep import Job

_is_terminal = Console().is_terminal
# Without a terminal rich would fold rows at 80 columns, and nobody could search the log. A path may contain ":x:".
console = Console(width=None if _is_terminal else 10_000, highlight=False, emoji=False)

# Widths in characters: the frame between two cells, the narrowest first column, and the narrowest terminal with frames.
_GAP, _LEAST, _FRAMED = 3, 12, 100
_NO_VALUE = "–"


class Cost(Protocol):
    """What `print_plan` reads of `fvit.cost.Cost`."""

    params: int
    macs: int


def print_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """One line per fact, after its name; paths and commands are printed as they are, so they can be copied."""
    width = max(len(name) for name, _ in facts)
    console.print(title, style="italic", markup=False)
    for name, value in facts:
        print_as_it_is(f" {name:<{width}}  {value}")


def print_as_it_is(line: str) -> None:
    """Print a line with a path or a command to copy; rich would expand its tabs and drop other control characters."""
    print(line, file=console.file)


def print_rows(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in which all columns but the first hold figures."""
    rows = list(rows)
    # On a narrow terminal only the first column is folded: figures on two lines cannot be compared.
    figures = [max(map(len, column)) + _GAP for column in zip(head, *rows, strict=True)][1:]
    fit = sum(figures) + _LEAST <= console.width
    table = _table()
    for index, name in enumerate(head):
        is_figure = index > 0
        table.add_column(name, justify="right" if is_figure else "left", overflow="fold", no_wrap=is_figure and fit)
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: overrides contain brackets
    _print_table(title, table)


def print_plan(
    config: dict[str, Any],
    cost: "Cost",
    plan: "BatchPlan",
    data: "LightningDataModule",
    further: Sequence[tuple[str, str]],
) -> None:
    """What is about to be trained, on what data, and how; `further` facts come after the cost."""
    if is_quiet():
        return
    trainer, optimizer, size = config["trainer"], config["optimizer"], config["data"]["img_size"]
    shape = [f"{key}={config['model'][key]}" for key in ("patch_size", "embed_dim", "depth") if key in config["model"]]
    test = "" if data.source.test is None else f", {len(data.source.test):,} for a test"
    images = f"{len(data.source.train):,} training and {count(len(data.source.val), 'validation image')}{test}"
    classes = count(data.num_classes, "class", "classes")
    source = config["data"].get("dataset", config["data"]["name"])
    steps, dropped = divmod(len(data.source.train), plan.global_batch)
    epochs = count(trainer["max_epochs"], "epoch") if trainer.get("max_epochs") else "? epochs"
    facts = [
        ("model", "  ".join([config["title"], *shape])),
        ("cost", f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.4g} M MACs per image of {pixels(size)}"),
        *further,
        (
            "data",
            f"{source}: {images}, {classes}; decoder {data.decoder.name}",
        ),
        ("batch", str(plan)),
        ("length", f"{epochs} of {count(steps, 'step')}; {count(dropped, 'image')} dropped per epoch"),
        ("optimizer", f"{optimizer['opt']}, lr {optimizer['lr']:g}, {config['scheduler']['sched']} schedule"),
        ("hardware", f"{plan.world_size} × {trainer['accelerator']}, {trainer['precision']}"),
        ("saved to", config["output_dir"]),
    ]
    print_facts("Run", facts)


def print_exchange(model: dict[str, Any], rows: Sequence[Sequence[str]]) -> None:
    """Which weights each exchanged attention kept, with `rows` of `exchange_rows`; or nothing."""
    pretrained = model.get("pretrained") or model.get("init_from")
    if is_quiet() or not rows or not (model.get("keep") or pretrained):
        return
    origin = "a pretrained" if pretrained else "a fresh"
    table = _table()
    for name in ("blocks", "attention", "kept", "initialised", "dropped"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    _print_table(f"Attention exchanged in {origin} {model['name']}", table)


HEAD = ("val acc1", "best acc1", "test acc1", "params", "MACs", "images/s", "time")


def figures(metrics: dict[str, float], seconds: float) -> list[str]:
    """The columns of `HEAD`."""

    def show(name: str, form: str, scale: float = 1.0) -> str:
        return form.format(metrics[name] * scale) if name in metrics else _NO_VALUE

    return [
        show("val/acc1", "{:.2f} %", 100),
        show("best/val/acc1", "{:.2f} %", 100),
        show("test/acc1", "{:.2f} %", 100),
        show("cost/params", "{:.2f} M", 1e-6),
        show("cost/macs", "{:.4g} M", 1e-6),
        show("throughput/images_per_s", "{:,.0f}"),
        f"{seconds:.0f} s",
    ]


def _print_figures(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of `figures`, without the test accuracy where no run has one."""
    test = head.index("test acc1")
    if all(row[test] == _NO_VALUE for row in rows):
        head, *rows = ([*row[:test], *row[test + 1 :]] for row in (head, *rows))
    print_rows(title, head, rows)


def print_results(
    name: str, metrics: dict[str, float], seconds: float, folder: Path, epochs: int | None = None
) -> None:
    """The results of a run and, unless it is the job of a sweep, the commands to continue with."""
    _print_figures("Results", ("run", *HEAD), [(name, *figures(metrics, seconds))])
    if is_quiet() or (folder.parent / "multirun.yaml").is_file():
        return
    overrides = overrides_of(folder) or []
    facts = [("saved to", str(folder))]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        hardware = [override for override in overrides if override.startswith("hardware=")]
        facts.append(("evaluate", _command("fvit-eval", argument("ckpt_path", folder), hardware)))
        longer = [f"trainer.max_epochs={2 * epochs}"] if epochs else []
        facts.append(("resume with", " ".join(["fvit-train", argument("ckpt_path", folder), *longer])))
    # What another mechanism would not take, and what the sweep varies.
    its = ("attention", "model.attention", "seed", "ckpt_path", "hydra", QUIET)
    kept = [override.input_line for key, override in parse(overrides) if not _is_in(key, its)]
    facts.append(("compare", _command("fvit-train -m", "attention=additive,softmax,linear seed=0,1,2", kept)))
    print_facts("", facts)


def _command(start: str, arguments: str, overrides: Iterable[str]) -> str:
    return " ".join([start, *map(shlex.quote, overrides), arguments])


def _is_in(key: str, groups: Iterable[str]) -> bool:
    return any(key == group or key.startswith((f"{group}.", f"{group}/")) for group in groups)


def print_sweep(folder: Path, jobs: "Sequence[Job]") -> None:
    """The table of all jobs of a sweep, by the overrides in which they differ, and the errors of failed ones."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    rows, errors = [], []
    for job in jobs:
        record = job.record
        varied = [override for override in job.overrides if override not in shared]
        name = " ".join([str(job.number), *varied])
        rows.append((name, record["status"], *figures(record["metrics"], record["seconds"])))
        if record.get("error"):
            errors.append((f"job {job.number}", record["error"].splitlines()[0]))
    _print_figures(f"Sweep {folder}", ("job", "status", *HEAD), rows)
    if errors:
        print_facts("Errors", errors)


def print_speed(title: str, stages: dict[str, float], facts: Iterable[tuple[str, str]]) -> None:
    """Where a loader spends its time, in ms per image, and what follows from it."""
    console.print(title)
    loading = sum(ms for stage, ms in stages.items() if stage != "RandAugment")
    rows = [
        (stage, f"{ms:.3f} ms", "+ if enabled" if stage == "RandAugment" else f"{100 * ms / loading:.0f} %")
        for stage, ms in stages.items()
    ]
    print_rows("", ("stage", "per image", "share"), rows)
    print_facts("", facts)


def print_evaluation(
    owner: str, metrics: dict[str, float], recorded: dict[str, float], facts: Sequence[tuple[str, str]] = ()
) -> None:
    """The metrics of a checkpoint or model, next to those recorded when it was saved, and `facts` about them."""
    rows = [
        (name, f"{value:.10g}", f"{recorded[name]:.10g}" if name in recorded else _NO_VALUE)
        for name, value in metrics.items()
    ]
    print_rows(owner, ("metric", "now", "when saved"), rows)
    if facts:
        print_facts("", facts)


def _table() -> Table:
    """A table with a frame or, without a terminal or room for it, in plain columns."""
    if _is_terminal and console.width >= _FRAMED:
        return Table()
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _print_table(title: str, table: Table) -> None:
    if title:  # not the table's own title, which is folded to its width: it may be a path
        console.print(title, style="italic", markup=False, soft_wrap=True)
    console.print(table)
