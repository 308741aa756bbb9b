"""Writes the files that runs and benchmarks leave, without training."""

import json
from pathlib import Path

import yaml

COST = {"cost/params": 226_666, "cost/macs": 3_310_080, "throughput/images_per_s": 2000.0, "memory/peak_gib": 0.9}
# Of `write_sweep`, by seed.
ACCURACIES = {"additive": (0.91, 0.92, 0.96), "softmax": (0.90, 0.92, 0.91), "linear": (0.5, 0.7, 0.6)}


def write_run(
    folder: Path,
    attention="additive",
    seed=0,
    accuracy=0.9,
    status="finished",
    error=None,
    curve=None,
    overrides=(),
    choices=None,
    metrics=None,
    **changes,
):
    """A run directory; `changes` are dotted config keys with __ for each dot."""
    folder.mkdir(parents=True)
    config = {
        "title": f"vit_atto, {attention}",
        "output_dir": str(folder),
        "seed": seed,
        "global_batch_size": 64,
        "ckpt_path": None,
        "model": {"name": "vit_tiny_patch16_224", "depth": 4, "attention": {"name": attention}},
        "trainer": {"max_epochs": 3, "accelerator": "cpu"},
        "data": {"name": "digits", "img_size": 32},
        "optimizer": {"lr": 0.002},
        "logger": {"csv": {"save_dir": str(folder)}},
        "callbacks": {"best": {"dirpath": f"{folder}/checkpoints"}},
    }
    for key, value in changes.items():
        *owners, last = key.split("__")
        section = config
        for owner in owners:
            section = section[owner]
        section[last] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    (folder / ".hydra").mkdir()
    task = [f"attention={attention}", f"seed={seed}", *overrides]
    chosen = {"attention": attention, "model": "vit_atto", "data": config["data"]["name"], **(choices or {})}
    hydra = {"hydra": {"overrides": {"task": task}, "runtime": {"choices": chosen}}}
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra), encoding="utf-8")
    environment = {"git_commit": "0123456789abcdef", "packages": {"torch": "2.9.0"}, "command": ["fvit-train"]}
    (folder / "environment.json").write_text(json.dumps(environment), encoding="utf-8")
    final = {"val/acc1": accuracy, "best/val/acc1": accuracy, **COST} if status == "finished" else {}
    content = {"status": status, "error": error, "seconds": 61.0, "metrics": final if metrics is None else metrics}
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    if curve is not None:
        write_curve(folder, curve)
    return folder


def write_curve(folder: Path, values, steps=10):
    """csv/metrics.csv: in each epoch of `steps` steps a training loss in the middle and a validation at the end."""
    lines = ["epoch,lr,step,train/loss,val/acc1,val/loss"]
    for epoch, value in enumerate(values):
        lines += [
            f"{epoch},0.1,{epoch * steps + 4},{2 - value},,",
            f"{epoch},,{epoch * steps + steps - 1},,{value},1.5",
        ]
    (folder / "csv").mkdir(exist_ok=True)
    (folder / "csv" / "metrics.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_lr_run(folder: Path, lr, attention="additive", **options):
    """A run whose command line sets the learning rate."""
    return write_run(folder, attention, overrides=[f"optimizer.lr={lr}"], optimizer__lr=lr, **options)


def write_refused(folder: Path):
    """A job whose configuration was refused: its status and Hydra's files, but no configuration of its own."""
    write_run(folder, status="failed", error="embed_dim=50 is not divisible")
    (folder / "config.yaml").unlink()


def write_lived_in(folder: Path):
    """The runs of some weeks: other callbacks, loggers and paths, two datasets, failures, debug runs, refusals."""
    for seed, logger in enumerate(("csv", "wandb", "tensorboard")):
        options = dict(logger={logger: {"save_dir": f"/somewhere/{logger}"}}, data__num_workers=seed)
        write_run(folder / f"additive{seed}", seed=seed, accuracy=ACCURACIES["additive"][seed], **options)
        callbacks = {f"own{seed}": {"_target_": "lightning.pytorch.callbacks.LearningRateMonitor", "path": f"/x{seed}"}}
        write_run(folder / f"softmax{seed}", "softmax", seed, ACCURACIES["softmax"][seed], callbacks=callbacks)
    ema = {"ema": {"_target_": "fvit.callbacks.ema.EMA", "decay": 0.999}}
    write_run(folder / "ema", accuracy=0.99, overrides=["callbacks=[default,ema]"], callbacks=ema)
    for attention in ("additive", "softmax"):
        write_run(folder / f"pets {attention}", attention, accuracy=0.3, data__name="folder", data__root="/data/pets")
    for name, status in (("failed", "failed"), ("crashed", "crashed"), ("stopped", "interrupted")):
        write_run(folder / name, "linear", status=status, curve=[0.1], trainer__max_epochs=99)
    write_run(folder / "debug", "performer", accuracy=1.0, choices={"debug": "limit"})
    write_run(folder / "fast", "performer", accuracy=1.0, trainer__fast_dev_run=True)
    write_run(folder / "at once", "gmlp", status="interrupted")
    write_refused(folder / "refused")
    (folder / "empty" / ".hydra").mkdir(parents=True)


def write_sweep(folder: Path, attentions=("additive", "softmax"), seeds=(0, 1, 2), **changes):
    """Jobs 0, 1, … of a grid with `ACCURACIES`."""
    grid = [(attention, seed) for attention in attentions for seed in seeds]
    for number, (attention, seed) in enumerate(grid):
        accuracy = ACCURACIES[attention][seed]
        curve = [0.3 * accuracy, 0.8 * accuracy, accuracy]
        write_run(folder / str(number), attention, seed, accuracy, curve=curve, **changes)


def write_benchmark(folder: Path):
    """The bench.json of two candidates at two image sizes."""
    folder.mkdir(parents=True)
    rows = [
        {
            "name": f"vit_tiny {attention}",
            "model": "vit_tiny",
            "attention": attention,
            "res": res,
            "precision": "float32",
            "compiled": False,
            "status": "ok",
            "tokens": tokens,
            "macs": 1e9 * tokens,
            "latency_ms": 2.0 * tokens,
            "latency_ms_low": 1.9 * tokens,
            "latency_ms_high": 2.2 * tokens,
            "seconds": {"latency_ms": [0.1]},
        }
        for attention in ("additive", "softmax")
        for res, tokens in ((224, 197), (384, 577))
    ]
    config = {"candidates": ["attention=additive,softmax", "model=vit_tiny"], "batch": 4, "baseline": "softmax"}
    machine = {"device": "cpu", "name": "Abacus", "threads": 2, "cpus": 4, "torch": "2.9.0"}
    content = {"config": config, "machine": machine, "environment": {}, "rows": rows, "growth": []}
    (folder / "bench.json").write_text(json.dumps(content), encoding="utf-8")
