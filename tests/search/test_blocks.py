"""The search over blocks: which jobs it starts, what it keeps, and what it does when it is started again."""

import csv
import logging
import re
import sys
from pathlib import Path

import hydra
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig

from fvit.config.errors import ConfigError, RunError
from fvit.config.paths import conf_dir
from fvit.launch.record import write_metrics
from fvit.search.blocks_report import Tried, page

TOY = {
    "defaults": [{"attention": "additive"}, "_self_"],
    "model": {"depth": 3, "blocks": None, "keep": ["qkv"]},
    "seed": 0,
}
COSTS = {0: 0.3, 1: 0.1, 2: 0.2}


def loss(blocks):
    """Block 1 costs least; but beside it, block 0 costs less than block 2."""
    return 1 + sum(COSTS[block] for block in blocks) - 0.25 * ({0, 1} <= set(blocks))


class Task:
    """Counts its jobs, and writes what a run would leave."""

    def __init__(self, status="finished"):
        self.seen, self.status = [], status

    def __call__(self, cfg):
        blocks = cfg.model.blocks or []
        self.seen.append((HydraConfig.get().job.num, cfg.model.attention.name, list(blocks), cfg.seed, cfg.model.keep))
        value = loss(blocks) + 0.01 * cfg.seed
        metrics = {"val/loss": value, "val/acc1": 1 - value / 4, "cost/macs": 1e6 * (10 - len(blocks))}
        write_metrics(Path(HydraConfig.get().runtime.output_dir), self.status, metrics)
        return metrics


@pytest.fixture
def search(tmp_path, monkeypatch):
    """`search(task, *overrides)` runs a search in tmp_path/sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    ConfigStore.instance().store(name="toy_blocks", node=TOY)
    handlers = logging.getLogger().handlers[:]

    def run(task, *overrides):
        fixed = [f"hydra.searchpath=[file://{conf_dir()}]", "hydra/sweeper=fvit_blocks", "hydra.sweep.dir=sweep"]
        monkeypatch.setattr(sys, "argv", ["toy", "-m", *fixed, *overrides])
        try:
            hydra.main(version_base="1.3", config_path=None, config_name="toy_blocks")(task)()
        finally:
            for handler in set(logging.getLogger().handlers) - set(handlers):
                handler.close()
            logging.getLogger().handlers[:] = handlers

    return run


@pytest.mark.slow
def test_each_round_keeps_the_block_that_costs_least(search, tmp_path, capsys):
    task = Task()
    search(task, "attention=linear", "+hydra.sweeper.params.seed='0,1'")
    assert [seen[0] for seen in task.seen] == list(range(14))
    assert [seen[3] for seen in task.seen] == [0, 1] * 7
    assert task.seen[0][1:] == ("native", [], 0, None)
    assert task.seen[2][-1] == ["qkv"]
    assert {seen[1] for seen in task.seen[2:]} == {"linear"}
    assert [seen[2] for seen in task.seen[::2]] == [[], [0], [1], [2], [0, 1], [1, 2], [0, 1, 2]]
    with (tmp_path / "sweep" / "blocks.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    kept = [row for row in rows if row["kept"] == "1"]
    assert [row["blocks"] for row in kept] == ["", "1", "0 1", "0 1 2"]
    assert [float(row["val/loss"]) for row in kept] == pytest.approx([1.005, 1.105, 1.155, 1.355])
    assert float(kept[1]["cost/macs"]) == 9e6
    assert len(rows) == 7
    assert "exchanged, one after another" in (tmp_path / "sweep" / "blocks.html").read_text()
    printed = capsys.readouterr().out
    assert re.search(r"Round 2: one block more, best first\n.*\n 1 \+ 0 .*\n 1 \+ 2", printed) or "1 + 0" in printed


def test_the_command_line_replaces_seeds_and_blocks(search):
    task = Task()
    search(task, "seed=7", "+hydra.sweeper.params.seed='0,1'", "hydra.sweeper.blocks=[0,2]")
    assert [(seen[2], seen[3]) for seen in task.seen] == [([], 7), ([0], 7), ([2], 7), ([0, 2], 7)]


@pytest.mark.slow
def test_a_failed_job_ends_the_search_and_the_same_command_continues(search):
    with pytest.raises(RunError, match=r"job 0 of the sweep did not finish \(failed\).*repeat the command"):
        search(Task("failed"))
    search(Task())
    with pytest.raises(RunError, match=r"job 0 of sweep was started with attention=native"):
        search(Task(), "seed=3")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [(["model.depth=null"], r"set hydra\.sweeper\.blocks"), (["model.blocks=[1]"], r"chooses model\.blocks")],
)
def test_commands_that_cannot_be_searched_are_refused(search, overrides, message):
    task = Task()
    with pytest.raises(ConfigError, match=message):
        search(task, *overrides)
    assert task.seen == []


def test_the_page_has_a_point_per_set_and_units_of_macs():
    def tried(*blocks):
        jobs = [{"val/loss": loss(blocks), "val/acc1": 0.5 + seed / 100, "cost/macs": 4e9} for seed in range(2)]
        return Tried(blocks, tuple(jobs))

    text = page([[tried()], [tried(1), tried(0)], [tried(1, 0)]])
    assert "MACs per image, G" in text
    assert "exchanged: 1 + 0" in text
    assert "means over 2 runs" in text
