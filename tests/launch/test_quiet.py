"""quiet=true prints warnings, errors and results only."""

import json
import sys

import pytest

from fvit.config.schemas.train import Train
from fvit.launch import cli, console, quiet
from fvit.launch.progress import counting, waiting


@pytest.mark.parametrize("quiet_run", [True, False])
def test_progress_is_printed_unless_quiet(capsys, quiet_run):
    def work(config):
        console.print_exchange({"name": "vit", "keep": ["qkv"]}, [("0", "A → B", "q", "k", "v")])
        with counting("images", 2, 0) as advance, waiting("looking") as show:
            advance(2)
            show("still")
        console.print_results("a run", {"val/acc1": 0.5}, 1.0, console.Path("nowhere"))
        return config

    assert quiet.wrap(work)({"quiet": quiet_run, "seed": 1}) == {"seed": 1}
    out = capsys.readouterr().out
    assert "50.00 %" in out
    assert ("2 of 2 images" in out) is not quiet_run
    assert ("Attention exchanged" in out) is not quiet_run


def test_the_configuration_itself_is_not_changed():
    config = {"quiet": True}
    assert quiet.wrap(lambda config: quiet.is_quiet())(config)
    assert config == {"quiet": True}
    assert not quiet.is_quiet()


def test_wandb_is_quiet_as_well(monkeypatch):
    monkeypatch.setenv("WANDB_QUIET", "")
    monkeypatch.delenv("WANDB_QUIET")
    quiet.wrap(dict)({"quiet": False})
    assert "WANDB_QUIET" not in quiet.os.environ
    quiet.wrap(dict)({"quiet": True})
    assert quiet.os.environ["WANDB_QUIET"] == "true"


def test_a_rank_is_quiet_as_well(monkeypatch, tmp_path):
    (tmp_path / "resolved.json").write_text(json.dumps({"quiet": True, "seed": 1}))
    monkeypatch.setattr(sys, "argv", ["fvit.train", "--resolved", str(tmp_path / "resolved.json")])
    seen = []
    cli.run("train", lambda config: seen.append((config, quiet.is_quiet())), Train)
    assert seen == [({"seed": 1}, True)]
