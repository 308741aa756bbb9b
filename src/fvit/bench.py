"""fvit-bench: measure what models and mechanisms cost, side by side."""

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.run import cli, schema
from fvit.run.grid import Cell, expand, gather

if TYPE_CHECKING:
    from torch import nn

    from fvit.cost.measure import Candidate


def main() -> None:
    """The command line."""
    sys.argv[1:] = gather(sys.argv[1:], schema.Bench.model_fields)
    cli.run("bench", bench, schema.Bench)


def bench(config: dict[str, Any]) -> dict[str, float]:
    """Measure every cell of the grid, print the table, and write table and plots."""
    # Imported here, because composing, --help and a wrong override must not wait for torch.
    import torch

    from fvit.cost.measure import Settings, measure
    from fvit.cost.trends import trends
    from fvit.run import bench_report
    from fvit.run.counting import counting

    config = schema.Bench.model_validate(config).model_dump()
    if config["threads"] is not None:
        torch.set_num_threads(config["threads"])
    found = candidates(config)
    settings = Settings(
        config["what"], torch.device(config["device"]), config["runs"], config["seconds"], config["batch"]
    )
    with counting("figures", len(found) * len(settings.what), 0) as advance:
        rows = measure(found, settings, advance)
    bench_report.show(rows, trends(rows, config["baseline"]), config, Path(config["output_dir"]))
    return {}


def candidates(config: dict[str, Any]) -> list["Candidate"]:
    """Every cell of the grid under every size, precision and way of running."""
    from fvit.cost.measure import Candidate

    return [
        Candidate(cell.model, cell.attention, res, partial(build, cell, res), precision, compiled)
        for compiled in config["compile"]
        for precision in config["precision"]
        for res in config["res"]
        for cell in expand(config["candidates"])
    ]


def build(cell: Cell, res: int) -> "nn.Module":
    """The model of a cell, with 1,000 classes unless it says otherwise.

    Raises:
        ConfigError or ValueError: it cannot be built for images of this size.
    """
    from fvit.models import attention_spec
    from fvit.models import build as build_model

    options = cell.compose(f"data.img_size={res}")["model"]
    attention = attention_spec(options.pop("attention"))
    classes = options.pop("num_classes") or 1000
    return build_model(img_size=res, num_classes=classes, attention=attention, **options)


if __name__ == "__main__":
    main()
