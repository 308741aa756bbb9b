"""Every command in docs/ composes."""

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.bench import Bench
from fvit.config.schemas.dashboard import Dashboard
from fvit.config.schemas.eval import Cascade, Eval
from fvit.config.schemas.export import Export
from fvit.config.schemas.predict import Predict
from fvit.config.schemas.prepare import Prepare
from fvit.config.schemas.report import Report, collect_folders
from fvit.config.schemas.train import Train
from fvit.launch.sweep import plan
from fvit.reports.bench.grid import collect_candidates, expand_grid

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = {
    "train": Train,
    "eval": Eval,
    "prepare": Prepare,
    "bench": Bench,
    "predict": Predict,
    "export": Export,
    "report": Report,
    "dashboard": Dashboard,
    "cascade": Cascade,
}
# What stands in a configuration only while Hydra runs a job.
FIXED = {
    "train": ["output_dir=here", "title=test"],
    "eval": ["output_dir=here"],
    "cascade": ["output_dir=here"],
    "predict": ["output_dir=here"],
    "bench": ["output_dir=here"],
}
COMMANDS = [
    re.sub(" --(help|resolve|cfg job)", "", line)  # these show, and run nothing
    for page in sorted((ROOT / "docs").glob("*.md"))
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if line.startswith("fvit-")
]


def test_there_are_some():
    assert len(COMMANDS) > 5


# Those of a search have no jobs that are known beforehand.
SWEEPS = [line for line in COMMANDS if re.search(r" -m | sweep=(?!optuna|pareto|blocks)", line)]


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [pytest.param(line, marks=pytest.mark.exhaustive) if index % 3 else line for index, line in enumerate(SWEEPS)],
)
def test_jobs_of_a_sweep_compose(line):
    program, *overrides = [word for word in shlex.split(line) if word != "-m"]
    task = program.removeprefix("fvit-")
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        hydra = GlobalHydra.instance().hydra
        jobs = plan(hydra.compose_config(task, overrides, RunMode.MULTIRUN))
        assert len(jobs) > 1
        for job in jobs[:: max(1, len(jobs) // 6)]:
            assert validation.check(compose(task, [*FIXED[task], *job]), SCHEMAS[task])


ALONE = [line for line in COMMANDS if line not in SWEEPS]


@pytest.mark.parametrize(
    "line", [line if index % 4 == 0 else pytest.param(line, marks=pytest.mark.slow) for index, line in enumerate(ALONE)]
)
def test_the_command_composes(line):
    program, *overrides = shlex.split(line)
    task = program.removeprefix("fvit-")
    if task == "bench":
        overrides = collect_candidates(overrides, Bench.model_fields)
    if task == "report":
        overrides = collect_folders(overrides)
    overrides = [*FIXED.get(task, []), *overrides]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = validation.check(compose(task, overrides=overrides), SCHEMAS[task])
        assert config
        if task == "bench":
            assert expand_grid(config["candidates"])


def test_the_script_for_slurm_composes_and_resumes_after_its_signal(monkeypatch):
    pages = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("hardware.md", "resume.md")]
    [script] = re.findall(r"^```\n(#!.*?)^```", pages[0], flags=re.MULTILINE | re.DOTALL)
    assert "#SBATCH" not in pages[0].replace(script, "") + pages[1]  # there is but one
    assert {"--signal=USR1@120", "--requeue"} <= set(script.split())
    for option in ("nodes", "ntasks-per-node"):
        [number] = re.findall(rf"^#SBATCH --{option}=(\d+)", script, flags=re.MULTILINE)
        monkeypatch.setenv({"nodes": "SLURM_NNODES"}.get(option, "SLURM_NTASKS_PER_NODE"), number)
    [line] = [line for line in script.replace("\\\n", " ").splitlines() if "fvit-train" in line]
    start, _, overrides = line.partition(" fvit-train ")
    assert start.startswith("srun ")
    overrides = shlex.split(overrides.replace("$SLURM_JOB_ID", "77"))
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = validation.check(compose("train", [*FIXED["train"], *overrides]), Train)
    assert (config["trainer"]["devices"], config["trainer"]["num_nodes"], config["ckpt_path"]) == (8, 2, "last")
    assert "hydra.run.dir=logs/train/runs/77" in overrides


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_files_that_are_named_exist(page):
    for name in re.findall(r"`((?:benchmarks|tests|conf|src)/[\w./]+\.\w+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / name).is_file(), name
