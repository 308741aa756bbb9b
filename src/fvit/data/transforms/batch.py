"""What runs on the device, batch by batch: normalisation and, in training, mixup, cutmix and random erasing.

timm's Mixup and RandomErasing draw from generators that a process shares, one batch after the other. Here each draw is
a function of the seed and of the image's place in the epoch, so that a run that goes on, even on another number of
ranks, sees the same pixels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fvit.data.dataset import Batch
from fvit.data.seeding import generator


class BatchTransform:
    """From a batch of uint8 to what a model takes.

    Args:
        num_classes: number of labels.
        mean, std: of the channels, for pixels in [0, 1].
        mixup: arguments of `Mixup`.
        erasing: arguments of `RandomErasing`.
        seed: of the run.

    Attributes:
        memory_format: how the images lie, for models whose convolutions want channels last.
    """

    def __init__(
        self,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        mixup: Mapping[str, Any],
        erasing: Mapping[str, Any],
        seed: int,
    ) -> None:
        self.memory_format = torch.contiguous_format
        # On the scale of uint8.
        self.mean = 255 * torch.tensor(mean).view(-1, 1, 1)
        self.std = 255 * torch.tensor(std).view(-1, 1, 1)
        mixes = mixup.get("mixup_alpha", 0) > 0 or mixup.get("cutmix_alpha", 0) > 0
        self.mix = Mixup(num_classes, **mixup, seed=seed) if mixes else None
        self.erase = RandomErasing(**erasing, seed=seed) if erasing.get("probability", 0) > 0 else None

    def __call__(self, batch: Batch, train: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Images [B, 3, H, W] in `dtype`, and labels [B] or, where mixed, probabilities [B, classes]."""
        device = batch.images.device
        images, labels = batch.images.permute(0, 3, 1, 2).to(torch.float32), batch.labels
        images = images.sub_(self.mean.to(device)).div_(self.std.to(device))
        if train:
            places = list(zip(batch.epochs.tolist(), batch.positions.tolist(), strict=True))
            if self.mix is not None:
                images, labels = self.mix(images, labels, places)
            if self.erase is not None:  # last, as in timm
                images = self.erase(images, places)
        return images.to(dtype, memory_format=self.memory_format), labels


class Blend(NamedTuple):
    """How an image is mixed: its own share, and the box (top, left, bottom, right) that its partner fills, if any."""

    share: float
    box: tuple[int, int, int, int] | None = None


class Mixup:
    """Mixup (Zhang et al., arXiv:1710.09412) and CutMix (Yun et al., arXiv:1905.04899), drawn as timm's Mixup does.

    An image's partner lies half an optimizer step away, which is half a batch away wherever the batch is cut.

    Args:
        num_classes: number of labels.
        mixup_alpha, cutmix_alpha: of the Beta distributions; 0 switches one off.
        prob: of mixing at all.
        switch_prob: of cutmix where both are on.
        mode: what shares one draw: a ``batch`` of `per_draw` images, or a few more where they do not divide a step;
            a ``pair``; ``elem``: nothing.
        seed: of the run.
        per_draw: as many images as DeiT's devices take at once. Not as many as ours do: a step is mixed alike on any
            number of devices.

    Attributes:
        global_batch: images an optimizer step.
    """

    def __init__(
        self,
        num_classes: int,
        mixup_alpha: float,
        cutmix_alpha: float,
        prob: float,
        switch_prob: float,
        mode: str,
        seed: int,
        per_draw: int = 64,
    ) -> None:
        self.num_classes, self.mode, self.seed, self.per_draw = num_classes, mode, seed, per_draw
        self.mixup_alpha, self.cutmix_alpha = mixup_alpha, cutmix_alpha
        self.prob, self.switch_prob = prob, switch_prob
        self.global_batch = 2

    def __call__(self, images: Tensor, labels: Tensor, places: Sequence[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Map images [B, 3, H, W] and labels [B] to mixed ones and probabilities [B, classes]; B is even."""
        height, width = images.shape[-2:]
        drawn = {key: self._draw(key, height, width) for key in {self._key(*place) for place in places}}
        blends = [drawn[self._key(*place)] for place in places]
        shares = torch.tensor([blend.share for blend in blends], device=images.device)
        # Each pixel's own share: 0 or 1 under cutmix, the same all over under mixup.
        weights = shares.view(-1, 1, 1, 1).expand(-1, 1, height, width).clone()
        for weight, blend in zip(weights, blends, strict=True):
            if blend.box is not None:
                top, left, bottom, right = blend.box
                weight.fill_(1.0)
                weight[:, top:bottom, left:right] = 0.0
        partners = images.roll(len(images) // 2, dims=0)
        targets = F.one_hot(labels, self.num_classes).to(images.dtype)
        shares = shares.unsqueeze(1)
        targets = targets * shares + targets.roll(len(images) // 2, dims=0) * (1 - shares)
        return images * weights + partners * (1 - weights), targets

    def _key(self, epoch: int, position: int) -> tuple[int, int]:
        """What two images have in common that are mixed alike."""
        step, place = divmod(position, self.global_batch)
        start = step * self.global_batch
        if self.mode == "batch":
            return epoch, start + place % self._draws_per_step()
        if self.mode == "pair":
            return epoch, start + place % (self.global_batch // 2)
        return epoch, position

    def _draws_per_step(self) -> int:
        most = max(1, self.global_batch // self.per_draw)
        # Partners, half a step apart, share theirs.
        return next(count for count in range(most, 0, -1) if self.global_batch // 2 % count == 0)

    def _draw(self, key: tuple[int, int], height: int, width: int) -> Blend:
        rng = generator(self.seed, "mix", *key)
        if rng.random() >= self.prob:
            return Blend(1.0)
        if not self.mixup_alpha or (self.cutmix_alpha and rng.random() < self.switch_prob):
            share = rng.betavariate(self.cutmix_alpha, self.cutmix_alpha)
            box_height, box_width = (int(side * math.sqrt(1 - share)) for side in (height, width))
            y, x = rng.randrange(height), rng.randrange(width)
            top, bottom = (min(max(edge, 0), height) for edge in (y - box_height // 2, y + box_height // 2))
            left, right = (min(max(edge, 0), width) for edge in (x - box_width // 2, x + box_width // 2))
            # The share that is left after the image's edges have cut the box.
            return Blend(1 - (bottom - top) * (right - left) / (height * width), (top, left, bottom, right))
        return Blend(rng.betavariate(self.mixup_alpha, self.mixup_alpha))


class RandomErasing:
    """Random erasing (Zhong et al., arXiv:1708.04896), drawn as timm's RandomErasing does.

    Args:
        probability: that an image loses a rectangle.
        mode: fills it with zeros (``const``), a normal colour (``rand``) or normal pixels (``pixel``).
        seed: of the run.
        area: of the rectangle, as a share of the image's, least and most.
        aspect: width to height, least; the most is its inverse.
    """

    def __init__(
        self, probability: float, mode: str, seed: int, area: tuple[float, float] = (0.02, 1 / 3), aspect: float = 0.3
    ) -> None:
        self.probability, self.mode, self.seed, self.area, self.aspect = probability, mode, seed, area, aspect

    def __call__(self, images: Tensor, places: Sequence[tuple[int, int]]) -> Tensor:
        """RandomErasing in place in images [B, 3, H, W]."""
        channels, height, width = images.shape[1:]
        noise = torch.Generator(images.device)
        for image, place in zip(images, places, strict=True):
            rng = generator(self.seed, "erase", *place)
            if rng.random() >= self.probability:
                continue
            for _ in range(10):
                area = rng.uniform(*self.area) * height * width
                aspect = math.exp(rng.uniform(math.log(self.aspect), -math.log(self.aspect)))
                box_height, box_width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
                if box_height < height and box_width < width:
                    top, left = rng.randint(0, height - box_height), rng.randint(0, width - box_width)
                    box = image[:, top : top + box_height, left : left + box_width]
                    box.copy_(self._fill(box, channels, noise.manual_seed(rng.getrandbits(63))))
                    break
        return images

    def _fill(self, box: Tensor, channels: int, noise: torch.Generator) -> Tensor:
        if self.mode == "const":
            return torch.zeros_like(box)
        shape = box.shape if self.mode == "pixel" else (channels, 1, 1)
        return torch.randn(shape, generator=noise, device=box.device, dtype=box.dtype).expand_as(box)
