"""Short runs of `fvit.train.train`, observed by a callback."""

from lightning import Callback

from fvit.train import train

MODEL = ("model.embed_dim=24", "model.depth=2", "model.num_heads=3")
LENGTH = ("scheduler.warmup_epochs=0", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
DIGITS = (*MODEL, *LENGTH, "data=digits")
FAKE = (*MODEL, *LENGTH, "data=fake", "data.num_images=64", "data.image_size=32", "global_batch_size=16")
"""Four updates on batches of sixteen images, and sixteen images for validation."""
BARE = (*FAKE, "logger=none", "callbacks=none")


class Probe(Callback):
    """Records the learning rates and the loss of each update, and the trainer, module and data of a run."""

    current = None

    def __init__(self):
        self.rates, self.losses, self.updates = [], [], 0

    def setup(self, trainer, module, stage):
        self.trainer, self.module, self.data = trainer, module, trainer.datamodule

    def on_before_optimizer_step(self, trainer, module, optimizer):
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())

    @property
    def final_rates(self):
        return [group["lr"] for group in self.trainer.optimizers[0].param_groups]


def hand_over():
    """The `_target_` in the configuration."""
    return Probe.current


def fit(config, probe=None):
    """Train with a probe as a further callback, and return it."""
    Probe.current = probe or Probe()
    callbacks = {**config["callbacks"], "probe": {"_target_": f"{__name__}.hand_over"}}
    Probe.current.metrics = train({**config, "callbacks": callbacks})
    return Probe.current
