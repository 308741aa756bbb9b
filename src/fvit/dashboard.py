"""fvit-dashboard: a workspace and a report on Weights & Biases for the runs of a project."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fvit.config.errors import ConfigError
from fvit.config.schemas.dashboard import Dashboard
from fvit.launch import cli

if TYPE_CHECKING:
    from fvit.reports.bench.charts import Benchmark


def main() -> None:
    """The command line."""
    cli.run("dashboard", dashboard, Dashboard)


def dashboard(config: dict[str, Any]) -> dict[str, float]:
    """Writes the specifications of a workspace and a report, and saves both to W&B if there is a key."""
    if find_spec("wandb_workspaces") is None:
        raise ConfigError("fvit-dashboard needs wandb-workspaces: pip install 'fvit[dashboard]'")
    # Here, because --help and a wrong override need none of it.
    from fvit.config.atomic import write_text
    from fvit.launch.console import print_facts
    from fvit.loggers.wandb_server import choose_mode
    from fvit.reports.dashboard import server
    from fvit.reports.dashboard.build import build_report, build_workspace, specification

    _, offline = choose_mode()
    entity = config["entity"] or ("" if offline else server.default_entity())
    benchmark = newest_benchmark(config["bench"])
    workspace = build_workspace(config, entity, benchmark)
    report = build_report(config, entity, benchmark)

    out = Path(config["out"]).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "workspace.json", json.dumps(specification(workspace), indent=2))
    write_text(out / "report.json", json.dumps(specification(report), indent=2))
    facts = {"specification": f"{out / 'workspace.json'}, {out / 'report.json'}"}
    if benchmark:
        facts["benchmark"] = benchmark.label
    elif config["bench"]:
        facts["benchmark"] = f"none in {config['bench']}; `fvit-bench` makes one"
    if offline:
        facts["not saved"] = f"{offline}; needs `wandb login` and WANDB_MODE=online"
    else:
        facts |= server.save(workspace, report, benchmark, out)
    print_facts(f"Dashboard of {config['project']}", list(facts.items()))
    return {}


def newest_benchmark(folder: str | None) -> "Benchmark | None":
    """The newest readable one in and below `folder`."""
    from fvit.reports.bench.charts import read_benchmark
    from fvit.reports.runs.collect import find_benchmarks

    paths = find_benchmarks([Path(folder).expanduser()]) if folder else []
    return next((found for path in paths if (found := read_benchmark(path)).charts), None)


if __name__ == "__main__":
    main()
