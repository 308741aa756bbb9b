"""Runtime flags change memory, and neither the loss nor its gradients."""

import logging
from types import SimpleNamespace

import pytest
import timm
import torch
from torch import nn

from fvit.data.transforms.batch import BatchTransform
from fvit.models import build
from fvit.training import runtime_flags

FLAGS = ("tf32", "channels_last", "grad_checkpointing", "fast_norm", "compile")
OFF = dict.fromkeys(FLAGS, False)
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


def test_fast_norm_keeps_norms_of_mixed_precision_in_16_bits():
    outputs = {}
    for flag in (False, True):
        module = Module(build("vit_tiny_patch16_224", 32, 10, embed_dim=24, depth=1, num_heads=3))
        runtime_flags.set_up({**OFF, "fast_norm": flag}, module, Data())
        norm = module.model.blocks[0].norm1
        with torch.autocast("cpu", torch.bfloat16):
            outputs[flag] = norm(torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)))
    assert [outputs[flag].dtype for flag in (False, True)] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(outputs[True].float(), outputs[False], rtol=0.02, atol=0.02)


def test_fast_norm_without_norms_of_timm_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        runtime_flags.set_up({**OFF, "fast_norm": True}, Module(nn.Linear(2, 2)), Data())
    assert "fast_norm=true has no effect on Linear" in caplog.text


@pytest.mark.parametrize(("flag", "mode"), [(True, "default"), ("max-autotune", "max-autotune")])
def test_student_and_teacher_are_compiled_in_the_same_mode(monkeypatch, flag, mode):
    asked = []
    monkeypatch.setattr(nn.Module, "compile", lambda model, **options: asked.append((model, options)))
    module = Module(nn.Conv2d(3, 4, 3))
    teacher = nn.Conv2d(3, 4, 3)
    module.teacher = SimpleNamespace(model=teacher)
    runtime_flags.set_up({**OFF, "compile": flag, "channels_last": True}, module, Data())
    assert asked == [(module.model, {"mode": mode}), (teacher, {"mode": mode})]
    assert teacher.weight.is_contiguous(memory_format=torch.channels_last)


def test_tf32_is_reset():
    switches = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    runtime_flags.set_up({**OFF, "tf32": True}, Module(nn.Linear(2, 2)), Data())
    assert [switch.fp32_precision for switch in switches] == ["tf32"] * 3
    assert torch.get_float32_matmul_precision() == "high", "torch refuses to tell where its switches contradict"
    assert torch.backends.cudnn.allow_tf32
    runtime_flags.set_up(OFF, Module(nn.Linear(2, 2)), Data())
    assert "tf32" not in [switch.fp32_precision for switch in switches]
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32
