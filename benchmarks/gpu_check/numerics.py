"""Whether every mechanism computes the right thing, the same thing twice, and without making the host wait."""

import copy
import os
from collections.abc import Iterator
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fvit.attention import Mechanism, get, names
from gpu_check.measure import counting_waits, host_milliseconds, kernels, milliseconds
from gpu_check.report import Report

if TYPE_CHECKING:
    from fvit.data.dataset import Batch
    from fvit.data.transforms.batch import BatchTransform

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"additive, {form}": ("additive", dict(form=form)) for form in ("textbook", "factored", "folded")},
    "additive, fastformer": ("additive", dict(logits="full", value="separate", proj=True)),
    "pola, deit": ("pola", dict(conv=5, scale_channels=True, position_keys=True)),
    "mala, mavit": ("mala", dict(conv=5, rotary=True, gate=True)),
    "mlla, mila": ("mlla", dict(conv=3, gate=True)),
    "agent, deit": ("agent", dict(position_bias=True, conv=3)),
    "window, swin": ("window", dict(position_bias=True)),
    "focused, flatten": ("focused", dict(conv=5, norm="token", scale_channels=True, position_keys=True)),
    "inline, deit": ("inline", dict(local=True)),
    "softmax, rotary": ("softmax", dict(rotary=True)),
}
# Largest relative error of outputs and input gradients against float64.
LIMITS = {"float32": 1e-4, "bf16": 0.06, "fp16": 0.02}
_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
DEIT = (
    dict(mixup_alpha=0.8, cutmix_alpha=1.0, prob=1.0, switch_prob=0.5, mode="batch"),
    dict(probability=0.25, mode="pixel"),
)


def cases() -> dict[str, tuple[str, dict[str, Any]]]:
    """All mechanisms, and the variants that papers use."""
    return {**{name: (name, {}) for name in names()}, **VARIANTS}


def make(key: str, options: dict[str, Any], dim: int, heads: int, side: int) -> Mechanism:
    """A mechanism for side × side patches and a class token, with logits of order one, as after training."""
    torch.manual_seed(0)
    mechanism = get(key)(dim, num_heads=heads, **options)
    mechanism.set_layout((side, side), 1, 1)
    for parameter in mechanism.parameters():
        if parameter.ndim == 2 and min(parameter.shape) >= dim // 2:
            nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
    return mechanism


def precision(report: Report) -> None:
    """Outputs and input gradients of all mechanisms against float64, in float32 and by autocast."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for side, dim in ((4, 48),) if report.tiny else ((14, 384), (32, 384)):
        tokens, errors = side * side + 1, {kind: {} for kind in LIMITS}
        for name, (key, options) in cases().items():
            with report.attempt(f"{name}, {tokens} tokens"):
                mechanism = make(key, options, dim, dim // 16 if report.tiny else 6, side).eval()
                x = F.layer_norm(torch.randn(1, tokens, dim), (dim,))
                upstream = torch.randn_like(x)
                expected = _run(copy.deepcopy(mechanism).double(), x.double(), upstream)
                mechanism, x = mechanism.to(report.device), x.to(report.device)
                for kind in LIMITS:
                    found = _run(mechanism, x, upstream, _AUTOCAST.get(kind))
                    errors[kind][name] = [_relative(a, b) for a, b in zip(found, expected, strict=True)]
        for kind, limit in LIMITS.items():
            limit *= 3 if report.tiny else 1  # one kink of a ReLU is a larger share of few numbers
            # Not max(), which may pass over NaN.
            bad = {name: both for name, both in errors[kind].items() if not all(e <= limit for e in both)}
            what = f"{len(errors[kind])} mechanisms in {kind}, {tokens} tokens: errors at most {limit:g}"
            report.claim(what, not bad, beyond=bad)


def waits(report: Report) -> None:
    """Neither the augmentation of a batch nor any mechanism makes the host wait."""
    from fvit.data.transforms.batch import BatchTransform  # and with it all that loading images needs

    device, (size, side) = report.device, (8, 32) if report.tiny else (256, 224)
    for name, (mixup, erasing) in {"normalisation": ({}, {}), "mixup, cutmix and erasing": DEIT}.items():
        with report.attempt(name):
            transform = BatchTransform(1000, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), mixup, erasing, 0)
            batch = _batch(transform, size, side, device)

            def step(transform: "BatchTransform" = transform, batch: "Batch" = batch) -> None:
                transform(batch, True, torch.float32)

            step()
            with counting_waits(device) as found:
                step()
            times = dict(device_ms=milliseconds(step, device), host_ms=host_milliseconds(step, device))
            times["kernels"] = kernels(step, device)
            _claim_no_wait(report, f"{name} of {size} images at {side} px", found, **times)
            if report.on_gpu:
                report.claim(f"{name}: launched within 2 ms", times["host_ms"] < 2, host_ms=times["host_ms"])
    total = {}
    for name, step in _training_steps(report):
        with report.attempt(name):
            step()
            with counting_waits(device) as found:
                step()
            total |= {f"{name}: {line}": count for line, count in found.items()}
    _claim_no_wait(report, "forward and backward pass of all mechanisms", total)


def determinism(report: Report) -> None:
    """The same bits twice under `trainer.deterministic=true`; a mechanism without such a kernel raises, and says so."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    refused, differ, done = {}, [], 0
    try:
        for name, step in _training_steps(report):
            with report.attempt(name):
                try:
                    first, second = step(), step()
                except RuntimeError as error:
                    if "deterministic" not in str(error):
                        raise
                    refused[name] = str(error).split(" does not")[0]
                    continue
                done += 1
                if not torch.equal(first, second):
                    differ.append(name)
    finally:
        torch.use_deterministic_algorithms(False)
    report.claim(f"{done} mechanisms: the same gradients twice", not differ, differ=differ)
    report.claim("every mechanism has deterministic kernels", not refused, refused=refused)


def _training_steps(report: Report) -> Iterator[tuple[str, Any]]:
    """For each mechanism, a step that returns the gradient of its input."""
    dim, side = (48, 4) if report.tiny else (384, 14)
    for name, (key, options) in cases().items():
        with report.attempt(name):
            mechanism = make(key, options, dim, 3, side).to(report.device).train()
            x = torch.randn(4, side * side + 1, dim, device=report.device, requires_grad=True)

            def step(mechanism: nn.Module = mechanism, x: Tensor = x) -> Tensor:
                with torch.autocast(x.device.type, torch.bfloat16):
                    y = mechanism(x)
                return torch.autograd.grad(y.float().square().sum(), x)[0]

            yield name, step


def _batch(transform: "BatchTransform", size: int, side: int, device: torch.device) -> "Batch":
    from fvit.data.dataset import Batch

    images = torch.randint(0, 256, (size, side, side, 3), dtype=torch.uint8)
    if transform.mixup is not None:
        transform.mixup.global_batch = size
    draws = transform.draw([(0, position) for position in range(size)], side, side)
    draws = type(draws)(*(kind and type(kind)(*(part.to(device) for part in kind)) for kind in draws))
    numbers = torch.arange(size)
    return Batch(images.to(device), numbers.to(device), torch.zeros_like(numbers), numbers, (), draws)


def _claim_no_wait(report: Report, what: str, found: dict[str, int], **times: Any) -> None:
    if report.on_gpu:
        report.claim(f"{what}: the host never waits", not found, **times, waits=dict(found))
    else:
        report.measured(what, **times)
        report.skipped(f"{what}: the host never waits", "only CUDA tells")


def _run(
    mechanism: nn.Module, x: Tensor, upstream: Tensor, autocast: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Output and input gradient."""
    x = x.clone().requires_grad_()
    with torch.autocast(x.device.type, autocast) if autocast else nullcontext():
        y = mechanism(x)
    wide = torch.promote_types(y.dtype, torch.float32)
    return y.detach(), torch.autograd.grad((y.to(wide) * upstream.to(y.device, wide)).sum(), x)[0]


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found.double().cpu() - expected).norm() / expected.norm())
