"""fvit-report: what runs and multiruns have come to, as one page that opens offline, and as Markdown and CSV."""

from pathlib import Path
from typing import Any

from fvit.config.errors import ConfigError, RunError, did_you_mean
from fvit.config.schemas.report import Report, gather_folders
from fvit.launch import cli


def main() -> None:
    """The command line."""
    cli.run("report", report, Report, gather_folders)


def report(config: dict[str, Any]) -> dict[str, float]:
    """Read the runs of `config`'s folders, print the leaderboard, and write the report."""
    # Imported here, because --help and a wrong override need none of it.
    from fvit.launch.run_dir import write
    from fvit.reports.runs import files, tables
    from fvit.reports.runs.costs import read_benchmarks
    from fvit.reports.runs.gather import find_benchmarks, gather
    from fvit.reports.runs.groups import group
    from fvit.reports.runs.page import page

    roots = [Path(folder).expanduser() for folder in config["runs"]]
    if missing := [str(root) for root in roots if not root.is_dir()]:
        raise ConfigError(f"no such folder: {', '.join(missing)}; name one in which runs lie: fvit-report logs/train")
    bench = [Path(config["bench"]).expanduser()] if config["bench"] else []
    runs, benchmarks = gather(roots), read_benchmarks(find_benchmarks([*roots, *bench]))
    if not runs and not benchmarks:
        raise RunError(f"{', '.join(map(str, roots))}: no run in it; `fvit-train` makes one")
    groups = group(runs, config["baseline"])
    _check_baseline(config["baseline"], [one.attention for one in groups])
    table = tables.leaderboard(groups, config["baseline"])
    out = Path(config["out"]).expanduser()
    out.mkdir(parents=True, exist_ok=True)
    source = ", ".join(map(str, roots))
    write(out / "report.html", page(source, runs, groups, table, benchmarks))
    write(out / "report.md", files.markdown(source, runs, table))
    write(out / "report.csv", files.groups_csv(groups))
    write(out / "runs.csv", files.runs_csv(runs, groups))
    files.tell(runs, table, out)
    return {}


def _check_baseline(baseline: str, known: list[str]) -> None:
    """Hold a chosen baseline against what was trained. That of the default may be missing."""
    known = list(dict.fromkeys(known))
    if baseline not in ("softmax", *known):
        raise ConfigError(
            f"baseline={baseline} was not trained{did_you_mean(baseline, known)}; trained: {', '.join(known)}"
        )


if __name__ == "__main__":
    main()
