"""fvit-dashboard: a workspace and a report on Weights & Biases for the runs of a project, as code."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError
from fvit.config.schemas.dashboard import Dashboard
from fvit.launch import cli

if TYPE_CHECKING:
    from fvit.reports.runs.costs import Benchmark


def main() -> None:
    """The command line."""
    cli.run("dashboard", dashboard, Dashboard)


def dashboard(config: dict[str, Any]) -> dict[str, float]:
    """Write the specifications of a workspace and a report, and save them where there is a key."""
    if find_spec("wandb_workspaces") is None:
        raise ConfigError("fvit-dashboard needs wandb-workspaces: pip install 'fvit[dashboard]'")
    # Imported here, because --help and a wrong override need none of it.
    from fvit.launch.console import print_facts
    from fvit.launch.run_dir import write
    from fvit.loggers.wandb_server import choose_mode
    from fvit.reports.dashboard import build, server
    from fvit.reports.dashboard.specification import specification

    benchmark = newest_benchmark(config["bench"])
    _, reason = choose_mode()
    entity = config["entity"] or ("" if reason else server.own_entity())
    made = [make(config, entity, benchmark) for make in (build.workspace, build.report)]
    out = Path(config["out"]).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    for name, one in zip(("workspace", "report"), made, strict=True):
        write(out / f"{name}.json", json.dumps(specification(one), indent=2))
    facts = [("specification", f"{out / 'workspace.json'}, {out / 'report.json'}")]
    if config["bench"]:
        none = f"none in {config['bench']}; `fvit-bench` measures some"
        facts.append(("cost curves", benchmark.name if benchmark else none))
    if reason:
        facts.append(("not saved", f"{reason}; try again once W&B is available (`wandb login`, WANDB_MODE=online)"))
    else:
        facts += server.save(*made, benchmark, out)
    print_facts(f"Dashboard of {config['project']}", facts)
    return {}


def newest_benchmark(folder: str | None) -> "Benchmark | None":
    """The newest result of `fvit-bench` in and below `folder` that can be read; None if there is none."""
    from fvit.reports.runs.costs import read_benchmarks
    from fvit.reports.runs.gather import find_benchmarks

    found = read_benchmarks(find_benchmarks([Path(folder).expanduser()])) if folder else []
    return next((one for one in found if one.charts), None)


if __name__ == "__main__":
    main()
