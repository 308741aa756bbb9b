"""Compilation takes place in the model and changes neither its results nor its checkpoints."""

import pytest
import torch

from fvit.train import train
from fvit.training import Classifier

pytestmark = [
    pytest.mark.slow,
    # torch.compile's own, on its first use.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

TINY = ("data=fake", "data.num_images=64", "model.embed_dim=24", "global_batch_size=16", "debug=limit")


@pytest.mark.parametrize(
    ("attention", "depth"),
    [("additive", 1), *(pytest.param(name, 2, marks=pytest.mark.exhaustive) for name in ("additive", "softmax"))],
)
def test_a_compiled_run_learns_what_an_eager_one_learns(compose_config, tmp_path, attention, depth):
    results = {}
    for compile_ in ("false", "true"):
        folder = tmp_path / compile_
        results[compile_] = train(
            compose_config(
                *TINY,
                f"model.depth={depth}",
                f"attention={attention}",
                f"compile={compile_}",
                f"output_dir={folder}",
            )
        )
    assert results["true"]["val/loss"] == pytest.approx(results["false"]["val/loss"], abs=1e-3)
    keys = [
        set(torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"])
        for name in results
    ]
    assert keys[0] == keys[1]
    assert Classifier.load_from_checkpoint(tmp_path / "true" / "checkpoints" / "last.ckpt")
