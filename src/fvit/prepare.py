"""fvit-prepare: write a data source to tar shards, verify them, and measure how fast images load."""

import time
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

from fvit.config.cores import usable_cores
from fvit.config.errors import RunError
from fvit.config.overrides import argument
from fvit.config.schemas.prepare import Prepare
from fvit.config.wording import count, pixels
from fvit.launch import cli


def main() -> None:
    """The command line."""
    cli.run("prepare", prepare, Prepare)


def prepare(config: dict[str, Any]) -> dict[str, float]:
    """Write to ``config["out"]``, verify ``config["verify"]``, or measure ``config["bench"]``, whichever is set."""
    workers = config["workers"] if config["workers"] is not None else usable_cores()
    if config["out"] is not None:
        _write(config, Path(config["out"]).expanduser(), workers)
    elif config["verify"] is not None:
        _verify(Path(config["verify"]).expanduser(), workers)
    else:
        _bench(config, workers)
    return {}


def _write(config: dict[str, Any], out: Path, workers: int) -> None:
    # Imported here, so that --help and invalid overrides do not wait for torch.
    from fvit.data import ImageDataModule, sources
    from fvit.data.prepare.write import Settings, write
    from fvit.data.storage.base import redact
    from fvit.launch.console import console, print_facts
    from fvit.launch.progress import counting

    start = time.monotonic()
    name = config["data"]["name"]
    # conf/data also has options of the loader, which have no effect here.
    loader_options = signature(ImageDataModule).parameters
    options = {key: value for key, value in config["data"].items() if key not in loader_options}
    source = sources.load(name, **options)
    # The manifest names the source without credentials, and without the cache, which has no effect on the shards.
    known = {key: value for key, value in options.items() if value is not None and not key.startswith("cache_")}
    described = {key: redact(value) if isinstance(value, str) else value for key, value in known.items()}
    resize = None if config["resize"] == "none" else config["resize"]
    settings = Settings({"name": name, **described}, resize, config["quality"], config["shard_size"])
    skip_bad = config["bad"] == "skip"
    manifest, bytes_in = write(source, out, settings, workers, skip_bad, partial(counting, "images"))

    train, val = manifest.splits["train"], manifest.splits["val"]
    skipped = [*train.skipped, *val.skipped]
    for image in skipped:
        console.print(f"skipped {image.name}: {image.reason}", markup=False)
    size = f"{sum(file.size for file in manifest.files()) / 1e9:.3g} GB"
    facts = [
        ("images", f"{train.images:,} for training, {val.images:,} for validation, {len(skipped)} skipped"),
        ("classes", f"{len(manifest.classes):,}"),
        ("shards", f"{len(train.shards):,} + {len(val.shards):,}"),
        ("size", size if bytes_in is None else f"{size}, from {bytes_in / 1e9:.3g} GB"),
        ("elapsed", "everything already existed" if bytes_in is None else f"{time.monotonic() - start:,.0f} s"),
        ("train with", f"fvit-train data=imagenet {argument('data.root', out)}"),
        ("verify with", f"fvit-prepare {argument('verify', out)}"),
    ]
    if source.test is not None:
        facts.append(("left out", f"{len(source.test):,} test images: shards hold two sets"))
    print_facts("Prepared", facts)


def _verify(folder: Path, workers: int) -> None:
    from fvit.data.prepare.verify import verify
    from fvit.launch.console import console
    from fvit.launch.progress import counting

    problems, files = verify(folder, workers, partial(counting, "files"))
    for problem in problems:
        console.print(problem, markup=False)
    if problems:
        raise RunError(
            f"{folder}: {count(len(problems), 'problem')} in {count(files, 'file')}; fetch or prepare those files again"
        )
    console.print(f"{folder}: {count(files, 'file')}, all intact")


def _bench(config: dict[str, Any], cores: int) -> None:
    from fvit.data import sources
    from fvit.data.formats import decode
    from fvit.data.prepare.bench import measure
    from fvit.launch.console import print_speed
    from fvit.launch.progress import waiting

    data = config["data"]
    source = sources.load("imagenet", root=config["bench"], cache_dir=data.get("cache_dir"))
    decoder = decode.choose(data["decoder"])
    with waiting("measuring") as show:
        size, interpolation = data["img_size"], data["interpolation"]
        speed = measure(source.train, decoder, size, interpolation, max(1, cores), show=show)
    facts = [(count(workers, "worker"), f"{rate:,.0f} images/s") for workers, rate in speed.rates.items()]
    facts.append(("per image", f"{speed.bytes_per_image / 1e3:.0f} kB"))
    for rate in [config["rate"]] if config["rate"] else (1000, 3000, 10000):
        facts.append((f"{rate:,} images/s", f"{count(speed.workers_for(rate), 'worker')}, each on its own core"))
    print_speed(f"{config['bench']}: training crops of {pixels(size)}, decoder {decoder.name}", speed.stages, facts)


if __name__ == "__main__":
    main()
