"""fvit-bench: measures the cost of models and attention mechanisms side by side."""

import logging
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError, RunError, did_you_mean
from fvit.config.schemas.bench import Bench
from fvit.launch import cli
from fvit.reports.bench.grid import GridPoint, collect_candidates, compose_point, expand_grid

if TYPE_CHECKING:
    import torch

    from fvit.cost.measure import Built, Candidate
    from fvit.cost.workload import Conditions

log = logging.getLogger(__name__)


def main() -> None:
    """The command line."""
    cli.run("bench", bench, Bench, partial(collect_candidates, own_keys=Bench.model_fields), alone=True)


def bench(config: dict[str, Any]) -> dict[str, float]:
    """Measures every point of the grid, prints the tables, and writes tables and plots."""
    config = Bench.model_validate(config).model_dump()
    grid = expand_grid(config["candidates"])
    check_baseline(config["baseline"], [point.attention for point in grid])
    reference = compose_point([f"model={config['to']}", "attention=softmax"]) if config["to"] else None
    # Here, because --help and a wrong override must not wait for torch.
    from fvit.cost.measure import Row, Settings, measure
    from fvit.cost.workload import busy_cpus, fix_threads, machine, open_device
    from fvit.launch.allocator import keep_freed_memory
    from fvit.launch.progress import counting
    from fvit.reports.bench.results import report_results

    keep_freed_memory()  # as in training: fetching memory anew adds noise to each step
    device = open_device(config["device"])
    fix_threads(config["threads"])
    started_on = machine(device) | {"busy_cpus": busy_cpus()}
    warn_if_busy(started_on)
    rows = [Row(candidate) for candidate in make_candidates(config, grid, reference, device)]
    settings = Settings(config["what"], config["runs"], config["seconds"], config["batch"])
    folder = Path(config["output_dir"])
    folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after hours of measuring
    try:
        with counting("figures", len(rows) * len(settings.what), 0) as advance:
            measure(rows, settings, advance)
    except KeyboardInterrupt:
        if any(row.values for row in rows):
            report_results(rows, config, started_on, folder)
        raise
    report_results(rows, config, started_on, folder)
    if not any(row.alive for row in rows):
        raise RunError("no candidate could be measured; the table gives the reasons")
    return {}


def warn_if_busy(machine: dict[str, Any]) -> None:
    """Warns if other work takes half a CPU or more."""
    if (busy := machine["busy_cpus"] or 0) >= 0.5:
        message = "%.1f of %d CPUs are busy with other work; times will be longer and less certain than without it"
        log.warning(message, busy, machine["cpus"])


def check_baseline(baseline: str, attentions: list[str]) -> None:
    """Refuses a baseline that is not measured, unless it is the default."""
    known = list(dict.fromkeys(attentions))
    if baseline not in ("softmax", *known):
        near = did_you_mean(baseline, known)
        raise ConfigError(f"baseline={baseline} is not measured{near}; measured: {', '.join(known)}")


def make_candidates(
    config: dict[str, Any], grid: list[GridPoint], reference: GridPoint | None, device: "torch.device"
) -> list["Candidate"]:
    """Every model of the grid at every image size and precision, eager and compiled."""
    from fvit.cost.measure import Candidate
    from fvit.cost.workload import Conditions

    build = partial(build_candidate, config, reference)
    return [
        Candidate(point.model, point.attention, conditions, partial(build, point, conditions))
        for compiled in config["compile"]
        for precision in config["precision"]
        for res in config["res"]
        for conditions in [Conditions(res, precision, compiled, device)]
        for point in grid
    ]


def build_candidate(
    config: dict[str, Any], reference: GridPoint | None, point: GridPoint, conditions: "Conditions"
) -> "Built":
    """The model of a grid point, resized to the cost of `reference` if there is one; 1,000 classes by default.

    Raises:
        ValueError: the options are invalid together or for this image size, or the budget cannot be met.
    """
    from fvit.cost.match import make, match_count, match_latency
    from fvit.cost.measure import Built

    if point.error:
        raise point.error
    options, classes = point.options, point.options["num_classes"] or 1000
    try:
        if reference is None:
            return Built(make(options, conditions.res, classes), {})
        if config["match"] == "latency":
            limits = config["runs"], config["seconds"]
            found = match_latency(options, reference.options, conditions, classes, config["match_by"], *limits)
        else:
            metric, by = config["match"], config["match_by"]
            found = match_count(options, reference.options, conditions.res, classes, metric, by)
    except ValueError as error:
        raise ValueError(str(error).replace("data.img_size", "res")) from error
    values = {"embed_dim": found.model["embed_dim"], "depth": found.model["depth"], "match_error": found.error}
    return Built(make(found.model, conditions.res, classes), values)


if __name__ == "__main__":
    main()
