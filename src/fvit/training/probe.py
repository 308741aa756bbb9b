"""Probes: how well simple classifiers do on features of a frozen model."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torchmetrics.functional.classification import multiclass_accuracy

from fvit.config.errors import ConfigError

_HELD_OUT = 0.1  # of the training images, to choose the regularisation


@dataclass(frozen=True)
class Features:
    """Features float32 [N, C] of N images, and their labels int64 [N]."""

    vectors: np.ndarray
    labels: np.ndarray


def run_probe(
    train: Features, val: Features, num_classes: int, options: Mapping[str, Any]
) -> tuple[dict[str, float], list[tuple[str, str]]]:
    """Fit a probe to the training images, and classify those for validation.

    Args:
        train, val: of the two splits.
        num_classes: of the dataset.
        options: ``name`` (``knn`` or ``linear``) and the arguments of `knn` or `linear`.

    Returns:
        ``val/NAME_acc1`` and ``val/NAME_acc5``, and what the probe chose.

    Raises:
        ConfigError: there are too few training images.
    """
    options = dict(options)
    name = options.pop("name")
    classifier, facts = {"knn": knn, "linear": linear}[name](train, **options)
    scores = np.zeros((len(val.labels), num_classes))
    # A class may be without training images that can be read.
    scores[:, classifier.classes_] = classifier.predict_proba(val.vectors)
    probabilities, labels = torch.from_numpy(scores), torch.from_numpy(val.labels)
    metrics = {
        f"val/{name}_acc{top}": multiclass_accuracy(
            probabilities, labels, num_classes, average="micro", top_k=min(top, num_classes)
        ).item()
        for top in (1, 5)
    }
    return metrics, facts


def knn(train: Features, k: int, temperature: float) -> tuple[Pipeline, list[tuple[str, str]]]:
    """Votes of the nearest training images, weighted with exp(cosine similarity / temperature), as in arXiv:1805.01978.

    Args:
        train: the training images.
        k: number of neighbours.
        temperature: of the weights.
    """
    if k > len(train.labels):
        raise ConfigError(f"probe.k={k} is more than the {len(train.labels)} training images")

    def weigh(distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances**2 / 2) / temperature)  # of unit vectors

    classifier = make_pipeline(Normalizer(), KNeighborsClassifier(k, weights=weigh))
    return classifier.fit(train.vectors, train.labels), []


def linear(train: Features, C: list[float], max_iter: int) -> tuple[Pipeline, list[tuple[str, str]]]:  # noqa: N803
    """Multinomial logistic regression on standardised features.

    Args:
        train: the training images.
        C: inverse strengths of the L2 penalty; the best on a tenth of the training images, which are then all used.
        max_iter: iterations of L-BFGS.
    """
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=C[0], max_iter=max_iter))
    classes, counts = np.unique(train.labels, return_counts=True)
    if len(C) > 1 and (counts.min() < 2 or _HELD_OUT * len(train.labels) < len(classes)):
        raise ConfigError(
            f"{len(train.labels)} training images of {len(classes)} classes are too few to choose probe.C by a tenth "
            "of them; give one value: probe.C=[0.1]"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told below, of the final fit
        if len(C) > 1:
            tenth = StratifiedShuffleSplit(1, test_size=_HELD_OUT, random_state=0)
            search = GridSearchCV(classifier, {"logisticregression__C": C}, cv=tenth)
            classifier = search.fit(train.vectors, train.labels).best_estimator_
        else:
            classifier.fit(train.vectors, train.labels)
    chosen = f"{classifier[-1].C:g}"
    if classifier[-1].n_iter_.max() >= max_iter:
        chosen += f"; not converged: probe.max_iter={max_iter}"
    return classifier, [("C", chosen)]
