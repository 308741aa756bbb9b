"""Tests the weights that the validation chose."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from fvit.training import checkpoint


class BestWeights(Callback):
    """Loads the weights of best.ckpt before the test that ends a training run.

    fvit-eval, fvit-predict and fvit-export use the same ones. Without this callback, or without a checkpoint that
    monitors a metric, the test is of the last weights.
    """

    def on_test_start(self, trainer: Trainer, module: LightningModule) -> None:
        monitored = [callback for callback in trainer.checkpoint_callbacks if callback.monitor is not None]
        path = next((callback.best_model_path for callback in monitored if callback.best_model_path), None)
        if path is None:
            return
        weights = checkpoint.read(Path(path))["state_dict"]
        model = {name.removeprefix("model."): weights[name] for name in weights if name.startswith("model.")}
        set_model_state_dict(module.model, model, options=StateDictOptions(full_state_dict=True))
