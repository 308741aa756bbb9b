"""The learning rate of the head; optimizers that do not exist; the default warmup."""

import pytest
import torch
from torch import nn

from fvit.training.optimization import build_optimizer, build_scheduler

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


@pytest.mark.parametrize(("name", "advice"), [("adamw2", "did you mean adamw or "), ("x", "; timm.optim.list_opt")])
def test_an_unknown_optimizer_is_named_with_what_to_write(name, advice):
    with pytest.raises(ValueError, match=rf"optimizer\.opt={name} cannot be built: .*{advice}"):
        build_optimizer(nn.Linear(1, 1), {"opt": name, "lr": 1.0})


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0.125), (2, 0.25), (10, 1.25), (40, 5), (300, 5)])
def test_the_warmup_follows_the_length_of_the_run(epochs, warmup):
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    options = {"sched": "constant", "warmup_epochs": None, "warmup_lr": 0.0}
    scheduler = build_scheduler(optimizer, options, updates=epochs * 8, per_epoch=8)
    for update in range(epochs * 8):
        scheduler.step_update(update)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(min(1.0, update / (8 * warmup))), update
