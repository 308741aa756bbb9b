"""fvit-eval as a function."""

import pytest

from fvit.config.errors import ConfigError
from fvit.config.schemas.train import Eval
from fvit.eval import evaluate
from tests.tasks import checked, trained
from tests.training.fitting import FAKE


def test_evaluation_gives_the_metrics_of_the_checkpoint(tmp_path):
    run = trained(tmp_path / "run", *FAKE, "logger=none")
    metrics = evaluate(checked("eval", Eval, f"output_dir={tmp_path / 'eval'}", f"ckpt_path={run}"))
    assert set(metrics) == {"val/loss", "val/acc1", "val/acc5"}


def test_old_spelling_of_a_cascade_names_the_new_command(tmp_path):
    config = checked("eval", Eval, f"output_dir={tmp_path}", "ckpt_path=a", "tiny=b")
    with pytest.raises(ConfigError, match="fvit-cascade large=a tiny=b"):
        evaluate(config)
