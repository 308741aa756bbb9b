"""Losses of labels against torch's and timm's, losses against a teacher against plain loops."""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy

from fvit.training.losses import build_loss, hard_loss, soft_loss, token_loss

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
MIXED = torch.stack([torch.tensor(row) for row in ([0.7, 0.3, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 1.0, 0])]).repeat(2, 1)
TARGETS = {"labels": LABELS, "probabilities": MIXED}


def one_hot(targets):
    return targets if targets.ndim == 2 else F.one_hot(targets, 4).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", TARGETS)
def test_cross_entropy_smooths_labels_and_probabilities_alike(kind, smoothing):
    smoothed = one_hot(TARGETS[kind]) * (1 - smoothing) + smoothing / 4
    expected = -(smoothed * LOGITS.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(build_loss("cross_entropy", label_smoothing=smoothing)(LOGITS, TARGETS[kind]), expected)


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.0}, {"smoothing": 0.1, "target_threshold": 0.25}], ids=str)
@pytest.mark.parametrize("kind", TARGETS)
def test_bce_is_timms(kind, options):
    torch.testing.assert_close(
        build_loss("bce", **options)(LOGITS, TARGETS[kind]), BinaryCrossEntropy(**options)(LOGITS, TARGETS[kind])
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_default_bce_sets_every_class_with_a_probability_to_one(compose_config, kind):
    options = compose_config("loss=bce")["loss"]
    present = (one_hot(TARGETS[kind]) > 0).float()
    expected = -(present * F.logsigmoid(LOGITS) + (1 - present) * F.logsigmoid(-LOGITS)).mean()
    torch.testing.assert_close(build_loss(**options)(LOGITS, TARGETS[kind]), expected)


def test_default_cross_entropy_smooths_by_a_tenth(compose_config):
    options = compose_config("loss=cross_entropy")["loss"]
    torch.testing.assert_close(
        build_loss(**options)(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    )


def test_unknown_loss_is_rejected_with_the_known_ones():
    with pytest.raises(ValueError, match="unknown loss 'hinge'; known: cross_entropy, bce"):
        build_loss("hinge")


# Losses against a teacher, in plain loops.

GENERATOR = torch.Generator().manual_seed(0)
STUDENT = 3 * torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64)
TEACHER = 3 * torch.randn(5, 4, generator=GENERATOR, dtype=torch.float64)
TOKENS = torch.randn(2, 2, 3, 6, generator=GENERATOR, dtype=torch.float64)


def softmax(logits, temperature):
    exponentials = [math.exp(value / temperature) for value in logits]
    return [value / sum(exponentials) for value in exponentials]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_soft_loss_is_the_divergence_times_the_square_of_the_temperature(temperature):
    expected = 0.0
    for mine, theirs in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        p, q = softmax(theirs, temperature), softmax(mine, temperature)
        expected += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 5
    assert soft_loss(STUDENT, TEACHER, temperature).item() == pytest.approx(expected, rel=1e-12)
    assert soft_loss(TEACHER, TEACHER, temperature).item() == pytest.approx(0, abs=1e-12)


def test_hard_loss_is_cross_entropy_with_the_teachers_argmax():
    expected = 0.0
    for mine, theirs in zip(STUDENT.tolist(), TEACHER.tolist(), strict=True):
        expected -= math.log(softmax(mine, 1.0)[theirs.index(max(theirs))]) / 5
    assert hard_loss(STUDENT, TEACHER).item() == pytest.approx(expected, rel=1e-12)


def test_token_loss_is_squared_error_or_cosine_distance():
    one, other = TOKENS
    squares, angles = [], []
    for mine, theirs in zip(one.flatten(0, 1).tolist(), other.flatten(0, 1).tolist(), strict=True):
        squares += [(a - b) ** 2 for a, b in zip(mine, theirs, strict=True)]
        product = sum(a * b for a, b in zip(mine, theirs, strict=True))
        angles.append(1 - product / math.dist(mine, [0] * 6) / math.dist(theirs, [0] * 6))
    assert token_loss(one, other, "mse").item() == pytest.approx(sum(squares) / len(squares), rel=1e-12)
    assert token_loss(one, other, "cosine").item() == pytest.approx(sum(angles) / len(angles), rel=1e-12)


@pytest.mark.parametrize("loss", [lambda s, t: soft_loss(s, t, 3.0), hard_loss, lambda s, t: token_loss(s, t, "mse")])
def test_low_precision_is_computed_in_float32(loss):
    half = loss(STUDENT.bfloat16(), TEACHER.bfloat16())
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(loss(STUDENT, TEACHER).item(), rel=0.02)
