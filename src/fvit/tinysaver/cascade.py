"""Accuracy against compute of a cascade of two models.

TinySaver (Wang et al., "Tiny Models are the Computational Saver for Large Models", ECCV 2024, arXiv:2403.17726): both
models stay as they were trained, and the tiny one is the first and only early exit. Its confidence is its largest
softmax probability. Images whose confidence is below a threshold t are passed on to the large model, so the mean cost
per image is

    MACs(t) = tiny + share(t) · large,    share(t) = share of the images with confidence < t

which, in units of the large model, is one plus the paper's ΔC. The paper's exit sequence network, which is trained to
pass the tiny model's features on to the large one, is not implemented.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

ALL_IMAGES = 2.0
"""A threshold above every probability: all images are passed on."""


@dataclass(frozen=True)
class Point:
    """A cascade at one threshold.

    Attributes:
        threshold: images with a lower confidence are passed on; None if there is no single threshold.
        passed_on: number of images passed on to the large model.
        right: number of images classified correctly.
        images: number of all images.
        macs: mean MACs per image.
    """

    threshold: float | None
    passed_on: int
    right: int
    images: int
    macs: float

    @property
    def acc1(self) -> float:
        """Top-1 accuracy in [0, 1]."""
        return self.right / self.images

    @property
    def share(self) -> float:
        """Share of the images that are passed on."""
        return self.passed_on / self.images


@dataclass(frozen=True)
class Cascade:
    """The predictions of two models for the same N images, and their cost.

    Attributes:
        confidence: the largest softmax probability of the tiny model: float [N].
        tiny_right: whether the tiny model is correct: bool [N].
        large_right: whether the large model is correct: bool [N].
        tiny_macs: MACs per image of the tiny model.
        large_macs: MACs per image of the large model.

    Raises:
        ValueError: a confidence is NaN.
    """

    confidence: Tensor
    tiny_right: Tensor
    large_right: Tensor
    tiny_macs: int
    large_macs: int

    def __post_init__(self) -> None:
        assert len(self.confidence) == len(self.tiny_right) == len(self.large_right)
        if undefined := int(self.confidence.isnan().sum()):
            raise ValueError(f"the tiny model's confidence is NaN for {undefined} images")

    @property
    def images(self) -> int:
        """N."""
        return len(self.confidence)

    @property
    def tiny(self) -> Point:
        """The tiny model alone."""
        return self.curve[0]

    @property
    def large(self) -> Point:
        """The large model alone; no threshold gives this, because the tiny model always runs first."""
        return Point(None, self.images, int(self.large_right.sum()), self.images, float(self.large_macs))

    def at(self, threshold: float) -> Point:
        """The cascade at a threshold."""
        passed_on = self.confidence.double() < threshold
        right = torch.where(passed_on, self.large_right, self.tiny_right)
        return self._point(threshold, int(passed_on.sum()), int(right.sum()))

    @cached_property
    def curve(self) -> list[Point]:
        """All distinct points, from no image to all images passed on: one more than there are distinct confidences.

        Images with the same confidence are passed on together, because no threshold separates them.
        """
        confidence, order = self.confidence.double().sort()
        gains = (self.large_right.long() - self.tiny_right.long())[order]
        thresholds, counts = confidence.unique_consecutive(return_counts=True)
        # A threshold equal to a confidence passes on the images before it.
        passed_on = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        right = int(self.tiny_right.sum()) + torch.cat([gains.new_zeros(1), gains.cumsum(0)])[passed_on]
        rows = zip([0.0, *thresholds[1:].tolist(), ALL_IMAGES], passed_on.tolist(), right.tolist(), strict=True)
        return [self._point(*row) for row in rows]

    def as_accurate(self) -> Point:
        """The cheapest point that is at least as accurate as the large model alone."""
        return next(point for point in self.curve if point.right >= self.large.right)

    def best(self) -> Point:
        """The most accurate point; of several, the cheapest."""
        return max(self.curve, key=lambda point: point.right)

    def held_out(self) -> Point:
        """`as_accurate` with each half of the images measured at the threshold chosen on the other half.

        A threshold chosen and measured on the same images overfits to them, so that its savings are optimistic. The
        halves are every other image.

        Raises:
            ValueError: there is only one image.
        """
        if self.images < 2:
            raise ValueError("choosing a threshold on one half of the images needs at least 2 images, not 1")
        halves = [self._every_other(start) for start in (0, 1)]
        points = [one.at(other.as_accurate().threshold) for one, other in (halves, halves[::-1])]
        return self._point(None, sum(point.passed_on for point in points), sum(point.right for point in points))

    def saved(self, point: Point) -> float:
        """Share of the large model's MACs that a point saves; negative if it costs more."""
        return 1 - point.macs / self.large_macs

    def _point(self, threshold: float | None, passed_on: int, right: int) -> Point:
        macs = (self.tiny_macs * self.images + self.large_macs * passed_on) / self.images
        return Point(threshold, passed_on, right, self.images, macs)

    def _every_other(self, start: int) -> "Cascade":
        parts = (values[start::2] for values in (self.confidence, self.tiny_right, self.large_right))
        return Cascade(*parts, self.tiny_macs, self.large_macs)
