import pytest
import torch
import torch.nn.functional as F
from timm.loss import BinaryCrossEntropy

from fvit.training import build_loss

LOGITS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3, 0, 1])
MIXED = torch.stack([torch.tensor(row) for row in ([0.7, 0.3, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 1.0, 0])]).repeat(2, 1)
TARGETS = {"labels": LABELS, "probabilities": MIXED}


def one_hot(targets):
    return targets if targets.ndim == 2 else F.one_hot(targets, 4).float()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", TARGETS)
def test_cross_entropy_is_torch_s(kind, smoothing):
    loss = build_loss("cross_entropy", label_smoothing=smoothing)(LOGITS, TARGETS[kind])
    torch.testing.assert_close(loss, F.cross_entropy(LOGITS, TARGETS[kind], label_smoothing=smoothing))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", TARGETS)
def test_cross_entropy_smooths_labels_and_probabilities_alike_and_once(kind, smoothing):
    smoothed = one_hot(TARGETS[kind]) * (1 - smoothing) + smoothing / 4
    expected = -(smoothed * LOGITS.log_softmax(dim=1)).sum(dim=1).mean()
    torch.testing.assert_close(build_loss("cross_entropy", label_smoothing=smoothing)(LOGITS, TARGETS[kind]), expected)


@pytest.mark.parametrize("options", [{}, {"smoothing": 0.0}, {"smoothing": 0.1, "target_threshold": 0.25}], ids=str)
@pytest.mark.parametrize("kind", TARGETS)
def test_bce_is_timm_s(kind, options):
    torch.testing.assert_close(
        build_loss("bce", **options)(LOGITS, TARGETS[kind]), BinaryCrossEntropy(**options)(LOGITS, TARGETS[kind])
    )


@pytest.mark.parametrize("kind", TARGETS)
def test_bce_of_the_config_takes_each_class_that_takes_part_as_one(compose_config, kind):
    options = compose_config("loss=bce")["loss"]
    present = (one_hot(TARGETS[kind]) > 0).float()
    expected = -(present * F.logsigmoid(LOGITS) + (1 - present) * F.logsigmoid(-LOGITS)).mean()
    torch.testing.assert_close(build_loss(**options)(LOGITS, TARGETS[kind]), expected)


def test_cross_entropy_of_the_config_smooths_by_a_tenth(compose_config):
    options = compose_config("loss=cross_entropy")["loss"]
    torch.testing.assert_close(
        build_loss(**options)(LOGITS, LABELS), F.cross_entropy(LOGITS, LABELS, label_smoothing=0.1)
    )


def test_an_unknown_loss_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown loss 'hinge'; known: cross_entropy, bce"):
        build_loss("hinge")
