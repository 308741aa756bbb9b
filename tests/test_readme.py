"""README.md: its commands run, its Python runs, its table is what the code counts."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from fvit.cost import count

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.partition("  #")[0].strip()
    for block in re.findall(r"^```bash\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
SHORT = "debug=limit trainer.max_epochs=1 global_batch_size=16"
FVIT = [line for line in COMMANDS if not line.startswith("make ")]
ROWS = re.findall(
    r"^\| `(\w+_384)` \| (\d+) M, ([\d.]+) G \| ([\d.]+) M \| ([\d.]+) G \| ([\d.]+) G \| \d+ % \|$", TEXT, re.MULTILINE
)


def _arguments(line):
    """The command with this environment's own programs."""
    program, *words = shlex.split(line)
    return [str(Path(sys.executable).parent / program), *words]


def _run(arguments, folder):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def _image_folder(folder):
    for split in ("train", "val"):
        for label, colour in enumerate(("red", "blue")):
            (folder / split / colour).mkdir(parents=True)
            for index in range(64 if split == "train" else 4):
                Image.new("RGB", (40, 30), (255 * (1 - label), index, 255 * label)).save(
                    folder / split / colour / f"{index}.png"
                )


def test_readme_has_its_commands_and_its_table():
    assert COMMANDS[:2] == ["make train", "make test"]
    assert len(FVIT) == 10
    assert len(ROWS) == 4


def test_the_quickstart_has_the_same_figures_everywhere():
    """Written by `make figures` from one run."""
    marked = re.compile("<!-- quickstart: written by `make figures` -->\n(.*?)<!-- /quickstart -->", re.DOTALL)
    [readme], [first_run] = (marked.findall((ROOT / name).read_text()) for name in ("README.md", "docs/first_run.md"))
    assert readme == first_run
    accuracies = re.findall(r"\| ([\d.]+) % \|", readme)
    assert len(accuracies) == 2
    drawn = (ROOT / "docs" / "quickstart.svg").read_text()
    assert all(f"{float(value):.1f} %" in drawn for value in accuracies)


@pytest.mark.parametrize("line", [line for line in FVIT if "fvit.train" in line or "fvit-train" in line])
def test_every_training_command_composes(line, compose_config):
    words = [word for word in shlex.split(line) if "=" in word]
    sweep = {word.split("=")[0]: word.split("=")[1].split(",") for word in words if "," in word and "[" not in word}
    fixed = [word for word in words if word.split("=")[0] not in sweep]
    for index in range(max(map(len, sweep.values()), default=1)):
        compose_config(*fixed, *(f"{key}={values[index % len(values)]}" for key, values in sweep.items()))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder in which one run was started."""
    folder = tmp_path_factory.mktemp("trained")
    _run([*_arguments("fvit-train"), "debug=limit"], folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("line", FVIT)
# Of torch's exporter.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_every_command_runs(line, main, tmp_path, request):
    """In this process; `make train` below starts a program."""
    if "DIR" in line:
        _image_folder(tmp_path / "DIR")
    if "NAME" in line or "fvit-report" in line:
        shutil.copytree(request.getfixturevalue("trained") / "logs", tmp_path / "logs")
        [run] = (tmp_path / "logs" / "train" / "runs").iterdir()
        line = line.replace("NAME", run.name)
    elif "experiment=finetune" in line:
        line += f" {SHORT} model.pretrained=false"  # no download
    elif "hardware=ddp " in line:
        line += " --cfg job --resolve"  # eight GPUs
    elif "fvit-bench" in line:
        line = line.replace("res=224,384", "res=64,96") + " runs=3 seconds=0.1"
    elif "train" in line and "--cfg" not in line and "debug=" not in line:
        line += f" {SHORT}" + " data.img_size=64" * ("data=imagenet" in line)
    program, *arguments = shlex.split(line)
    assert Path(_arguments(line)[0]).is_file()
    done = main(program.removeprefix("fvit-"), *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shorter", "least"), [(["trainer.max_epochs=4"], 30), pytest.param([], 97, marks=pytest.mark.exhaustive)]
)
def test_make_train_teaches_both_models_the_digits(tmp_path, shorter, least):
    """The quickstart as `make train` runs it, in CI its first epochs."""
    [command] = subprocess.run(
        ["make", "--no-print-directory", "-n", "-o", ".venv/.installed", "train"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert command == ".venv/bin/fvit-train -m attention=additive,softmax"
    output = _run([*_arguments(command.removeprefix(".venv/bin/")), *shorter], tmp_path)
    rows = re.findall(r"attention=(\w+) .*finished .*?([\d.]+) %", output)
    assert [name for name, _ in rows] == ["additive", "softmax"]
    assert all(float(accuracy) >= least for _, accuracy in rows)


def test_the_python_runs(capsys):
    [block] = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
    exec(compile(block, "README.md", "exec"), {})
    assert "Cost(params=" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "params_printed", "macs_printed", "params", "macs_paper", "macs"), ROWS)
def test_the_table_is_what_the_code_counts(name, params_printed, macs_printed, params, macs_paper, macs):
    with torch.device("meta"):
        cost = count(timm.create_model(name), 384)
    assert (f"{cost.params / 1e6:.2f}", f"{cost.macs_paper / 1e9:.2f}", f"{cost.macs / 1e9:.2f}") == (
        params,
        macs_paper,
        macs,
    )
    assert str(cost.params // 10**6) == params_printed
    assert f"{cost.macs_paper // 10**8 / 10:.1f}" == macs_printed


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert target.startswith("https://") or (ROOT / target).is_file(), target


def test_every_target_of_make_has_a_line_of_help():
    help_text = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for target in ("train", "test", "test-all", "lint", "format", "zoo", "docs", "audit", "clean", "setup"):
        assert re.search(rf"make {target} +\w", help_text), target
