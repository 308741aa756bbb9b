"""fvit-bench: measure what models and mechanisms cost, side by side."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError, RunError, did_you_mean
from fvit.config.schemas.bench import Bench
from fvit.launch import cli
from fvit.reports.bench.grid import Cell, compose_cell, expand, gather

if TYPE_CHECKING:
    import torch

    from fvit.cost.measure import Built, Candidate
    from fvit.cost.workload import Conditions


def main() -> None:
    """The command line."""
    cli.run("bench", bench, Bench, partial(gather, own=Bench.model_fields), alone=True)


def bench(config: dict[str, Any]) -> dict[str, float]:
    """Measure every cell of the grid, print the tables, and write tables and plots."""
    config = Bench.model_validate(config).model_dump()
    cells = expand(config["candidates"])
    check_baseline(config["baseline"], cells)
    reference = compose_cell([f"model={config['to']}", "attention=softmax"]) if config["to"] else None
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    from fvit.cost.measure import Row, Settings, measure
    from fvit.cost.workload import fix_threads, machine, open_device
    from fvit.launch.allocator import keep_freed_memory
    from fvit.launch.progress import counting
    from fvit.reports.bench import report

    keep_freed_memory()  # as in training: what is fetched anew at each step depends on chance
    device = open_device(config["device"])
    fix_threads(config["threads"])
    found = candidates(config, cells, reference, device)
    settings = Settings(config["what"], config["runs"], config["seconds"], config["batch"])
    folder = Path(config["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)  # before what may take hours, for a folder that cannot be
    rows = [Row(candidate) for candidate in found]
    show = partial(report.show, rows, config, machine(device), folder)
    try:
        with counting("figures", len(rows) * len(settings.what), 0) as advance:
            measure(rows, settings, advance)
    except KeyboardInterrupt:
        if any(row.values for row in rows):  # of hours, perhaps
            show()
        raise
    show()
    if not any(row.alive for row in rows):
        raise RunError("no candidate could be measured to the end; the table says why")
    return {}


def check_baseline(baseline: str, cells: list[Cell]) -> None:
    """Hold a chosen baseline against what is measured. That of the default may be missing.

    Raises:
        ConfigError: it is not among it, and would be without effect.
    """
    known = list(dict.fromkeys(cell.attention for cell in cells))
    if baseline not in ("softmax", *known):
        raise ConfigError(
            f"baseline={baseline} is not measured{did_you_mean(baseline, known)}; measured: {', '.join(known)}"
        )


def candidates(
    config: dict[str, Any], cells: list[Cell], reference: Cell | None, device: "torch.device"
) -> list["Candidate"]:
    """Every cell of the grid under every size, precision and way of running."""
    from fvit.cost.measure import Candidate
    from fvit.cost.workload import Conditions

    return [
        Candidate(cell.model, cell.attention, conditions, partial(build, config, cell, reference, conditions))
        for compiled in config["compile"]
        for precision in config["precision"]
        for res in config["res"]
        for conditions in [Conditions(res, precision, compiled, device)]
        for cell in cells
    ]


def build(config: dict[str, Any], cell: Cell, reference: Cell | None, conditions: "Conditions") -> "Built":
    """The model of a cell, with 1,000 classes unless it says otherwise, at the cost of `reference` if there is one.

    Raises:
        ValueError: it cannot be, cannot be built for images of this size, or cannot meet the budget.
    """
    from fvit.cost.match import make, match_count, match_latency
    from fvit.cost.measure import Built

    if cell.refusal:
        raise cell.refusal
    options, classes = cell.options, cell.options["num_classes"] or 1000
    try:
        if reference is None:
            return Built(make(options, conditions.res, classes), {})
        if config["match"] == "latency":
            limits = config["runs"], config["seconds"]
            found = match_latency(options, reference.options, conditions, classes, config["match_by"], *limits)
        else:
            found = match_count(
                options, reference.options, conditions.res, classes, config["match"], config["match_by"]
            )
    except ValueError as error:
        raise ValueError(str(error).replace("data.img_size", "res")) from error
    told = {"embed_dim": found.model["embed_dim"], "depth": found.model["depth"], "match_error": found.error}
    return Built(make(found.model, conditions.res, classes), told)


if __name__ == "__main__":
    main()
