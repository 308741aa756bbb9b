"""The learning rate of the head."""

import pytest
import torch

from .fitting import BARE, fit
from .test_classifier import groups_by_name

HEAD = {"head.weight", "head.bias"}


@pytest.mark.parametrize("decay", ["null", "0.5"])
def test_head_has_its_own_learning_rate_on_the_same_schedule(compose_config, decay):
    overrides = (*BARE, "optimizer.lr=1e-3", f"optimizer.layer_decay={decay}", "scheduler.warmup_epochs=0.5")
    plain = fit(compose_config(*overrides))
    probe = fit(compose_config(*overrides, "optimizer.head_lr=1e-2"))
    before, after = groups_by_name(plain), groups_by_name(probe)
    for name, group in after.items():
        assert group["weight_decay"] == before[name]["weight_decay"], name
        # At the end of the schedule, which is not zero.
        expected = 10 * before["head.weight"]["lr"] if name in HEAD else before[name]["lr"]
        assert group["lr"] == pytest.approx(expected, rel=1e-9), name
    assert probe.metrics["lr"] == pytest.approx(plain.metrics["lr"], rel=1e-12)
    assert max(probe.rates[1]) == pytest.approx(10 * max(plain.rates[1]))


def test_first_update_of_the_head_is_larger_by_the_ratio(compose_config):
    """With SGD, whose step is proportional to the learning rate."""
    still = (*BARE, "optimizer=sgd", "optimizer.lr=1e-3", "scheduler=constant", "augment=none")

    def change(*overrides):
        torch.manual_seed(0)
        probe = fit(compose_config(*still, "optimizer.weight_decay=0", "+trainer.max_steps=1", *overrides))
        torch.manual_seed(0)
        return {name: weight.detach().clone() for name, weight in probe.module.model.named_parameters()}

    nothing, plain, faster = change("optimizer.lr=1e-12"), change(), change("optimizer.head_lr=3e-3")
    for name in plain:
        ratio = 3 if name in HEAD else 1
        torch.testing.assert_close(
            faster[name] - nothing[name], ratio * (plain[name] - nothing[name]), rtol=1e-2, atol=1e-7
        )
