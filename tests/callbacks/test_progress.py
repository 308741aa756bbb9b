"""A run on terminals of several widths, and without one."""

import io
import re

import pytest
from rich.console import Console

from fvit.callbacks import progress
from fvit.train import train

TINY = ["data=fake", "data.num_images=64", "model.embed_dim=24", "model.depth=1", "global_batch_size=16"]
TINY += ["trainer.max_epochs=2", "scheduler.warmup_epochs=0", "logger=none", "~callbacks.best", "~callbacks.last"]
BAR = "\u2501"


@pytest.fixture
def shown(compose_config, monkeypatch):
    """The lines that a run shows on a terminal of some width; 0 for none."""

    def run(width):
        out = io.StringIO()
        monkeypatch.setattr(progress, "console", Console(file=out, force_terminal=bool(width), width=width or 999))
        train(compose_config(*TINY))
        return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", out.getvalue()))

    return run


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_a_terminal_has_a_bar_and_a_line_per_epoch(shown, width):
    lines = shown(width)
    bars = [line for line in lines if BAR in line]
    assert bars
    assert max(map(len, bars)) <= width
    assert all(re.search(rf"epoch \d/2 {BAR}.*ETA", bar) for bar in bars)
    assert any("val acc1" in bar for bar in bars) == (width >= 100)
    history = [line for line in lines if re.match(r"epoch \d/2  loss .*val acc1 .* %", line)]
    assert [line[:9] for line in history] == ["epoch 1/2", "epoch 2/2"]


def test_a_log_has_a_line_per_epoch_with_the_remaining_time(shown):
    assert [line[:9] for line in shown(0) if line] == ["epoch 1/2", "epoch 2/2"]
