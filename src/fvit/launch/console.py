"""What a person reads before a run, after it, and after a sweep. Plain text where there is no terminal."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fvit.config.overrides import argument
from fvit.launch.quiet import is_quiet

if TYPE_CHECKING:
    from lightning import LightningDataModule

    from fvit.config.batch_plan import BatchPlan
    from fvit.cost import Cost
    from fvit.launch.sweep import Job

_is_terminal = Console().is_terminal
# Without a terminal rich assumes 80 columns and would fold the rows of a log, which nobody can then search.
console = Console(width=None if _is_terminal else 10_000, highlight=False)

# Columns of text: what a frame takes beside a cell, the least of a table's first column, and of a terminal for frames.
_GAP, _LEAST, _FRAMED = 3, 12, 100


def print_facts(title: str, facts: Sequence[tuple[str, str]]) -> None:
    """A line a fact, its name in front; a long path or command is left whole, to be copied."""
    width = max(len(name) for name, _ in facts)
    console.print(title, style="italic", markup=False)
    for name, value in facts:
        console.print(f" {name:<{width}}  {value}", markup=False, soft_wrap=True)


def print_rows(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table with a head; all columns but the first are figures."""
    rows = list(rows)
    # Where room is scarce the first column gives way: figures that are broken over two lines cannot be compared.
    figures = [max(map(len, column)) + _GAP for column in zip(head, *rows, strict=True)][1:]
    fit = sum(figures) + _LEAST <= console.width
    table = _table()
    for index, name in enumerate(head):
        is_figure = index > 0
        table.add_column(name, justify="right" if is_figure else "left", overflow="fold", no_wrap=is_figure and fit)
    for row in rows:
        table.add_row(*map(Text, row))  # not markup: overrides hold brackets
    _print_table(title, table)


def print_plan(
    config: dict[str, Any],
    cost: "Cost",
    plan: "BatchPlan",
    data: "LightningDataModule",
    further: Sequence[tuple[str, str]],
) -> None:
    """What is about to be trained, on what, and how; `further` facts are of the model."""
    if is_quiet():
        return
    trainer, optimizer, size = config["trainer"], config["optimizer"], config["data"]["img_size"]
    shape = [f"{key}={config['model'][key]}" for key in ("patch_size", "embed_dim", "depth") if key in config["model"]]
    images = f"{len(data.source.train):,} images to train, {len(data.source.val):,} to validate"
    steps, left = divmod(len(data.source.train), plan.global_batch)
    facts = [
        ("model", "  ".join([config["title"], *shape])),
        ("cost", f"{cost.params / 1e6:.2f} M parameters, {cost.macs / 1e6:.4g} M MACs an image of {size} px"),
        *further,
        ("data", f"{config['data']['name']}: {images}, {data.num_classes} classes; decoder {data.decoder.name}"),
        ("batch", str(plan)),
        ("length", f"{trainer.get('max_epochs') or '?'} epochs of {steps:,} steps; {left} images an epoch left out"),
        ("optimizer", f"{optimizer['opt']}, lr {optimizer['lr']:g}, {config['scheduler']['sched']} schedule"),
        ("hardware", f"{plan.world_size} × {trainer['accelerator']}, {trainer['precision']}"),
        ("folder", config["output_dir"]),
    ]
    print_facts("Run", facts)


def print_exchange(model: dict[str, Any], rows: Sequence[Sequence[str]]) -> None:
    """What became of each attention's weights, where there were some worth keeping; `rows` as of `exchange_rows`."""
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


HEAD = ("val acc1", "best acc1", "params", "MACs", "images/s", "time")


def figures(metrics: dict[str, float], seconds: float) -> list[str]:
    """The columns of `HEAD`."""

    def show(name: str, form: str, scale: float = 1.0) -> str:
        return form.format(metrics[name] * scale) if name in metrics else "–"

    return [
        show("val/acc1", "{:.2f} %", 100),
        show("best/val/acc1", "{:.2f} %", 100),
        show("cost/params", "{:.2f} M", 1e-6),
        show("cost/macs", "{:.4g} M", 1e-6),
        show("throughput/images_per_s", "{:,.0f}"),
        f"{seconds:.0f} s",
    ]


def print_results(name: str, metrics: dict[str, float], seconds: float, folder: Path) -> None:
    """The table of results of one run, and what to type next."""
    print_rows("Results", ("run", *HEAD), [(name, *figures(metrics, seconds))])
    facts = [("lies in", str(folder))]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        facts.append(("measure it", f"fvit-eval {argument('ckpt_path', folder)}"))
        facts.append(("go on from it", f"fvit-train {argument('ckpt_path', folder)} trainer.max_epochs=…"))
    facts.append(("compare", "fvit-train -m attention=additive,softmax,linear seed=0,1,2"))
    print_facts("", facts)


def print_sweep(folder: Path, jobs: "Sequence[Job]") -> None:
    """The table of all jobs of a multirun, by the overrides in which they differ, and why some failed."""
    shared = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    rows, errors = [], []
    for job in jobs:
        record = job.record
        varied = [override for override in job.overrides if override not in shared]
        rows.append(
            (
                " ".join([str(job.number), *varied]),
                record["status"],
                *figures(record["metrics"], record["seconds"]),
            )
        )
        if record.get("error"):
            errors.append((f"job {job.number}", record["error"].splitlines()[0]))
    print_rows(f"Sweep {folder}", ("job", "status", *HEAD), rows)
    if errors:
        print_facts("Errors", errors)


def print_speed(title: str, stages: dict[str, float], facts: Iterable[tuple[str, str]]) -> None:
    """Where a loader's time goes, in ms an image, and what follows from it."""
    console.print(title)
    loading = sum(ms for stage, ms in stages.items() if stage != "RandAugment")
    rows = [
        (stage, f"{ms:.3f} ms", "+ where it is on" if stage == "RandAugment" else f"{100 * ms / loading:.0f} %")
        for stage, ms in stages.items()
    ]
    print_rows("", ("stage", "an image", "share"), rows)
    print_facts("", facts)


def print_evaluation(path: Path, metrics: dict[str, float], recorded: dict[str, float]) -> None:
    """Metrics of a checkpoint beside those that were measured when it was saved."""
    rows = [
        (name, f"{value:.10g}", f"{recorded[name]:.10g}" if name in recorded else "–")
        for name, value in metrics.items()
    ]
    print_rows(f"{path}", ("metric", "now", "when saved"), rows)


def _table() -> Table:
    """A table in a frame; where there is no room or no terminal, in plain columns, which `grep` and logs take."""
    if _is_terminal and console.width >= _FRAMED:
        return Table()
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))


def _print_table(title: str, table: Table) -> None:
    if title:  # not the table's own, which would be folded to its width: it may be a path
        console.print(title, style="italic", markup=False, soft_wrap=True)
    console.print(table)
