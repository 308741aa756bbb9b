"""Adaptive gradient clipping in a run."""

import pytest
import torch
from timm.utils.agc import adaptive_clip_grad

from fvit.callbacks.agc import AdaptiveGradientClipping
from tests.training.fitting import FAKE, Probe, fit

AGC = ("callbacks=[default,agc]", "logger=none")


class Gradients(Probe):
    """Clones gradients and weights before the optimizer's steps, after the callbacks before it."""

    def on_before_optimizer_step(self, trainer, module, optimizer):
        super().on_before_optimizer_step(trainer, module, optimizer)
        self.pairs = [(n, p.detach().clone(), p.grad.clone()) for n, p in module.model.named_parameters()]


def test_units_are_clipped_to_their_weights_and_the_head_is_not(compose_config):
    probe = fit(compose_config(*FAKE, *AGC, "callbacks.agc.clip_factor=1e-3"), Gradients())
    clipped = 0
    for name, weight, grad in probe.pairs:
        wide = weight.reshape(len(weight), -1) if weight.ndim > 1 else weight.reshape(1, -1)
        norms = grad.reshape(wide.shape).norm(dim=1)
        limits = 1e-3 * wide.norm(dim=1).clamp(min=1e-3)
        if name.startswith("head"):
            assert (norms > limits).any()
        else:
            assert (norms <= limits * 1.001).all(), name
            clipped += int((norms >= limits * 0.999).sum())
    assert clipped > 50


def test_equals_timm_on_a_first_step(compose_config):
    """timm's own clipping of the same gradients, of all parameters but the head's."""
    short = ("+trainer.max_steps=1", "~callbacks.best", *FAKE)
    free = fit(compose_config(*short, "logger=none", "trainer.gradient_clip_val=null"), Gradients())
    probe = fit(compose_config(*short, *AGC), Gradients())
    for (name, weight, grad), (_, _, found) in zip(free.pairs, probe.pairs, strict=True):
        parameter = torch.nn.Parameter(weight)
        parameter.grad = grad
        if not name.startswith("head"):
            adaptive_clip_grad([parameter], 0.01)
        torch.testing.assert_close(found, parameter.grad)


def test_two_kinds_of_clipping_are_refused(compose_config):
    with pytest.raises(ValueError, match=r"set trainer\.gradient_clip_val=null"):
        fit(compose_config(*FAKE, *AGC, "trainer.gradient_clip_val=1"))


@pytest.mark.parametrize("options", [{"clip_factor": 0}, {"eps": -1}])
def test_arguments_must_be_positive(options):
    with pytest.raises(ValueError, match="must be positive"):
        AdaptiveGradientClipping(**options)
