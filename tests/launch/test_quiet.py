"""quiet=true leaves warnings, errors and what came of it."""

import json
import sys

import pytest

from fvit.config.schemas.train import Train
from fvit.launch import cli, console, quiet
from fvit.launch.progress import counting, waiting


@pytest.mark.parametrize("asked", [True, False])
def test_progress_is_told_or_not(capsys, asked):
    def work(config):
        console.print_exchange({"name": "vit", "keep": ["qkv"]}, [("0", "A → B", "q", "k", "v")])
        with counting("images", 2, 0) as advance, waiting("looking") as tell:
            advance(2)
            tell("still")
        console.print_results("a run", {"val/acc1": 0.5}, 1.0, console.Path("nowhere"))
        return config

    assert quiet.heeded(work)({"quiet": asked, "seed": 1}) == {"seed": 1}
    out = capsys.readouterr().out
    assert "50.00 %" in out
    assert ("2 of 2 images" in out) is not asked
    assert ("Attention exchanged" in out) is not asked


def test_the_configuration_that_is_handed_on_stays_whole():
    config = {"quiet": True}
    assert quiet.heeded(lambda config: quiet.is_quiet())(config)
    assert config == {"quiet": True}
    assert not quiet.is_quiet()


def test_wandb_is_asked_to_be_quiet_as_well(monkeypatch):
    monkeypatch.setenv("WANDB_QUIET", "")
    monkeypatch.delenv("WANDB_QUIET")
    quiet.heeded(dict)({"quiet": False})
    assert "WANDB_QUIET" not in quiet.os.environ
    quiet.heeded(dict)({"quiet": True})
    assert quiet.os.environ["WANDB_QUIET"] == "true"


def test_a_rank_of_its_own_is_quiet_too(monkeypatch, tmp_path):
    (tmp_path / "resolved.json").write_text(json.dumps({"quiet": True, "seed": 1}))
    monkeypatch.setattr(sys, "argv", ["fvit.train", "--resolved", str(tmp_path / "resolved.json")])
    told = []
    cli.run("train", lambda config: told.append((config, quiet.is_quiet())), Train)
    assert told == [({"seed": 1}, True)]
