"""What `callbacks=[default,ema]` adds to a training step: the update of the average, relative to the step itself.

    python benchmarks/ema.py                                FViT-Ti/16, 224 px, 8 images per step, on a CPU
    python benchmarks/ema.py --model small --batch 256 --device cuda

Steps, updates, and the update of Lightning's `EMAWeightAveraging`, weight by weight, take turns. The claim is less than
3 % of a step.
"""

import argparse
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

from fvit.callbacks.ema import EMA
from fvit.cost.timing import Step, time_in_turns
from fvit.models import build

LIMIT = 0.03


class Module(LightningModule):
    """A model as a run has it."""

    num_outputs = 1000

    def __init__(self, size: str, side: int) -> None:
        super().__init__()
        attention = {"name": "additive"}
        self.model = build(f"vit_{size}_patch16_224", side, self.num_outputs, attention=attention)


def steps(module: Module, images: torch.Tensor, ema: EMA) -> dict[str, Step]:
    """A training step with AdamW, in bf16 on a GPU; and the two updates."""
    device, trainer = images.device, SimpleNamespace(global_step=1, current_epoch=0)
    labels = torch.randint(0, module.num_outputs, (len(images),), device=device)
    optimizer = torch.optim.AdamW(module.parameters(), 1e-4, fused=device.type == "cuda")
    theirs = AveragedModel(module, device, avg_fn=get_ema_avg_fn(0.999), use_buffers=True)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = F.cross_entropy(module.model(images).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def update() -> None:
        trainer.global_step += 1
        ema.on_train_batch_end(trainer, module, None, None, 0)

    def alone(work: Step) -> Step:
        """On a GPU with nothing before or behind it."""

        def call() -> None:
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)

        return call

    works = {"step": step, "ema": update, "Lightning's": lambda: theirs.update_parameters(module)}
    return {name: alone(work) for name, work in works.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", choices=["tiny", "small", "base"])
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    module, ema = Module(options.model, options.side), EMA()
    ema.setup(SimpleNamespace(strategy=SimpleNamespace(root_device=device)), module, "fit")
    module.to(device)
    images = torch.randn(options.batch, 3, options.side, options.side, device=device)
    timings = time_in_turns(steps(module, images, ema), options.rounds)
    whole = timings["step"].median
    print(f"FViT-{options.model}, {options.batch} images of {options.side} px: {1000 * whole:.1f} ms per step")
    for name in ("ema", "Lightning's"):
        print(f"{name}: {1000 * timings[name].median:.2f} ms, {100 * timings[name].median / whole:.2f} % of it")
    if timings["ema"].median > LIMIT * whole:
        raise SystemExit(f"more than {100 * LIMIT:.0f} %")


if __name__ == "__main__":
    main()
