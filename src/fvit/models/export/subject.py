"""What is exported, and how it is held against the original."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fvit.models.build import attention_spec, build

TOLERANCE = 1e-4
"""Of logits, as a share of the largest where that is more than 1."""
BATCHES = (1, 2, 5)
"""Images at once on which a copy must agree."""


@dataclass(frozen=True)
class Subject:
    """A trained model, made again for inference.

    Attributes:
        original: the model as it was trained, in evaluation.
        model: the same, with additive attention in the form that takes the fewest products.
        arguments: those of `fvit.models.build` for `model`.
        classes: names of its outputs.
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
        img_size: int,
        classes: list[str],
        preprocessing: dict[str, Any],
    ) -> "Subject":
        """Make it from a model and from the arguments of `fvit.training.Classifier` that describe it."""
        # What says how weights come in is behind us.
        options = {key: value for key, value in trained.items() if key not in ("pretrained", "init_from", "keep")}
        attention = attention_spec(options.pop("attention", {"name": "native"}))
        options |= dict(img_size=img_size, num_classes=len(classes), attention=_cheapest(attention))
        model = build(**options)
        model.load_state_dict(original.state_dict())
        for copy in (original, model):
            copy.eval().requires_grad_(False)
        return cls(original, model, options, classes, preprocessing)

    def __str__(self) -> str:
        return f"{self.arguments['name']} with {named(self.arguments['attention'])} attention"

    @property
    def img_size(self) -> int:
        """Side of the images in pixels."""
        return self.arguments["img_size"]

    def images(self, batch: int) -> Tensor:
        """Random images [batch, 3, H, W], normalised, the same in every call."""
        generator = torch.Generator().manual_seed(batch)
        return torch.randn(batch, 3, self.img_size, self.img_size, generator=generator)

    @torch.no_grad()
    def check(self, answer: Callable[[Tensor], Tensor]) -> float:
        """The largest difference of a copy's logits to the original's, on random images.

        Args:
            answer: maps images to the logits of the copy.

        Raises:
            ValueError: it is more than `TOLERANCE`, or the copy does not run.
        """
        worst = 0.0
        for batch in BATCHES:
            expected = self.original(images := self.images(batch))
            try:
                found = answer(images)
            except Exception as error:  # of whatever runs the copy
                raise self.refuse("a graph for any number of images", error) from error
            if found.shape != expected.shape:
                raise ValueError(
                    f"the exported model gives logits {list(found.shape)} for {batch} images, and the checkpoint "
                    f"{list(expected.shape)}; nothing was written"
                )
            difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
            if not difference <= TOLERANCE:
                raise ValueError(
                    f"the exported model disagrees with the checkpoint on {batch} random images: its logits differ by "
                    f"{difference:.1e}, more than {TOLERANCE:g}; nothing was written"
                )
            worst = max(worst, difference)
        return worst

    def refuse(self, what: str, error: Exception) -> ValueError:
        """The error for people where the model cannot be turned into `what`."""
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return ValueError(
            f"{self} cannot be exported as {what}: {first.strip()[:300]}. format=safetensors takes every model"
        )


def named(attention: Any) -> str:
    """What an attention, as `build` takes it, is called."""
    if isinstance(attention, list | tuple):
        return "mixed"
    return attention["name"] if isinstance(attention, Mapping) else str(attention or "native")


def _cheapest(attention: Any) -> Any:
    """The attention with additive attention evaluated as is cheapest for the size, whatever was trained with."""
    if isinstance(attention, Mapping):
        return {**attention, "form": "auto"} if attention.get("form") else dict(attention)
    if isinstance(attention, list | tuple):
        return [_cheapest(item) for item in attention]
    return attention
