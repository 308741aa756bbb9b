import pytest
import timm
import torch
from torch.nn import functional as F

from fvit.models import CasViT
from fvit.models.backbones.casvit import AdditiveMixer, Block

DIM, HEIGHT, WIDTH = 6, 4, 5
SMALL = dict(embed_dims=(8, 8, 16, 16), depths=(1, 1, 1, 1), num_classes=5)


def trained(module):
    """Random weights and batch statistics, in float64."""
    torch.manual_seed(0)
    for key, tensor in module.double().state_dict(keep_vars=True).items():
        if key.endswith("running_var"):
            tensor.data.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.data.normal_(std=0.5)
    return module.eval()


def small(**options):
    torch.manual_seed(0)
    return CasViT(**{**SMALL, **options})


def depthwise(conv, x):
    """A 3×3 depth-wise convolution as a sum of shifted maps."""
    padded = F.pad(x, (1, 1, 1, 1))
    height, width = x.shape[-2:]
    shifts = [(i, j) for i in range(3) for j in range(3)]
    total = sum(
        padded[:, :, i : i + height, j : j + width] * conv.weight[None, :, 0, i, j, None, None] for i, j in shifts
    )
    return total + conv.bias[None, :, None, None]


def pointwise(conv, x):
    out = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x)
    return out if conv.bias is None else out + conv.bias[None, :, None, None]


def batch_norm(norm, x):
    mean, variance, weight, bias = (
        t[None, :, None, None] for t in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
    )
    return (x - mean) / (variance + norm.eps).sqrt() * weight + bias


def gate(module, x):
    """Φ: a gate per position, then a gate per channel."""
    spatial, channel = module[0].gate, module[1].gate
    x = x * pointwise(spatial[3], batch_norm(spatial[1], depthwise(spatial[0], x)).clamp(min=0)).sigmoid()
    return x * pointwise(channel[1], x.mean(dim=(2, 3), keepdim=True)).sigmoid()


def mixed_by_hand(mixer, x):
    q, k, v = pointwise(mixer.qkv, x).split(DIM, dim=1)
    return depthwise(mixer.proj, depthwise(mixer.context, gate(mixer.gate_q, q) + gate(mixer.gate_k, k)) * v)


def maps():
    return torch.randn(2, DIM, HEIGHT, WIDTH, dtype=torch.float64)


def test_mixer_against_its_formula():
    mixer, x = trained(AdditiveMixer(DIM)), maps()
    torch.testing.assert_close(mixer(x), mixed_by_hand(mixer, x), rtol=1e-12, atol=1e-12)


def test_block_against_its_formula():
    block, x = trained(Block(DIM, 4.0, 0.0)), maps()
    local = block.local
    y = depthwise(local[2], batch_norm(local[1], pointwise(local[0], x)))
    y = x + pointwise(local[4], F.gelu(y))
    y = y + mixed_by_hand(block.attn, batch_norm(block.norm1, y))
    y = y + pointwise(block.mlp.fc2, F.gelu(pointwise(block.mlp.fc1, batch_norm(block.norm2, y))))
    torch.testing.assert_close(block(x), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "exact", "dims", "depths"),
    [
        ("casvit_xs", 3_200_700, [48, 56, 112, 220], [2, 2, 4, 2]),
        ("casvit_s", 5_764_224, [48, 64, 128, 256], [3, 3, 6, 3]),
        ("casvit_m", 12_421_520, [64, 96, 192, 384], [3, 3, 6, 3]),
        ("casvit_t", 21_763_120, [96, 128, 256, 512], [3, 3, 6, 3]),
    ],
)
def test_parameters_and_shape_are_as_published(name, exact, dims, depths):
    with torch.device("meta"):
        model = timm.create_model(name)
    assert sum(p.numel() for p in model.parameters()) == exact
    assert [info["num_chs"] for info in model.feature_info] == dims
    assert [len(stage.blocks) for stage in model.stages] == depths


@pytest.mark.parametrize("size", [(1, 1), (28, 28), (33, 70)])
def test_images_may_have_any_size(size):
    model = small().eval()
    features = model.forward_features(torch.zeros(2, 3, *size))
    assert features.shape[2:] == tuple(-(-side // 32) for side in size)
    assert model(torch.zeros(2, 3, *size)).shape == (2, 5)


def test_output_is_the_mean_of_both_heads():
    model, images = small().eval(), torch.randn(2, 3, 32, 32)
    pooled = model.forward_head(model.forward_features(images), pre_logits=True)
    first, second = (head(pooled) for head in model.get_classifier())
    assert not torch.allclose(first, second)
    torch.testing.assert_close(model(images), (first + second) / 2)


def test_both_logits_are_returned_in_distilled_training():
    model, images = small(), torch.randn(4, 3, 64, 64)
    assert model.train()(images).shape == (4, 5)
    model.set_distilled_training()
    labels, teacher = model(images)
    assert labels.shape == teacher.shape == (4, 5)
    assert model.eval()(images).shape == (4, 5)
    model.set_distilled_training(False)
    assert model.train()(images).shape == (4, 5)


def test_new_heads_are_on_the_models_device_and_in_its_dtype():
    model = small().to("meta", torch.bfloat16)
    model.reset_classifier(7)
    assert {(head.weight.device.type, head.weight.dtype) for head in model.get_classifier()} == {
        ("meta", torch.bfloat16)
    }


def test_new_heads_fit_the_pooling():
    model = small()
    model.reset_classifier(7, "catavgmax")
    assert model(torch.randn(4, 3, 64, 64)).shape == (4, 7)
    model.reset_classifier(0)
    assert model(torch.randn(4, 3, 64, 64)).shape == (4, 2 * model.num_features)


def test_stochastic_depth_grows_linearly_over_all_stages():
    rates = [block.drop_path.drop_prob for stage in small(drop_path_rate=0.3).stages for block in stage.blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 4))


def test_heads_start_small_unbiased_and_different():
    first, second = small().get_classifier()
    assert first.weight.abs().max() < 0.1
    assert not first.bias.any()
    assert not torch.equal(first.weight, second.weight)
