"""The backbones in whole runs."""

import pytest
import torch

from .fitting import Probe, fit

RUN = ("data=fake", "data.num_images=32", "data.image_size=32", "global_batch_size=16", "logger=none", "callbacks=none")


class Weights(Probe):
    """Also records the weights before the first step."""

    def on_train_start(self, trainer, module):
        self.before = {name: p.detach().clone() for name, p in module.model.named_parameters()}


WIDTHS = ("+model.embed_dims=[8,8,16,16]", "+model.depths=[1,1,1,1]")
NARROW = {
    "crossformerpp_s": ("+model.embed_dim=16", "+model.depths=[1,1,4,2]"),
    "fastervit_0": ("+model.embed_dim=16", "+model.depths=[1,1,4,2]"),
    "vip_small7": ("+model.embed_dims=[16,32]", "+model.depths=[1,1]", "+model.segment_dims=[2,8]", "data.img_size=28"),
    "casvit_xs": WIDTHS,
    "casvit_s": WIDTHS,
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if index % 3 else []) for index, name in enumerate(NARROW)]
)
def test_one_step_changes_the_weights(compose_config, name):
    probe = fit(compose_config(f"model={name}", *NARROW[name], *RUN, "debug=fdr"), Weights())
    assert probe.metrics["val/loss"] > 0
    after = dict(probe.module.model.named_parameters())
    unchanged = [name for name, weight in probe.before.items() if torch.equal(weight, after[name])]
    # At 32 px the last map has a single token, whose attention map is constant.
    assert [name for name in unchanged if not name.startswith("stages.3.")] == []


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("crossformerpp_s", 48, r"multiples of 32 px, not 48×48; use 64×64 \(data.img_size=64\)"),
        ("vip_small7", 32, r"do not divide images of 32 px; use img_size=28"),
    ],
)
def test_unsupported_size_ends_a_run_before_training(compose_config, name, size, message):
    with pytest.raises(ValueError, match=message):
        fit(compose_config(f"model={name}", *RUN, f"data.img_size={size}"))
