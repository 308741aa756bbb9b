"""fvit-report: compares runs and sweeps in one HTML page that opens offline, and in Markdown and CSV."""

from pathlib import Path
from typing import Any

from fvit.config.errors import ConfigError, RunError
from fvit.config.schemas.report import Report, collect_folders
from fvit.config.validation import check_baseline
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
    from fvit.reports.runs.groups import rank_runs
    from fvit.reports.runs.page import render_report

    roots = [Path(folder).expanduser() for folder in config["runs"]]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        raise ConfigError(f"no such folder: {', '.join(missing)}; name one that contains runs: fvit-report logs/train")
    source = ", ".join(map(str, roots))
    bench = [Path(config["bench"]).expanduser()] if config["bench"] else []
    runs = collect_runs(roots)
    benchmarks = [read_benchmark(path) for path in find_benchmarks([*roots, *bench])]
    if not runs and not benchmarks:
        raise RunError(f"no runs in {source}; `fvit-train` makes one")

    baseline = config["baseline"]
    rankings = rank_runs(runs, baseline)
    check_baseline(baseline, [group.attention for ranking in rankings for group in ranking.groups], "trained")

    out = Path(config["out"]).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "report.html", render_report(source, runs, rankings, baseline, benchmarks))
    write_text(out / "report.md", files.markdown(source, runs, rankings, baseline))
    write_text(out / "report.csv", files.groups_csv(rankings))
    write_text(out / "runs.csv", files.runs_csv(runs, rankings))
    files.print_summary(runs, rankings, baseline, out)
    return {}


if __name__ == "__main__":
    main()
