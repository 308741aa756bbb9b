"""fvit-report: compares runs and sweeps in one HTML page that opens offline, and in Markdown and CSV."""

from pathlib import Path
from typing import Any

from fvit.config.errors import ConfigError, RunError, did_you_mean
from fvit.config.schemas.report import Report, collect_folders
from fvit.launch import cli


def main() -> None:
    """The command line."""
    cli.run("report", report, Report, collect_folders)


def report(config: dict[str, Any]) -> dict[str, float]:
    """Reads the runs, prints the leaderboard, and writes the report."""
    # Here, because --help and a wrong override need none of it.
    from fvit.config.atomic import write_text
    from fvit.reports.bench.charts import read_benchmark
    from fvit.reports.runs import files
    from fvit.reports.runs.collect import collect_runs, find_benchmarks
    from fvit.reports.runs.groups import group_runs
    from fvit.reports.runs.page import render_report
    from fvit.reports.runs.tables import leaderboard

    roots = [Path(folder).expanduser() for folder in config["runs"]]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        raise ConfigError(f"no such folder: {', '.join(missing)}; name one that contains runs: fvit-report logs/train")
    source = ", ".join(map(str, roots))
    bench = [Path(config["bench"]).expanduser()] if config["bench"] else []
    runs = collect_runs(roots)
    benchmarks = [read_benchmark(path) for path in find_benchmarks([*roots, *bench])]
    if not runs and not benchmarks:
        raise RunError(f"no runs in {source}; `fvit-train` makes one")

    groups = group_runs(runs, config["baseline"])
    check_baseline(config["baseline"], [group.attention for group in groups])
    board = leaderboard(groups, config["baseline"])

    out = Path(config["out"]).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.html", render_report(source, runs, groups, board, benchmarks))
    write_text(out / "report.md", files.markdown(source, runs, board))
    write_text(out / "report.csv", files.groups_csv(groups))
    write_text(out / "runs.csv", files.runs_csv(runs, groups))
    files.print_summary(runs, board, out)
    return {}


def check_baseline(baseline: str, attentions: list[str]) -> None:
    """Refuses a baseline that no run has, unless it is the default."""
    known = list(dict.fromkeys(attentions))
    if baseline not in ("softmax", *known):
        near = did_you_mean(baseline, known)
        raise ConfigError(f"baseline={baseline} was not trained{near}; trained: {', '.join(known)}")


if __name__ == "__main__":
    main()
