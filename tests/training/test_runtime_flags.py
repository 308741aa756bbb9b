"""Runtime flags change memory, and neither the loss nor its gradients."""

import logging

import pytest
import timm
import torch
from torch import nn

from fvit.data.transforms.batch import BatchTransform
from fvit.models import build
from fvit.training import runtime_flags

OFF = {"tf32": False, "channels_last": False, "grad_checkpointing": False, "compile": False}
HOSTS = {
    "vit_tiny_patch16_224": dict(embed_dim=24, depth=3, num_heads=3, proj_drop_rate=0.2),
    "fvit_tiny_patch16_224": dict(embed_dim=24, depth=3, num_heads=3, drop_path_rate=0.5),
    "swin_tiny_patch4_window7_224": dict(embed_dim=12, depths=(1, 2), num_heads=(1, 2), window_size=4),
    "convnextv2_atto": dict(dims=(8, 8, 16, 16), depths=(1, 1, 2, 1)),
    "casvit_xs": dict(),
}


class Module(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Data:
    def __init__(self):
        self.batch_transform = BatchTransform(10, (0.5,) * 3, (0.5,) * 3, {}, {}, seed=0)


def learn(name, **settings):
    """Loss, gradients, and the bytes of activations that are stored for the backward pass."""
    torch.manual_seed(0)
    module, data = Module(build(name, 64, 10, **HOSTS[name])), Data()
    runtime_flags.set_up({**OFF, **settings}, module, data)
    images = torch.randn(4, 3, 64, 64).contiguous(memory_format=data.batch_transform.memory_format)
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)  # of dropout
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = module.model(images).logsumexp(dim=1).mean()
    loss.backward()
    parameters = {parameter.data_ptr() for parameter in module.parameters()}
    gradients = {name: parameter.grad for name, parameter in module.named_parameters()}
    return loss, gradients, sum(size for place, size in kept.items() if place not in parameters)


@pytest.mark.parametrize("name", HOSTS)
@pytest.mark.parametrize("setting", ["channels_last", "grad_checkpointing"])
def test_loss_and_gradients_stay_the_same(name, setting):
    loss, gradients, memory = learn(name)
    other_loss, other_gradients, other_memory = learn(name, **{setting: True})
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=1e-6)
    for parameter, gradient in gradients.items():
        torch.testing.assert_close(other_gradients[parameter], gradient, rtol=1e-4, atol=1e-5, msg=parameter)
    if setting == "grad_checkpointing":
        assert other_memory < 0.75 * memory


def test_convolutions_and_batches_are_channels_last():
    module, data = Module(build("convnextv2_atto", 32, 10, **HOSTS["convnextv2_atto"])), Data()
    runtime_flags.set_up({**OFF, "channels_last": True}, module, data)
    assert module.model.stem[0].weight.is_contiguous(memory_format=torch.channels_last)
    batch = type("Batch", (), {"images": torch.zeros(2, 32, 32, 3, dtype=torch.uint8), "labels": torch.zeros(2)})
    images, _ = data.batch_transform(batch, train=False, dtype=torch.float32)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_channels_last_without_feature_maps_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        runtime_flags.set_up({**OFF, "channels_last": True}, Module(timm.create_model("vit_tiny_patch16_224")), Data())
    assert "almost no effect on VisionTransformer" in caplog.text


def test_checkpointing_with_batch_norm_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        runtime_flags.set_up({**OFF, "grad_checkpointing": True}, Module(timm.create_model("fastvit_t8")), Data())
    assert "running statistics" in caplog.text


def test_model_without_gradient_checkpointing_is_refused():
    class Refuses(nn.Module):
        def set_grad_checkpointing(self, enable):
            assert not enable, "gradient checkpointing not supported"

    for model in (Refuses(), nn.Linear(2, 2)):
        with pytest.raises(ValueError, match="set grad_checkpointing=false"):
            runtime_flags.set_up({**OFF, "grad_checkpointing": True}, Module(model), Data())


def test_tf32_is_reset():
    runtime_flags.set_up({**OFF, "tf32": True}, Module(nn.Linear(2, 2)), Data())
    assert torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    runtime_flags.set_up(OFF, Module(nn.Linear(2, 2)), Data())
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
