"""A tiny model answers first, and a large one where the tiny one is unsure: accuracy against compute.

TinySaver (Wang et al., "Tiny Models are the Computational Saver for Large Models", ECCV 2024, arXiv:2403.17726): both
models stay as they were trained, the tiny one being the first and only early exit. Its confidence is its largest
softmax probability. An image goes on to the large model where the confidence is below a threshold t, so that on average
it costs

    MACs(t) = tiny + share(t) · large,    share(t) = share of the images with confidence < t

which, in units of the large model, is one plus the paper's ΔC. Its exit sequence network, which is trained to pass the
tiny model's features on to the large one, is not part of this.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

EVERY_IMAGE = 2.0
"""The threshold that no probability reaches: every image goes on."""


@dataclass(frozen=True)
class Point:
    """What a cascade gets right, and what that costs.

    Attributes:
        threshold: images whose confidence is below it go on; None where there is no single one.
        passed_on: how many go on to the large model.
        right: how many are answered rightly.
        images: how many there are.
        macs: multiply-accumulates an image, the mean over the images.
    """

    threshold: float | None
    passed_on: int
    right: int
    images: int
    macs: float

    @property
    def acc1(self) -> float:
        """Share of the images that are answered rightly."""
        return self.right / self.images

    @property
    def share(self) -> float:
        """Share of the images that go on."""
        return self.passed_on / self.images


@dataclass(frozen=True)
class Cascade:
    """The answers of two models to the same N images, and what an answer of each costs.

    Attributes:
        confidence: of the tiny model, its largest softmax probability: float [N].
        tiny_right: whether the tiny model's answer is the label: bool [N].
        large_right: whether the large model's is.
        tiny_macs: multiply-accumulates of an image in the tiny model.
        large_macs: in the large one.

    Raises:
        ValueError: a confidence is not a number.
    """

    confidence: Tensor
    tiny_right: Tensor
    large_right: Tensor
    tiny_macs: int
    large_macs: int

    def __post_init__(self) -> None:
        assert len(self.confidence) == len(self.tiny_right) == len(self.large_right)
        if unknown := int(self.confidence.isnan().sum()):
            raise ValueError(f"the tiny model's confidence is not a number for {unknown} images: it computes NaN")

    @property
    def images(self) -> int:
        """How many there are."""
        return len(self.confidence)

    @property
    def tiny(self) -> Point:
        """The tiny model alone."""
        return self.curve[0]

    @property
    def large(self) -> Point:
        """The large model alone, which no cascade is: there every image costs what the tiny one takes as well."""
        return Point(None, self.images, int(self.large_right.sum()), self.images, float(self.large_macs))

    def at(self, threshold: float) -> Point:
        """What the cascade does at a threshold."""
        goes_on = self.confidence.double() < threshold
        right = torch.where(goes_on, self.large_right, self.tiny_right)
        return self._point(threshold, int(goes_on.sum()), int(right.sum()))

    @cached_property
    def curve(self) -> list[Point]:
        """Every point there is, from none to all images going on: one more than there are distinct confidences.

        Images of the same confidence go on together, because no threshold parts them.
        """
        confidence, order = self.confidence.double().sort()
        gains = (self.large_right.long() - self.tiny_right.long())[order]
        thresholds, alike = confidence.unique_consecutive(return_counts=True)
        # At a threshold that equals a confidence, the groups of images before that one go on.
        passed_on = torch.cat([alike.new_zeros(1), alike.cumsum(0)])
        right = int(self.tiny_right.sum()) + torch.cat([gains.new_zeros(1), gains.cumsum(0)])[passed_on]
        rows = zip([0.0, *thresholds[1:].tolist(), EVERY_IMAGE], passed_on.tolist(), right.tolist(), strict=True)
        return [self._point(*row) for row in rows]

    def as_accurate(self) -> Point:
        """The cheapest point that gets at least as many images right as the large model does alone."""
        enough = self.large.right
        return next(point for point in self.curve if point.right >= enough)

    def best(self) -> Point:
        """The most accurate point; the cheapest of those that are."""
        return max(self.curve, key=lambda point: point.right)

    def held_out(self) -> Point:
        """`as_accurate` on images that its threshold was not chosen on.

        A threshold that is chosen and measured on the same images fits their accidents, and what it saves is
        optimistic. Here it is chosen on every other image and measured on those between, and the other way round.

        Raises:
            ValueError: there is one image alone.
        """
        if self.images < 2:
            raise ValueError("a threshold is chosen on some images and measured on others, and there is 1 in all")
        halves = [self._part(start) for start in (0, 1)]
        points = [here.at(there.as_accurate().threshold) for here, there in (halves, halves[::-1])]
        return self._point(None, sum(point.passed_on for point in points), sum(point.right for point in points))

    def saved(self, point: Point) -> float:
        """Share of the large model's MACs that a point saves; negative where it costs more."""
        return 1 - point.macs / self.large_macs

    def _point(self, threshold: float | None, passed_on: int, right: int) -> Point:
        macs = (self.tiny_macs * self.images + self.large_macs * passed_on) / self.images
        return Point(threshold, passed_on, right, self.images, macs)

    def _part(self, start: int) -> "Cascade":
        parts = (values[start::2] for values in (self.confidence, self.tiny_right, self.large_right))
        return Cascade(*parts, self.tiny_macs, self.large_macs)
