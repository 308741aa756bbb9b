"""What accuracy alone does not say: classes, confusions and calibration, from the predictions for each image."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torchmetrics.functional.classification import binary_calibration_error

_BINS = 15  # of the confidence, as in Guo et al. (arXiv:1706.04599)


class ClassScore(NamedTuple):
    """How well one class is recognised; shares in [0, 1].

    Attributes:
        label: its index.
        images: of this class.
        accuracy: the share of these that are recognised (recall); NaN without images.
        precision: the share of the predictions of this class that are right; NaN without predictions.
        f1: the harmonic mean of both, 0 if nothing is right.
    """

    label: int
    images: int
    accuracy: float
    precision: float
    f1: float


class Confusion(NamedTuple):
    """Images of one class that were taken for another.

    Attributes:
        label, predicted: the indices of both classes.
        images: how many.
        share: of the images of the class `label`.
    """

    label: int
    predicted: int
    images: int
    share: float


class Scores(NamedTuple):
    """Of one evaluation.

    Attributes:
        metrics: ``balanced_acc`` (mean accuracy of the classes that have images), ``macro_f1`` (mean over the classes
            that have images or predictions) and ``ece`` (expected calibration error of the predicted class, l1 over 15
            equal bins), in [0, 1].
        classes: by label.
        confusions: the most frequent first; only pairs that occur, so that any number of classes will do.
    """

    metrics: dict[str, float]
    classes: Sequence[ClassScore]
    confusions: Sequence[Confusion]


def score(labels: Tensor, predicted: Tensor, confidence: Tensor, num_classes: int) -> Scores:
    """Score predictions.

    Args:
        labels: of the images: integers [N].
        predicted: their predicted classes [N], which may be outputs of the model beyond `num_classes`.
        confidence: the probabilities of these [N].
        num_classes: of the dataset.
    """
    truth, found = labels.numpy(), predicted.numpy()
    outputs = max(num_classes, int(found.max()) + 1)
    images, given, right = (
        np.bincount(part, minlength=outputs).astype(float) for part in (truth, found, truth[truth == found])
    )
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
        recall, precision, f1 = right / images, right / given, 2 * right / (images + given)
    metrics = {
        "balanced_acc": float(np.nanmean(recall)),
        "macro_f1": float(np.nanmean(f1)),
        "ece": float(binary_calibration_error(confidence, (labels == predicted).int(), _BINS, validate_args=False)),
    }
    columns = (part[:num_classes].tolist() for part in (images.astype(int), recall, precision, f1))
    classes = [ClassScore(label, *row) for label, row in enumerate(zip(*columns, strict=True))]
    return Scores(metrics, classes, _confusions(truth, found, images))


def real_accuracy(indices: Tensor, predicted: Tensor, labels: Sequence[Sequence[int]]) -> float:
    """The share of images whose predicted class is one of their labels; images without any do not count.

    Args:
        indices: of the images [N].
        predicted: their predicted classes [N].
        labels: of each image of the dataset, by index: any number.
    """
    pairs = zip(indices.tolist(), predicted.tolist(), strict=True)
    right = [found in labels[index] for index, found in pairs if labels[index]]
    return sum(right) / len(right) if right else float("nan")


def _confusions(truth: np.ndarray, found: np.ndarray, images: np.ndarray) -> list[Confusion]:
    wrong = truth != found
    pairs, counts = np.unique(np.stack([truth[wrong], found[wrong]], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [
        Confusion(label, other, count, count / int(images[label]))
        for (label, other), count in zip(pairs[order].tolist(), counts[order].tolist(), strict=True)
    ]
