"""Blocks to shard in every kind of host, what is computed and kept in mixed precision, and optimizer states.

FSDP2 runs here in one process, a world of its own: it gathers, frees and reduces as among many.
"""

from datetime import timedelta
from types import SimpleNamespace

import pytest
import timm
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp._fully_shard import _fsdp_param_group

from fvit.cost.memory import saved_for_backward
from fvit.models import build
from fvit.training.sharding import blocks, numbered_by_model, shard
from fvit.training.strategy import ShardedStrategy

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


@pytest.fixture
def mesh(process_group):
    return init_device_mesh("cpu", (1,))


def model(**options):
    torch.manual_seed(0)
    return build("vit_tiny_patch16_224", 32, 10, embed_dim=96, depth=4, num_heads=3, **options)


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run(model):
    with torch.autocast("cpu", torch.bfloat16):
        return model(IMAGES).float().square().mean()


def test_mixed_precision_keeps_no_weights_between_the_passes(mesh):
    """Autocast alone saves a 16-bit copy of each, in spite of what FSDP frees."""
    saved = {}
    for precision in ("32-true", "bf16-mixed"):
        sharded = model()
        in_blocks = sum(weight.numel() for block in blocks(sharded) for weight in block.parameters())
        shard(sharded, mesh, precision)
        saved[precision] = saved_for_backward(lambda sharded=sharded: run(sharded))
    assert saved["32-true"] - saved["bf16-mixed"] > 0.95 * 2 * in_blocks


def test_mixed_precision_computes_in_16_bits_and_reduces_in_32(mesh, monkeypatch):
    plain, sharded, reduced = model(), model(), []
    shard(sharded, mesh, "bf16-mixed")
    reduce = _fsdp_param_group.foreach_reduce

    def watch(parameters, gradients, group, stream, comm, own, dtype, *rest):
        reduced.append((gradients[0].dtype, dtype))
        return reduce(parameters, gradients, group, stream, comm, own, dtype, *rest)

    monkeypatch.setattr(_fsdp_param_group, "foreach_reduce", watch)
    run(sharded).backward()
    assert reduced == [(torch.bfloat16, torch.float32)] * 5
    run(plain).backward()
    for name, weight in sharded.named_parameters():
        expected = plain.get_parameter(name).grad
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert (weight.grad.full_tensor() - expected).norm() < 0.05 * expected.norm() + 1e-6, name


def test_accumulated_gradients_are_reduced_once(mesh, monkeypatch):
    calls, gradients, reduce = [], [], _fsdp_param_group.foreach_reduce
    monkeypatch.setattr(_fsdp_param_group, "foreach_reduce", lambda *parts: calls.append(1) or reduce(*parts))
    for blocked in (False, True):
        sharded = model()
        shard(sharded, mesh)
        strategy = ShardedStrategy(1, timedelta(minutes=1))
        strategy._lightning_module = SimpleNamespace(model=sharded)
        calls.clear()
        if blocked:
            with strategy.block_backward_sync():
                sharded(IMAGES[:1]).square().mean().backward()
            assert calls == []
        else:
            sharded(IMAGES[:1]).square().mean().backward()
        sharded(IMAGES[1:]).square().mean().backward()
        assert len(calls) == (5 if blocked else 10), "four blocks and the rest"
        gradients.append([weight.grad.full_tensor() for weight in sharded.parameters()])
    torch.testing.assert_close(*gradients)
