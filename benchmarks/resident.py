"""Training images per second from memory on the device (`data.resident=true`), against a loader in one process.

    python benchmarks/resident.py                  digits, enlarged; and 32 px images of noise, as in CIFAR-10
    python benchmarks/resident.py --threads 2

Both read, crop, flip and normalise the same batches; a model is not part of it. Epochs alternate, and a ratio is the
median of the rounds'.
"""

import argparse
import statistics

import torch
from hydra import compose, initialize_config_dir

from fvit.config import validation
from fvit.config.paths import conf_dir
from fvit.config.schemas.train import Train
from fvit.cost.timing import Step, time_in_turns
from fvit.data import ImageDataModule

CASES = {
    "digits, 8 to 32 px": ["data=digits"],
    "noise, 32 px": ["data=fake", "data.image_size=32", "data.num_images=1536"],
    "noise, 32 px, augment=deit's mixup and erasing": [
        *("data=fake", "data.image_size=32", "data.num_images=1536", "augment=deit"),
        *("data.augment.transform.auto_augment=null", "data.augment.transform.color_jitter=null"),
    ],
}


def epoch(overrides: list[str], resident: bool) -> tuple[Step, int]:
    """A pass over the training images, in batches of 64, and their number."""
    fixed = ["output_dir=none", "title=none", f"data.resident={str(resident).lower()}"]
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = validation.check(compose("train", [*fixed, *overrides]), Train)
    data = ImageDataModule(**{**config["data"], "num_workers": 0}, batch_size=64)
    loader = data.train_dataloader()

    def step() -> None:
        for batch in loader:
            if resident:
                batch = batch._replace(images=data.resident["train"].take(batch.images, (data.hparams.img_size,) * 2))
            data.batch_transform(batch, True, torch.float32)

    return step, len(loader) * 64


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name, overrides in CASES.items():
        (loader, images), (resident, _) = epoch(overrides, False), epoch(overrides, True)
        timings = time_in_turns({"loader": loader, "resident": resident}, runs=options.rounds)
        pairs = zip(timings["loader"].seconds, timings["resident"].seconds, strict=True)
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        speeds = {key: images / statistics.median(timing.seconds) for key, timing in timings.items()}
        print(
            f"{name}: {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
            f"{speeds['resident']:,.0f} against {speeds['loader']:,.0f} images/s"
        )


if __name__ == "__main__":
    main()
