"""The package works outside its checkout."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with nothing but the installed wheel, and the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True)
    [wheel] = folder.glob("*.whl")
    target = folder / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True)
    return target, wheel


def test_the_wheel_holds_conf_and_nothing_of_the_checkout(installed):
    names = zipfile.ZipFile(installed[1]).namelist()
    assert {"fvit/conf/train.yaml", "fvit/reports/web/style.css", "fvit/reports/runs/report.js"} <= set(names)
    assert "hydra_plugins/fvit_optuna.py" in names
    for path in (ROOT / "conf").rglob("*.yaml"):
        assert f"fvit/conf/{path.relative_to(ROOT / 'conf')}" in names
    assert not [name for name in names if name.startswith(("tests", "logs", "src"))]


def test_one_step_is_trained_from_the_wheel(installed, tmp_path):
    # PYTHONPATH comes before the editable install of the checkout.
    environment = {**os.environ, "PYTHONPATH": str(installed[0]), "OMP_NUM_THREADS": "1"}
    where = "import fvit, fvit.config.paths as p; print(fvit.__file__); print(p.conf_dir())"
    printed = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert all(Path(line).is_relative_to(installed[0]) for line in printed.splitlines())
    script = installed[0] / "bin" / "fvit-train"
    done = subprocess.run(
        [sys.executable, str(script), "debug=fdr"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    [run] = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert json.loads((run / "metrics.json").read_text())["status"] == "finished"
