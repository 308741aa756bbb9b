"""Trains a model with one weight on noise, and records the pixels that it sees."""

import hashlib
import multiprocessing
import os
import socket

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fvit.callbacks.resume_state import ResumeState
from fvit.data import ImageDataModule

IMAGES, GLOBAL_BATCH, EPOCHS = 43, 4, 4
STEPS = IMAGES // GLOBAL_BATCH
AUGMENT = {
    "transform": {"no_aug": False, "auto_augment": "rand-m9-mstd0.5-inc1"},
    "mixup": {"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 1.0, "switch_prob": 0.5, "mode": "batch"},
    "erasing": {"probability": 0.5, "mode": "pixel"},
}


class Watcher(LightningModule):
    """Records (epoch, batch index, a digest of each image with its target)."""

    def __init__(self, asks_for_length):
        super().__init__()
        self.weight = torch.nn.Linear(1, 1)
        self.asks_for_length = asks_for_length
        self.seen = []

    def training_step(self, batch, batch_idx):
        images, targets = batch
        digests = [
            hashlib.md5(image.numpy().tobytes() + target.numpy().tobytes()).hexdigest()[:12]
            for image, target in zip(images, targets, strict=True)
        ]
        self.seen.append((self.current_epoch, batch_idx, frozenset(digests)))
        return self.weight(images.mean().view(1, 1)).sum()

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        if self.asks_for_length:
            assert self.trainer.estimated_stepping_batches > 0
        return torch.optim.SGD(self.parameters(), lr=0.1)


class EachStep(ModelCheckpoint):
    """Writes step-N.ckpt after every optimizer step."""

    def __init__(self, folder):
        super().__init__(
            folder, filename="step-{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False
        )


class EachEpoch(ModelCheckpoint):
    """Writes epoch-N.ckpt after every epoch."""

    def __init__(self, folder, name="epoch", **options):
        super().__init__(folder, filename=name + "-{epoch}", save_top_k=-1, auto_insert_metric_name=False, **options)

    @property
    def state_key(self):
        return f"{super().state_key}{self.filename}"


def train(
    ckpt_path=None, callbacks=(), workers=0, accumulate=1, world=1, asks_for_length=True, epochs=EPOCHS, **options
):
    """The records of one rank."""
    data = ImageDataModule(
        "fake",
        img_size=16,
        batch_size=GLOBAL_BATCH // accumulate // world,
        accumulate=accumulate,
        num_workers=workers,
        augment=AUGMENT,
        num_images=IMAGES,
        num_classes=5,
        image_size=24,
    )
    module = Watcher(asks_for_length)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        callbacks=[*callbacks, ResumeState()],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(callbacks),
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
    return module.seen


def by_step(*ranks, accumulate=1):
    """Combine the records of several ranks, or of the micro batches of a step: (epoch, step, digests)."""
    steps = {}
    for seen in ranks:
        for epoch, batch, digests in seen:
            steps.setdefault((epoch, batch // accumulate), set()).update(digests)
    return [(epoch, step, frozenset(digests)) for (epoch, step), digests in sorted(steps.items())]


def train_on_ranks(world, **options):
    """The records of each of `world` ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Not forked from this process: after some tests autograd has threads here.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.data.resuming"])
    pipes = [context.Pipe(duplex=False) for _ in range(world)]
    ranks = [context.Process(target=_rank, args=(rank, world, port, pipes[rank][1], options)) for rank in range(world)]
    for process in ranks:
        process.start()
    for _, writer in pipes:
        writer.close()
    seen = [reader.recv() for reader, _ in pipes]
    for process in ranks:
        process.join()
    return seen


def _rank(rank, world, port, pipe, options):
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    os.environ |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    pipe.send(train(world=world, devices=world, strategy="ddp", **options))
