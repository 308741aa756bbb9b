"""Parameters and MACs of models, layers and operators, against counts by hand."""

import json
import math

import pytest
import timm
import torch
from torch import nn

from fvit.attention import get
from fvit.cost import Cost, count
from tests.cost.fvcore_counts import COUNTS, MODELS
from tests.models.small import REPRESENTATIVES

WIDTH, HEADS, ROWS, COLUMNS = 24, 3, 5, 7


def on_meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


class PixelsAsTokens(nn.Module):
    """One layer of attention as a model of images, [B, C, H, W] -> [B, H·W, C]."""

    def __init__(self, attn):
        super().__init__()
        self.attn = attn

    def forward(self, x):
        return self.attn(x.flatten(2).transpose(1, 2))


def small_convnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, kernel_size=3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, kernel_size=(3, 5), padding=(1, 2), groups=4, bias=False),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def truncated(value, digits=0):
    return math.floor(value * 10**digits) / 10**digits


@pytest.mark.parametrize(
    ("name", "params_m", "gflops"),
    [
        ("vit_base_patch16_384", 86, 49.3),
        ("fvit_base_patch16_384", 79, 45.2),
        ("vit_base_patch32_384", 88, 12.6),
        ("fvit_base_patch32_384", 81, 11.6),
    ],
)
def test_table_of_the_paper(name, params_m, gflops):
    """The paper truncates, it does not round."""
    cost = count(on_meta(name), 384)
    assert truncated(cost.params / 1e6) == params_m
    assert truncated(cost.macs_paper / 1e9, digits=1) == gflops


@pytest.mark.parametrize(("name", "gmacs"), [("vit_base_patch16_384", 55.5), ("fvit_base_patch16_384", 41.3)])
def test_true_macs(name, gmacs):
    assert round(count(on_meta(name), 384).macs / 1e9, 1) == gmacs


def hand_count(name):
    """MACs of the projections, and all MACs, of one layer."""
    n, d = ROWS * COLUMNS, WIDTH
    return {
        # q, k, v, proj; the map, and its product with the values
        "softmax": (4 * n * d * d, 4 * n * d * d + 2 * n * n * d),
        # q, k, transform; two logits, two pools, q̄⊙k and k̄⊙q
        "additive": (3 * n * d * d, 3 * n * d * d + 2 * n * d + 2 * n * d + 2 * n * d),
        # q, k, v, proj; φ(K)ᵀV, φ(Q) times it, the normaliser φ(Q)Σφ(K)
        "linear": (4 * n * d * d, 4 * n * d * d + 2 * n * d * (d // HEADS) + n * d),
        "identity": (0, 0),
    }[name]


@pytest.mark.parametrize("name", ["additive", "identity", "linear", "softmax"])
def test_one_layer_of_attention(name):
    module = get(name)(WIDTH, HEADS, **({"form": "textbook"} if name == "additive" else {}))
    paper, macs = hand_count(name)
    expected = Cost(params=sum(p.numel() for p in module.parameters()), macs_paper=paper, macs=macs)
    assert count(PixelsAsTokens(module), (WIDTH, ROWS, COLUMNS)) == expected


@pytest.mark.parametrize("form", ["textbook", "factored", "folded"])
def test_forms_of_additive_attention(form):
    """With separate values and an output projection; MACs as in papers do not depend on the form."""
    n, d, h = ROWS * COLUMNS, WIDTH, HEADS
    options = {"value": "separate", "proj": True, "form": form}
    cost = count(PixelsAsTokens(get("additive")(d, h, **options)), (d, ROWS, COLUMNS))
    # Logits, pooled tokens, their projection and biases.
    pooling = 2 * n * h * d + 2 * d * d + d
    macs = {
        "textbook": 5 * n * d * d + 6 * n * d,
        # q, v, transform, proj; logits and pool of the queries; q̄ ⊙ logits and pooled keys; k̄ ⊙ v
        "factored": 4 * n * d * d + 2 * n * d + pooling + 2 * d + n * d,
        # M x; W_o W_t, W_o W_q and W_o b; W_t ⊙ k̄ and W_t diag(k̄) W_v; q̄ ⊙ as above; k̄ ⊙ b_v and its product
        "folded": n * d * d + 2 * d**3 + d * d + d * d + d**3 + 2 * pooling + 2 * d + d + d * d,
    }[form]
    assert (cost.macs_paper, cost.macs) == (5 * n * d * d, macs)


def test_small_convnet():
    convs = 16 * 16 * 8 * (3 * 3 * 3) + 16 * 16 * 16 * (8 // 4 * 3 * 5)
    params = (8 * 27 + 8) + 2 * 8 + 16 * 2 * 15 + (16 * 10 + 10)
    cost = count(small_convnet(), 32)
    assert (cost.params, cost.macs_paper) == (params, convs + 16 * 10)


def test_convnext():
    """timm's convnext_tiny against a count by hand: stem, downsampling, one 7×7 depth-wise, two 1×1 per block."""
    macs = 3 * 4 * 4 * 96 * 56**2
    for stage, (width, depth, side) in enumerate(zip((96, 192, 384, 768), (3, 3, 9, 3), (56, 28, 14, 7), strict=True)):
        if stage:
            macs += 2 * 2 * (width // 2) * width * side**2
        macs += depth * side**2 * (49 * width + 8 * width**2)
    assert count(on_meta("convnext_tiny"), 224).macs_paper == macs + 768 * 1000


@pytest.mark.parametrize("attention", REPRESENTATIVES)
def test_real_model_counts_like_one_on_meta(attention):
    options = dict(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, global_pool="avg", attention=attention
    )
    real = timm.create_model("fvit_tiny_patch16_224", **options)
    assert count(real, 32) == count(on_meta("fvit_tiny_patch16_224", **options), 32)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_layers_of_timms_models_are_counted_as_by_fvcore(name):
    model = on_meta(name)
    assert count(model, model.pretrained_cfg["input_size"]).macs_paper == json.loads(COUNTS.read_text())[name]


def test_layers_count_whichever_module_calls_them():
    """BEiT projects with F.linear, and attention of torch without its own modules' forward."""
    options = dict(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=0)
    tokens, width = 17, 24
    beit = count(timm.create_model("beit_base_patch16_224", **options), 32)
    assert beit.macs_paper == 16 * 3 * 8 * 8 * width + 12 * tokens * width**2
    of_torch = PixelsAsTokens(nn.TransformerEncoderLayer(width, HEADS, 2 * width, batch_first=True))
    assert count(of_torch, (width, ROWS, COLUMNS)).macs_paper == 8 * ROWS * COLUMNS * width**2


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: nn.functional.linear(x, torch.empty(5, 8, device="meta")), 2 * 4 * 5 * 8),
        (lambda x: nn.functional.linear(x, torch.empty(5, 8, device="meta"), x[0, 0, :1, :5].flatten()), 2 * 4 * 5 * 8),
        (lambda x: nn.functional.conv2d(x, torch.empty(6, 1, 3, 3, device="meta"), groups=2), 6 * 2 * 6 * 9),
        (lambda x: nn.functional.conv_transpose2d(x, torch.empty(2, 3, 2, 2, device="meta"), stride=2), 64 * 3 * 4),
        (lambda x: nn.functional.conv1d(x[0], torch.empty(3, 4, 3, device="meta")), 2 * 3 * 6 * 4 * 3),
        (lambda x: x @ x.mT, 0),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x), 0),
        (lambda x: torch.einsum("bchw,bchv->bcwv", x, x), 0),
    ],
)
def test_layers_are_recognised_by_operation(work, expected):
    assert count(Function(work), (2, 4, 8)).macs_paper == expected


def test_models_with_views_of_parameters_can_be_counted():
    """CaiT passes a view of its class token to its last blocks."""
    model = timm.create_model("cait_xxs24_224", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3)
    assert count(model, 32).macs > count(model, 32).macs_paper > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_count_does_not_depend_on_dtype(dtype):
    assert count(small_convnet().to(dtype), 32) == count(small_convnet(), 32)


def test_count_does_not_depend_on_mode():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, drop_path_rate=0.5, attn_drop_rate=0.5)
    assert count(model.train(), 32) == count(model.eval(), 32)


def test_frozen_parameters_count():
    model = small_convnet()
    before = count(model, 32)
    assert count(model.requires_grad_(False), 32) == before


@pytest.mark.parametrize("size", [32, (3, 32, 32)])
def test_input_size_is_a_side_or_a_shape(size):
    assert count(small_convnet(), size) == count(small_convnet(), [3, 32, 32])


def test_mechanisms_without_weights():
    n, d = ROWS * COLUMNS, WIDTH
    macs = {}
    for name in ("fnet", "pool", "random"):
        module = get(name)(d, HEADS)
        module.set_layout((ROWS, COLUMNS), 0)
        cost = count(PixelsAsTokens(module), (d, ROWS, COLUMNS))
        assert (cost.params, cost.macs_paper) == (0, 0)
        macs[name] = cost.macs
    # FNet turns the tokens into complex numbers first.
    assert macs == {"fnet": round(5 / 2 * n * d * math.log2(n * d)), "pool": 9 * n * d, "random": n * n * d}


FIXED_LENGTH = {
    # name, option: MACs of linear layers, and of all other products; n tokens of width d
    # keys and values are summed to four rows and then projected, their biases multiplied by the sums of E and F
    ("linformer", ("projected_tokens", 4)): lambda n, d: (
        4 * n * d * d + 2 * n * 4 * d,
        2 * n * 4 * d - 2 * (n - 4) * d * d + 2 * 4 * d,
    ),
    ("linformer", ("projected_tokens", 40)): lambda n, d: (4 * n * d * d + 2 * n * 40 * d, 2 * n * 40 * d),
    # segments' means are sums; two maps to and from landmarks, one between them, Z and its product
    ("nystrom", ("num_landmarks", 4)): lambda n, d: (4 * n * d * d, 4 * n * 4 * d + 2 * 16 * d + 6 * 4 * HEADS * 4**3),
    # the bias, both sums, the factor in one of them and the gate
    ("aft_full", ("rank", 5)): lambda n, d: (4 * n * d * d, n * n * 5 + 2 * n * n * d + 2 * n * d),
    ("aft_full", ("rank", None)): lambda n, d: (4 * n * d * d, 2 * n * n * d + 2 * n * d),
    ("mixer", ("mlp_ratio", 0.5)): lambda n, d: (2 * n * d * d // 2, 0),
    ("gmlp", ("mlp_ratio", 2)): lambda n, d: (3 * n * d * d + n * n * d, n * d),
    # one more channel for the bias in each head
    ("synthesizer", ("kind", "dense")): lambda n, d: (3 * n * d * d, 2 * n * n * (d + HEADS)),
    ("synthesizer", ("kind", "random")): lambda n, d: (2 * n * d * d, n * n * d),
    ("synthesizer", ("kind", "factorised_random")): lambda n, d: (2 * n * d * d, n * n * d + n * n * HEADS * 8),
    ("synthesizer", ("kind", "factorised_dense")): lambda n, d: (
        3 * n * d * d,
        n * n * d + n * d * (ROWS + COLUMNS) + n * n * HEADS,
    ),
}


@pytest.mark.parametrize(("name", "option"), FIXED_LENGTH, ids=lambda part: "=".join(map(str, part)))
def test_one_layer_of_an_approximation_or_of_fixed_length(name, option):
    module = get(name)(WIDTH, HEADS, **dict([option]))
    module.set_layout((ROWS, COLUMNS), 0)
    paper, products = FIXED_LENGTH[name, option](ROWS * COLUMNS, WIDTH)
    cost = count(PixelsAsTokens(module), (WIDTH, ROWS, COLUMNS))
    assert (cost.macs_paper, cost.macs) == (paper, paper + products)


LINEAR = {
    # name, option: MACs of linear layers, and of all other products; n tokens of width d, h per head
    # S and z of padded blocks of 3×4 patches, mixed, and read by the queries
    ("mhla", ("num_blocks", 4)): lambda n, d, h: (4 * n * d * d, (2 * 48 + 4 * 4) * d * (h + 1)),
    # z₁, z₂, both steps and both products with queries; eight products of two tokens each
    ("ttt", ("conv_head", False)): lambda n, d, h: (4 * n * d * d, 6 * n * d * h + 8 * n * d),
    # the same with a third matrix, and what of the error it passes on; mean and variance of the keys, ten products
    ("ttt_t5", ("qk_conv", 0)): lambda n, d, h: (4 * n * d * d, 9 * n * d * h + 12 * n * d),
    # the mean query, its logits, the weighted keys, the normaliser and the gate; both products of linear attention
    ("rala", ("rotary", False)): lambda n, d, h: (5 * n * d * d, 5 * n * d + 2 * n * d * h),
    ("tssa", ("qkv_bias", True)): lambda n, d, h: (2 * n * d * d, n * HEADS + 3 * n * d),
    ("sep_conv", ("kernel", 7)): lambda n, d, h: (4 * n * d * d + 2 * n * d * 49, 0),
    # both maps; twice as many features; the normaliser
    ("hedgehog", ("qkv_bias", True)): lambda n, d, h: (4 * n * d * d, 6 * n * d * h + 2 * n * d),
    ("neighborhood", ("window", 3)): lambda n, d, h: (4 * n * d * d, 2 * n * 9 * d),
    ("nc_ssd", ("state", 6)): lambda n, d, h: (
        n * d * (d + 12) + n * d * HEADS + n * d * d,
        n * HEADS + 2 * n * d + 2 * n * 6 * d,
    ),
}


@pytest.mark.parametrize(("name", "option"), LINEAR, ids=lambda part: "=".join(map(str, part)))
def test_one_layer_of_a_linear_mechanism(name, option):
    module = get(name)(WIDTH, HEADS, **dict([option]))
    module.set_layout((ROWS, COLUMNS), 0)
    paper, products = LINEAR[name, option](ROWS * COLUMNS, WIDTH, WIDTH // HEADS)
    cost = count(PixelsAsTokens(module), (WIDTH, ROWS, COLUMNS))
    assert (cost.macs_paper, cost.macs) == (paper, paper + products)


def fingerprint(model):
    return (
        {name: (t.device.type, t.dtype, t.clone()) for name, t in model.state_dict(keep_vars=True).items()},
        {name: module.training for name, module in model.named_modules()},
        {name: len(module._forward_hooks) for name, module in model.named_modules()},
        {name: p.requires_grad and p.grad is None for name, p in model.named_parameters()},
    )


def assert_same(before, after):
    assert before[1:] == after[1:]
    assert before[0].keys() == after[0].keys()
    for name, (device, dtype, value) in before[0].items():
        assert (device, dtype) == after[0][name][:2]
        assert torch.equal(value, after[0][name][2])


@pytest.mark.parametrize("training", [True, False])
def test_model_is_unchanged(training):
    model = small_convnet().train(training)
    model[1].train(not training)
    model[6].register_forward_hook(lambda *_: None)
    parameters = {name: id(p) for name, p in model.named_parameters()}
    before = fingerprint(model)
    count(model, 32)
    assert_same(before, fingerprint(model))
    assert {name: id(p) for name, p in model.named_parameters()} == parameters
    assert model(torch.randn(2, 3, 32, 32)).device.type == "cpu"


def test_model_is_unchanged_if_the_count_fails():
    model = small_convnet()
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="channel"):
        count(model, (5, 32, 32))
    assert_same(before, fingerprint(model))


# FLOPs of single operators


class Function(nn.Module):
    """A function of images as a model."""

    def __init__(self, work):
        super().__init__()
        self.work = work

    def forward(self, x):
        return self.work(x)


def macs(work, channels=2, rows=4, columns=8):
    """MACs of `work` on one image [1, C, H, W]."""
    return count(Function(work), (channels, rows, columns)).macs


N = 2 * 4 * 8


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda x: x * x, N),
        (lambda x: x.mul_(x), N),
        (lambda x: x * x[:, :1], N),
        (lambda x: x * 3.0, 0),
        (lambda x: x * torch.tensor(3.0), 0),
        (lambda x: x + x, 0),
        (lambda x: x.exp(), 0),
        (lambda x: torch.nn.functional.avg_pool2d(x, (2, 4)), N),
        (lambda x: torch.nn.functional.avg_pool2d(x, (3, 5), stride=1, padding=(1, 2)), N * 15),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, (2, 2)), N),
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x[0], (2, 2)), N),
        # Windows of 2, 2 and 2 rows that overlap, and of 3, 4 and 3 columns.
        (lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 3), 2 * 6 * 10),
        (lambda x: torch.addcmul(x, x, x), N),
        (lambda x: x.flatten(1)[0].dot(x.flatten()), N),
        (lambda x: x[0, 0].mv(x[0, 0, 0]), 4 * 8),
        (lambda x: torch.addmv(x[0, 0, :, 0], x[0, 0], x[0, 0, 0]), 4 * 8),
        (lambda x: x[0] @ x[0].transpose(1, 2), 2 * 4 * 8 * 4),
    ],
)
def test_only_products_of_tensors_count(work, expected):
    assert macs(work) == expected


def test_complex_product_counts_four_and_mixed_product_two():
    twice = 5 * N * 5  # two transforms of 32 points, 5 n log2 n FLOPs each
    spectrum = lambda x: torch.fft.fft2(torch.complex(x, x))  # noqa: E731
    assert macs(lambda x: spectrum(x) * spectrum(x)) == twice + 4 * N
    assert macs(lambda x: spectrum(x) * x) == twice // 2 + 2 * N


def test_fourier_transforms_count_as_radix_2():
    complex_one = round(2.5 * N * math.log2(4 * 8))
    assert macs(lambda x: torch.fft.fft2(torch.complex(x, x))) == complex_one
    assert macs(torch.fft.rfft2) == complex_one // 2
    assert macs(lambda x: torch.fft.irfft2(torch.fft.rfft2(x))) == complex_one
    assert macs(lambda x: torch.fft.rfft(x, dim=2)) == round(1.25 * N * math.log2(4))
