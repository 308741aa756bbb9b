"""docs/python.md: its Python runs as it stands, and its own dataset can be trained on."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tasks import call, trained
from tests.training.fitting import FAKE

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
[OWN] = [block for block in BLOCKS if "def photos" in block]
[COMMAND] = re.findall(r"^fvit-train (data=own .*)$", TEXT, flags=re.MULTILINE)


def picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((20, 30, 3), level, dtype=np.uint8)).save(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on Trainers with few options
def test_the_python_runs(tmp_path, monkeypatch, capsys):
    run = trained(tmp_path / "logs" / "train" / "runs" / "NAME", *FAKE, "logger=none")
    assert run.is_dir()
    picture(tmp_path / "photo.jpg", 100)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    for block in BLOCKS:
        exec(compile(block, "docs/python.md", "exec"), {})
    assert re.match(r"\d\n", capsys.readouterr().out)
    assert (tmp_path / "digits.ckpt").is_file()


@pytest.mark.slow
def test_its_own_dataset_is_trained_on(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "data.py").write_text(OWN)
    for name, level in (("dark", 10), ("light", 240)):
        for index in range(10):
            picture(tmp_path / "photos" / name / f"{index}.png", level + index)
    monkeypatch.syspath_prepend(tmp_path)
    short = ["trainer.max_epochs=1", "global_batch_size=8", "model.embed_dim=24", "model.depth=1"]
    assert call(tmp_path, "train", *shlex.split(COMMAND), *short, "data.num_workers=0") == 0
    assert "mine.data:photos: 17 training and 3 validation images, 2 classes" in capsys.readouterr().out
    [run] = (tmp_path / "logs" / "train" / "runs").iterdir()
    assert (run / "code" / "mine" / "data.py").read_text() == OWN
    assert call(tmp_path, "predict", f"ckpt_path={run}", "images=photos") == 0
    assert "light" in capsys.readouterr().out
