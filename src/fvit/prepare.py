"""fvit-prepare: write the images of a source into tar shards, check such shards, and measure how fast images load."""

import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from fvit.config.errors import RunError
from fvit.config.schemas.prepare import Prepare
from fvit.config.schemas.train import Data
from fvit.launch import cli


def main() -> None:
    """The command line."""
    cli.run("prepare", prepare, Prepare)


def prepare(config: dict[str, Any]) -> dict[str, float]:
    """Do what `config` asks for: exactly one of its keys that are named in `VERBS` is set."""
    workers = config["workers"] if config["workers"] is not None else os.cpu_count() or 1
    if config["out"] is not None:
        _write(config, Path(config["out"]).expanduser(), workers)
    elif config["verify"] is not None:
        _verify(Path(config["verify"]).expanduser(), workers)
    else:
        _bench(config, workers)
    return {}


def _write(config: dict[str, Any], out: Path, workers: int) -> None:
    # Imported here, because --help and a wrong override must not wait for torch.
    from fvit.data import sources
    from fvit.data.prepare.write import Settings, write
    from fvit.data.storage.base import redact
    from fvit.launch.progress import counting

    start = time.monotonic()
    name = config["data"]["name"]
    options = {key: value for key, value in config["data"].items() if key not in Data.model_fields}
    source = sources.load(name, **options)
    # Where fetched files are kept does not change what is written.
    told = {key: value for key, value in options.items() if value is not None and not key.startswith("cache_")}
    shown = {key: redact(value) if isinstance(value, str) else value for key, value in told.items()}
    resize = None if config["resize"] == "none" else config["resize"]
    settings = Settings({"name": name, **shown}, resize, config["quality"], config["shard_size"])
    outcome = write(source, out, settings, workers, config["bad"], partial(counting, "images"))
    _summarise(outcome, out, time.monotonic() - start)


def _summarise(outcome: Any, out: Path, seconds: float) -> None:
    from fvit.launch.console import console, print_facts

    content = outcome.content
    splits = content.by_split()
    skipped = [image for split in splits.values() for image in split.skipped]
    for image in skipped:
        console.print(f"skipped {image.name}: {image.reason}", markup=False)
    size = sum(file.size for file in content.files()) / 1e9
    facts = [
        (
            "images",
            f"{splits['train'].images:,} to train, {splits['val'].images:,} to validate, {len(skipped)} skipped",
        ),
        ("classes", f"{len(content.classes):,}"),
        ("shards", f"{len(splits['train'].shards):,} + {len(splits['val'].shards):,}"),
        (
            "size",
            f"{size:.3g} GB" if outcome.bytes_in is None else f"{outcome.bytes_in / 1e9:.3g} GB became {size:.3g} GB",
        ),
        ("time", "none, all of it was there" if outcome.bytes_in is None else f"{seconds:,.0f} s"),
        ("train with it", f"fvit-train data=imagenet data.root={out}"),
        ("check it", f"fvit-prepare verify={out}"),
    ]
    print_facts("Prepared", facts)


def _verify(folder: Path, workers: int) -> None:
    from fvit.data.prepare.verify import verify
    from fvit.launch.console import console
    from fvit.launch.progress import counting

    problems, files = verify(folder, workers, partial(counting, "files"))
    for problem in problems:
        console.print(problem, markup=False)
    if problems:
        raise RunError(f"{folder}: {files} files, wrong in {len(problems)} places; fetch or prepare those files again")
    console.print(f"{folder}: {files} files, all whole")


def _bench(config: dict[str, Any], cores: int) -> None:
    from fvit.data import sources
    from fvit.data.formats import decode
    from fvit.data.prepare.bench import measure
    from fvit.launch.console import print_speed
    from fvit.launch.progress import waiting

    data = config["data"]
    source = sources.load("imagenet", root=config["bench"], cache_dir=data.get("cache_dir"))
    decoder = decode.choose(data["decoder"])
    with waiting("measuring") as tell:
        size, interpolation = data["img_size"], data["interpolation"]
        speed = measure(source.train, decoder, size, interpolation, max(1, cores), tell=tell)
    facts = [(f"{workers} workers", f"{count:,.0f} images/s") for workers, count in speed.rates.items()]
    facts.append(("an image", f"{speed.bytes_an_image / 1e3:.0f} kB"))
    for rate in [config["rate"]] if config["rate"] else (1000, 3000, 10000):
        facts.append((f"{rate:,} images/s", f"{speed.workers_for(rate):,} workers, each with a core of its own"))
    title = f"{config['bench']}: training crops of {size} px, decoder {decoder.name}"
    print_speed(title, speed.stages, facts)


if __name__ == "__main__":
    main()
