import math

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, classification_report, confusion_matrix, f1_score
from torchmetrics.classification import MulticlassCalibrationError

from fvit.training.scores import real_accuracy, score

CLASSES = 7


@pytest.fixture(scope="module")
def drawn():
    """Labels and probabilities [N, CLASSES]; class 5 has no images, and class 6 no predictions."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 6], size=400, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05])
    logits = rng.normal(size=(400, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    logits[:, 6] -= 10
    return torch.tensor(labels), torch.tensor(logits, dtype=torch.float32).softmax(dim=1)


@pytest.fixture(scope="module")
def scores(drawn):
    labels, probabilities = drawn
    confidence, predicted = probabilities.max(dim=1)
    return score(labels, predicted, confidence, CLASSES)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_metrics_equal_those_of_sklearn_and_torchmetrics(drawn, scores):
    labels, probabilities = drawn
    predicted = probabilities.argmax(dim=1)
    assert 5 in predicted, "a class that is predicted and has no images"
    assert scores.metrics["balanced_acc"] == pytest.approx(balanced_accuracy_score(labels, predicted))
    assert scores.metrics["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro"))
    ece = MulticlassCalibrationError(CLASSES, n_bins=15, norm="l1")(probabilities, labels)
    assert scores.metrics["ece"] == pytest.approx(ece.item(), abs=1e-6)


def test_classes_equal_those_of_sklearn(drawn, scores):
    labels, probabilities = drawn
    theirs = classification_report(labels, probabilities.argmax(dim=1), output_dict=True, zero_division=np.nan)
    for one in scores.classes:
        expected = theirs[str(one.label)]
        assert one.images == expected["support"]
        for ours, key in ((one.accuracy, "recall"), (one.precision, "precision"), (one.f1, "f1-score")):
            assert ours == pytest.approx(expected[key], nan_ok=True), (one.label, key)
    assert math.isnan(scores.classes[5].accuracy)
    assert math.isnan(scores.classes[6].precision)


def test_confusions_are_the_matrix_without_its_diagonal(drawn, scores):
    labels, probabilities = drawn
    matrix = confusion_matrix(labels, probabilities.argmax(dim=1), labels=np.arange(CLASSES))
    np.fill_diagonal(matrix, 0)
    assert {(one.label, one.predicted): one.images for one in scores.confusions} == {
        (int(i), int(j)): matrix[i, j] for i, j in np.argwhere(matrix)
    }
    assert [one.images for one in scores.confusions] == sorted(matrix[matrix > 0], reverse=True)
    first = scores.confusions[0]
    assert first.share == pytest.approx(first.images / (labels == first.label).sum().item())


def test_any_number_of_classes_and_outputs_beyond_them():
    labels, predicted = torch.tensor([0, 20_000, 19_999]), torch.tensor([0, 20_001, 19_999])
    found = score(labels, predicted, torch.tensor([1.0, 0.5, 1.0]), 20_001)
    assert found.metrics["balanced_acc"] == pytest.approx(2 / 3)
    assert found.metrics["macro_f1"] == pytest.approx(2 / 4)
    assert len(found.classes) == 20_001
    assert [one[:3] for one in found.confusions] == [(20_000, 20_001, 1)]


def test_without_a_mistake_there_is_no_confusion():
    found = score(torch.tensor([1, 0]), torch.tensor([1, 0]), torch.ones(2), 2)
    assert (found.metrics, found.confusions) == ({"balanced_acc": 1.0, "macro_f1": 1.0, "ece": 0.0}, [])


def test_real_accuracy_takes_any_label_and_leaves_out_images_without_one():
    labels = [[1, 2], [], [3], [0]]
    assert real_accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([2, 0, 3, 1]), labels) == pytest.approx(2 / 3)
    assert real_accuracy(torch.tensor([1, 2]), torch.tensor([0, 3]), labels) == 1
