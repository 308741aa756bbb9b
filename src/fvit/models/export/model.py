"""A trained model prepared for export, and the comparison of exported copies with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from timm.layers import to_2tuple
from torch import Tensor, nn

from fvit.attention.base import Size
from fvit.models.build import build
from fvit.models.spec import attention_spec

TOLERANCE = 1e-4
"""Of logits, relative to the largest where that exceeds 1."""
BATCHES = (1, 2, 5)
"""Batch sizes at which a copy must agree."""


@dataclass(frozen=True)
class ExportModel:
    """A trained model, rebuilt for inference.

    Attributes:
        original: the trained model, in evaluation mode.
        model: the same with additive attention in its cheapest form.
        arguments: of `fvit.models.build`, for `model`.
        classes: names of the outputs.
        preprocessing: ``mean``, ``std``, ``crop_pct`` and ``interpolation``.
    """

    original: nn.Module
    model: nn.Module
    arguments: dict[str, Any]
    classes: list[str]
    preprocessing: dict[str, Any]

    @classmethod
    def of(
        cls,
        original: nn.Module,
        trained: Mapping[str, Any],
        img_size: int | Size,
        classes: list[str],
        preprocessing: dict[str, Any],
    ) -> "ExportModel":
        """From a trained model and the `model` arguments of its `fvit.training.Classifier`."""
        # Without the options that say where the initial weights came from.
        options = {
            key: value for key, value in trained.items() if key not in ("pretrained", "init_from", "keep", "freeze")
        }
        attention = attention_spec(options.pop("attention", {"name": "native"}))
        options |= dict(img_size=img_size, num_classes=len(classes), attention=_cheapest(attention))
        model = build(**options)
        model.load_state_dict(original.state_dict())
        for copy in (original, model):
            copy.eval().requires_grad_(False)
        return cls(original, model, options, classes, preprocessing)

    def __str__(self) -> str:
        attention = self.arguments["attention"]
        if isinstance(attention, list):
            attention = "mixed"
        elif isinstance(attention, Mapping):
            attention = attention["name"]
        return f"{self.arguments['name']} with {attention or 'native'} attention"

    @property
    def img_size(self) -> Size:
        """Height and width of the images in pixels."""
        return to_2tuple(self.arguments["img_size"])

    def images(self, batch: int) -> Tensor:
        """Random normalised images [batch, 3, H, W], the same in every call."""
        generator = torch.Generator().manual_seed(batch)
        return torch.randn(batch, 3, *self.img_size, generator=generator)

    @torch.no_grad()
    def check(self, copy: Callable[[Tensor], Tensor]) -> float:
        """The largest relative difference between the logits of `copy` and of the original, on random images.

        Raises:
            ValueError: it exceeds `TOLERANCE`, or the copy does not run.
        """
        worst = 0.0
        for batch in BATCHES:
            expected = self.original(images := self.images(batch))
            try:
                logits = copy(images)
            except Exception as error:  # of any runtime
                raise self.export_error("a graph for any batch size", error) from error
            if logits.shape != expected.shape:
                raise ValueError(
                    f"the exported model gives logits {list(logits.shape)} for {batch} images, and the checkpoint "
                    f"{list(expected.shape)}; nothing was written"
                )
            difference = ((logits - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the exported model disagrees with the checkpoint on {batch} random images: its logits differ by "
                    f"{difference:.1e}, more than {TOLERANCE:g}; nothing was written"
                )
            worst = max(worst, difference)
        return worst

    def export_error(self, what: str, error: Exception) -> ValueError:
        """The error to raise if the model cannot be converted into `what`."""
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return ValueError(
            f"{self} cannot be exported as {what}: {first.strip()[:300]}. format=safetensors works for every model"
        )


def _cheapest(attention: Any) -> Any:
    """The attention with ``form=auto`` where another form is set."""
    if isinstance(attention, Mapping):
        return {**attention, "form": "auto"} if attention.get("form") else dict(attention)
    if isinstance(attention, list):
        return [_cheapest(item) for item in attention]
    return attention
