"""How fast the device, the forms of additive attention and whole models are."""

from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import nn

from fvit.attention import get
from fvit.cost import count
from fvit.cost.utilisation import matmul_rate, mfu
from fvit.models import build
from gpu_check.measure import host_milliseconds, kernels, milliseconds, peak_gib
from gpu_check.report import Report

FORMS = ("textbook", "factored", "folded")
# Images, tokens, channels, heads: DeiT-S and ViT-Ti at 224 px, ViT-B and DeiT-S at 384 px, and many tokens.
SHAPES = [(256, 197, 384, 6), (64, 577, 768, 12), (8, 4097, 384, 6), (256, 197, 192, 3), (64, 577, 384, 6)]
COMPILED_SHAPES = SHAPES[:2] + SHAPES[3:4]
# "timm" is its own ViT, with torch's scaled_dot_product_attention. Compiled in this order while there is time.
MODELS = ("timm", "softmax", "additive", "linear", "hydra", "xca", "agent", "mlla", "performer")
_COMPILED_AT_LEAST = 4


def rates(report: Report) -> None:
    """The ceilings: what copies and matrix products reach on this device."""
    device = report.device
    size, side, images = (2**20, 256, 4) if report.tiny else (2**31, 8192, 256)
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    report.measured("copy", tb_per_s=2 * size / milliseconds(lambda: target.copy_(source), device) / 1e9)
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        report.measured(f"matrix product, {name}", tflops=matmul_rate(device, dtype, side) / 1e12)
    pageable = torch.empty(images * 224 * 224 * 3, dtype=torch.uint8)
    report.measured(f"{images} images to the device, pageable", ms=milliseconds(lambda: pageable.to(device), device))
    if report.on_gpu:
        pinned = pageable.pin_memory()
        copy = milliseconds(lambda: pinned.to(device, non_blocking=True), device)
        report.measured(f"{images} images to the device, pinned", ms=copy)


def forms(report: Report) -> None:
    """The forms of additive attention, what `form: auto` chooses, softmax and linear attention; the forms of fnet."""
    shapes = [(4, 17, 96, 3)] if report.tiny else SHAPES
    for compiled in (False,) if report.tiny else (False, True):
        for shape in COMPILED_SHAPES if compiled else shapes:
            times: dict[str, float] = {}
            name = f"{'×'.join(map(str, shape[:3]))} {'compiled' if compiled else 'eager'}"
            for form in FORMS:
                with report.attempt(f"{name}: additive, {form}"):
                    times[form] = _time_mechanism(report, name, shape, compiled, "additive", form)
            for key in ("softmax", "linear") if not compiled else ("softmax",):
                with report.attempt(f"{name}: {key}"):
                    _time_mechanism(report, name, shape, compiled, key)
            with report.attempt(f"{name}: the form that auto takes"):
                additive = get("additive")(shape[2], num_heads=shape[3])
                chosen = additive.fastest_form(shape[1], report.device.type, compiled)
                if report.tiny:
                    report.measured(f"{name}: auto takes {chosen}")
                else:
                    best = min(times.values())
                    what = f"{name}: auto ({chosen}) is within 5 % of the fastest form"
                    report.claim(what, times[chosen] <= 1.05 * best, ratio=times[chosen] / best)
    for shape in shapes[:2]:
        name = f"{'×'.join(map(str, shape[:3]))} eager"
        with report.attempt(f"{name}: fnet"):
            products, transform = (
                _time_mechanism(report, name, shape, False, "fnet", form) for form in ("auto", "textbook")
            )
            if not report.tiny:
                what = f"{name}: fnet's products take at most 1.05 of its Fourier transform"
                report.claim(what, products <= 1.05 * transform, ratio=products / transform)


def models(report: Report) -> None:
    """Training steps of whole models on images that are on the device: no loader, no framework."""
    device, (size, side, images) = report.device, ("tiny", 32, 4) if report.tiny else ("small", 224, 256)
    rate = matmul_rate(device, side=256 if report.tiny else 8192)
    for compiled in (False,) if report.tiny else (False, True):
        for number, attention in enumerate(MODELS[:2] if report.tiny else MODELS):
            what = f"vit_{size} {attention}, {images} images, {'compiled' if compiled else 'eager'}"
            if compiled and number >= _COMPILED_AT_LEAST and report.late(0.6):
                report.skipped(what, "no time left")
                continue
            with report.attempt(what):
                report.measured(what, **_time_model(attention, size, side, images, compiled, device, rate))


def _time_model(
    attention: str, size: str, side: int, images: int, compiled: bool, device: torch.device, rate: float
) -> dict[str, float | None]:
    """A function of its own, so that its model is freed before the next is built."""
    torch.compiler.reset()
    model = make_model(f"vit_{size}_patch16_224", attention, side)
    macs = count(model, side).macs
    model = model.to(device).train()
    if compiled:
        model.compile(dynamic=False)
    step = bare_step(model, images, side, device)
    peak_gib(device)
    time = milliseconds(step, device, runs=10)
    per_second = 1e3 * images / time
    host = host_milliseconds(step, device, runs=3)
    return dict(images_per_s=per_second, ms=time, host_ms=host, mfu=mfu(macs, per_second, rate), gib=peak_gib(device))


def make_model(name: str, attention: str, side: int) -> nn.Module:
    """A ViT with 1,000 classes; attention "timm" is timm's own."""
    if attention == "timm":
        return timm.create_model(name, img_size=side)
    return build(name, side, 1000, attention={"name": attention})


def bare_step(model: nn.Module, images: int, side: int, device: torch.device) -> Callable[[], None]:
    """A step in bf16 autocast with clipping and AdamW, on random images."""
    x = torch.randn(images, 3, side, side, device=device)
    labels = torch.randint(0, 1000, (images,), device=device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, fused=device.type == "cuda")

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(model(x).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def _time_mechanism(
    report: Report, name: str, shape: tuple[int, int, int, int], compiled: bool, key: str, form: str = "auto"
) -> float:
    """Milliseconds of a forward and backward pass behind a LayerNorm, as in a block."""
    device, (images, tokens, dim, heads) = report.device, shape
    torch.compiler.reset()
    mechanism = get(key)(dim, num_heads=heads)
    mechanism.form = form
    mechanism.set_layout((1, tokens - 1), 1)
    block = nn.Sequential(nn.LayerNorm(dim), mechanism).to(device)
    if compiled:
        block.compile(dynamic=False)
    x = torch.randn(images, tokens, dim, device=device, requires_grad=True)
    upstream = torch.randn_like(x)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            y = block(x)
        y.float().backward(upstream)
        block.zero_grad()
        x.grad = None

    peak_gib(device)
    time = milliseconds(step, device)
    report.measured(f"{name}: {key}, {form}", ms=time, kernels=kernels(step, device), gib=peak_gib(device))
    return time
