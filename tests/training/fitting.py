"""Short runs through `fvit.train.train`, watched from inside."""

from lightning import Callback

from fvit.train import train

MODEL = ("model.embed_dim=24", "model.depth=2", "model.num_heads=3")
LENGTH = ("scheduler.warmup_epochs=0", "trainer.max_epochs=1", "trainer.log_every_n_steps=1")
DIGITS = (*MODEL, *LENGTH, "data=digits")
FAKE = (*MODEL, *LENGTH, "data=fake", "data.num_images=64", "data.image_size=32", "global_batch_size=16")
"""Four updates on four batches of sixteen images, sixteen more for validation."""
BARE = (*FAKE, "logger=none", "callbacks=none")


class Probe(Callback):
    """Notes what a run did: the rate and the loss of each update, and its trainer, module and data at the end."""

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
    """What the configuration names as `_target_`."""
    return Probe.current


def fit(config, probe=None):
    """Train as `config` says; the probe holds what there is to know."""
    Probe.current = probe or Probe()
    callbacks = {**config["callbacks"], "probe": {"_target_": f"{__name__}.hand_over"}}
    Probe.current.metrics = train({**config, "callbacks": callbacks})
    return Probe.current
