"""Comparisons are fair: an exchange changes the attention and nothing else of what is computed."""

import pytest
import torch

from fvit.attention import get, names
from fvit.cost import count
from fvit.models import build
from tests.models.small import REPRESENTATIVES, SMALL, images

POOLING = {
    "class token": dict(class_token=True, global_pool="token"),
    "average": dict(class_token=False, global_pool="avg"),
}


@pytest.mark.parametrize("pooling", POOLING)
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", pytest.param("deit3_small_patch16_224", marks=pytest.mark.slow)]
)
def test_softmax_attention_costs_what_timms_own_costs(name, pooling):
    with torch.device("meta"):
        native, softmax = (build(name, 224, 1000, attention, **POOLING[pooling]) for attention in (None, "softmax"))
    assert count(native, 224) == count(softmax, 224)


@pytest.mark.parametrize(
    ("attention", "pooling"),
    [
        *(
            (attention, "class token")
            for attention in (None, *names())
            if not attention or get(attention).reaches_prefix
        ),
        *((attention, "average") for attention in (None, *REPRESENTATIVES)),
    ],
)
def test_last_block_computes_all_tokens(attention, pooling):
    torch.manual_seed(0)
    options = {**SMALL, **POOLING[pooling]}
    size, classes = options.pop("img_size"), options.pop("num_classes")
    model = build("vit_tiny_patch16_224", size, classes, attention, **options).eval()
    block, seen = model.blocks[-1], {}
    for part, module in (("block", block), ("attn", block.attn), ("mlp", block.mlp)):
        module.register_forward_hook(lambda module, args, out, part=part: seen.update({part: (args[0], out)}))
    model(images())
    tokens = 16 + model.num_prefix_tokens
    assert {part: out.shape for part, (_, out) in seen.items()} == dict.fromkeys(seen, (2, tokens, 24))
    x, out = seen["block"]
    after_attention = x + block.attn(block.norm1(x))
    torch.testing.assert_close(out, after_attention + block.mlp(block.norm2(after_attention)))
