"""Blocks to shard in every kind of host, and the numbering of optimizer states."""

import pytest
import timm
import torch

import fvit.models  # noqa: F401  (registers names with timm)
from fvit.training.sharding import blocks, numbered_by_model

COUNTS = {
    "vit_tiny_patch16_224": 12,
    "fvit_small_patch16_224": 12,
    "beit_base_patch16_224": 12,
    "eva02_tiny_patch14_224": 12,
    "cait_xxs24_224": 24 + 2,
    "xcit_nano_12_p16_224": 12 + 2,
    "vit_relpos_small_patch16_224": 12,
    "naflexvit_base_patch16_gap": 12,
    "swin_tiny_patch4_window7_224": 2 + 2 + 6 + 2,
    "convnextv2_atto": 2 + 2 + 6 + 2,
    "convmixer_768_32": 32,
    "mobilevitv2_050": 1 + 2 + 2 + 2 + 2,
    "fastvit_t8": 2 + 2 + 4 + 2,
    "swiftformer_xs": 3 + 3 + 6 + 4,
    "casvit_xs": 2 + 2 + 4 + 2,
    "fastervit_0": 2 + 3 + 6 + 5,
}


@pytest.mark.parametrize("name", COUNTS)
def test_blocks_of_every_kind_of_host(name):
    with torch.device("meta"):
        model = timm.create_model(name)
    found = blocks(model)
    assert len(found) == COUNTS[name]
    inside = [parameter for block in found for parameter in block.parameters()]
    assert len({id(parameter) for parameter in inside}) == len(inside), "nested blocks"
    share = sum(parameter.numel() for parameter in inside) / sum(p.numel() for p in model.parameters())
    assert share > 0.5


def test_renumbered_state_loads_into_torchs_optimizer():
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 4))

    def optimizer():
        biases, weights = ([layer.bias for layer in model], [layer.weight for layer in model])
        return torch.optim.AdamW([{"params": biases, "weight_decay": 0.0}, {"params": weights}])

    first = optimizer()
    model(torch.ones(5, 3)).sum().backward()
    first.step()
    state = numbered_by_model(first.state_dict(), first, model)
    assert [group["params"] for group in state["param_groups"]] == [[1, 3], [0, 2]]
    for place, parameter in enumerate(model.parameters()):
        assert state["state"][place]["exp_avg"].shape == parameter.shape
    second = optimizer()
    second.load_state_dict(state)
    for parameter in model.parameters():
        assert torch.equal(second.state[parameter]["exp_avg"], first.state[parameter]["exp_avg"])
