"""Probes of given features."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fvit.config.errors import ConfigError
from fvit.training.probe import Features, run_probe

KNN = {"name": "knn", "k": 7, "temperature": 0.07}
LINEAR = {"name": "linear", "C": [1e-3, 1.0], "max_iter": 1000}


def blobs(count, seed, classes=6, spread=1.0):
    """Features around the corners of a simplex."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    vectors = np.eye(8)[labels] * 2 + spread * rng.standard_normal((count, 8))
    return Features(vectors.astype(np.float32), labels)


def test_knn_is_the_vote_of_dino():
    """Written out as in DINO's eval_knn.py."""
    train, val = blobs(120, 0), blobs(60, 1)
    metrics, facts = run_probe(train, val, 6, KNN)
    near, far = (F.normalize(torch.from_numpy(part.vectors)) for part in (val, train))
    similarity, indices = (near @ far.T).topk(7)
    votes = torch.zeros(60, 6).scatter_add_(1, torch.from_numpy(train.labels)[indices], (similarity / 0.07).exp())
    labels = torch.from_numpy(val.labels)
    assert metrics == {
        "val/knn_acc1": pytest.approx((votes.argmax(1) == labels).float().mean().item()),
        "val/knn_acc5": pytest.approx((votes.topk(5).indices == labels[:, None]).any(1).float().mean().item()),
    }
    assert 0.5 < metrics["val/knn_acc1"] < metrics["val/knn_acc5"]
    assert facts == []


def test_linear_probe_separates_and_says_what_it_chose():
    train, val = blobs(300, 0, spread=0.5), blobs(60, 1, spread=0.5)
    scaled = Features(train.vectors * [1, 1, 1, 1, 1, 1, 1e4, 1e4], train.labels)  # noise, on a larger scale
    metrics, facts = run_probe(
        scaled, Features(val.vectors * scaled.vectors[0] / train.vectors[0], val.labels), 6, LINEAR
    )
    assert metrics["val/linear_acc1"] > 0.9
    assert facts == [("C", facts[0][1])]
    assert float(facts[0][1]) in LINEAR["C"]
    again, _ = run_probe(scaled, val, 6, {**LINEAR, "C": [1.0]})
    assert set(again) == {"val/linear_acc1", "val/linear_acc5"}


def test_fit_that_has_not_converged_says_so():
    _, facts = run_probe(blobs(100, 0), blobs(20, 1), 6, {**LINEAR, "C": [1.0], "max_iter": 1})
    assert facts == [("C", "1; not converged: probe.max_iter=1")]


def test_class_without_training_images_keeps_its_number():
    train, val = blobs(120, 0, spread=0.1), blobs(60, 1, spread=0.1)
    present = train.labels != 2
    for options in (KNN, LINEAR):
        some = Features(train.vectors[present], train.labels[present])
        metrics, _ = run_probe(some, val, 6, options)
        assert metrics[f"val/{options['name']}_acc1"] == pytest.approx(5 / 6)


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (6, KNN, "probe.k=7 is more than the 6 training images"),
        (50, LINEAR, r"50 training images of 6 classes are too few to choose probe.C .*: probe.C=\[0.1\]"),
    ],
)
def test_too_few_training_images(count, options, message):
    with pytest.raises(ConfigError, match=message):
        run_probe(blobs(count, 0), blobs(6, 1), 6, options)
