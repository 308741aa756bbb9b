"""The backbones written here go through a run as every model does."""

import pytest
import torch

from .fitting import Probe, fit

pytestmark = [
    # Lightning 2.6 on torch 2.14: its own use of a deprecated class.
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    # Lightning's advice on a machine of more than two cores.
    pytest.mark.filterwarnings("ignore:The '.*' does not have many workers"),
]

RUN = ("data=fake", "data.num_images=32", "data.image_size=32", "global_batch_size=16", "logger=none", "callbacks=none")


class Weights(Probe):
    """Keeps the weights from before the first step, too."""

    def on_train_start(self, trainer, module):
        self.before = {name: p.detach().clone() for name, p in module.model.named_parameters()}


@pytest.mark.parametrize("name", ["crossformerpp_s", "fastervit_0"])
def test_one_step_changes_the_weights(compose_config, name):
    narrow = ("+model.embed_dim=16", "+model.depths=[1,1,4,2]")
    probe = fit(compose_config(f"model={name}", *narrow, *RUN, "debug=fdr"), Weights())
    assert probe.metrics["val/loss"] > 0
    after = dict(probe.module.model.named_parameters())
    unchanged = [name for name, weight in probe.before.items() if torch.equal(weight, after[name])]
    # At 32 px the last map is 1×1: its tokens have nobody to attend to, and their attention map is 1.
    assert [name for name in unchanged if not name.startswith("stages.3.")] == []


def test_size_that_does_not_fit_ends_a_run_before_it_begins(compose_config):
    with pytest.raises(ValueError, match=r"multiples of 32 px, not 48×48; take 64×64 \(data.img_size=64\)"):
        fit(compose_config("model=crossformerpp_s", *RUN, "data.img_size=48"))
