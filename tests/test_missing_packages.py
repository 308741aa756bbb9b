"""fvit from a checkout on PYTHONPATH, where the image has torch but not all that pyproject.toml lists."""

import importlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

import fvit.data.formats.tar as tar
from fvit.config.errors import explain
from fvit.launch.run_dir import environment

ROOT = Path(__file__).parents[1]
LACKING = ("wandb", "plotly", "simplejpeg", "isal", "pynvml", "tensorboard", "optuna", "onnx")
# As where they are not installed: neither the modules nor what pip knows of them.
BLOCK = f"""
import sys
from importlib import metadata
for name in {LACKING}: sys.modules[name] = None
known = metadata.version
def version(name):
    if name in {("fvit", *LACKING)}: raise metadata.PackageNotFoundError(name)
    return known(name)
metadata.version = version
"""
SHORT = ["model.depth=1", "trainer.max_epochs=1", "scheduler.warmup_epochs=0", "quiet=true"]
CALLS = {
    "train": ("fvit.train", ["data=digits", "logger=csv", *SHORT]),
    "bench": ("fvit.bench", ["attention=additive,softmax", "model=vit_atto", "res=32", "what=[latency]", "runs=3"]),
    "gpu": ("gpu", ["--device", "cpu", "--tiny", "--only", "rates,waits,trainer", "--out", "out"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_commands_work_without_optional_packages(tmp_path, name):
    module, arguments = CALLS[name]
    code = f"{BLOCK}\nsys.argv[1:] = {arguments}\nimport {module} as command\ncommand.main()"
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "benchmarks")])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    if name == "bench":
        assert "plots     none: pip install plotly" in done.stdout
    elif name == "train":
        assert '"wandb": null' in next(tmp_path.rglob("environment.json")).read_text()


def test_environment_notes_what_is_not_installed(monkeypatch):
    known = metadata.version

    def version(name):
        if name in ("fvit", "wandb"):
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(metadata, "version", version)
    packages = environment()["packages"]
    assert packages["fvit"] is packages["wandb"] is None
    assert packages["torch"]


def test_checksums_do_not_need_isal(monkeypatch):
    data = np.random.default_rng(0).bytes(1000)
    expected = tar.crc32(data)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "isal", None)
        patch.setitem(sys.modules, "isal.isal_zlib", None)
        slow = importlib.reload(tar).crc32
    assert importlib.reload(tar).crc32 is not slow
    assert slow(data) == expected


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("wandb", "the package wandb is not installed: pip install wandb"),
        ("plotly", "the package plotly is not installed: pip install plotly"),
        ("open_clip", "the package open_clip_torch is not installed: pip install open_clip_torch"),
        ("sklearn", "the package scikit-learn is not installed: pip install scikit-learn"),
    ],
)
def test_missing_package_is_a_message(monkeypatch, module, message):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(module)
    assert explain(caught.value) == message
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(f"{module}.part")
    assert explain(caught.value) == message


@pytest.mark.parametrize("module", ["fvit.no_such_module", "torch.no_such_module"])
def test_missing_module_of_an_installed_package_is_a_bug(module):
    with pytest.raises(ModuleNotFoundError) as caught:
        importlib.import_module(module)
    assert explain(caught.value) is None
