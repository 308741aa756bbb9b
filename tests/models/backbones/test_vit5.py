"""ViT-5 computes the paper's formula, starts as its authors' does, and loads their weights."""

import pytest
import timm
import torch
import torch.nn.functional as F

from fvit.models import build
from fvit.models.backbones.vit5 import ViT5

SMALL = dict(img_size=(32, 48), patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
HEADS, REGISTERS, GRID = 3, 4, (4, 6)


def small(**options):
    torch.manual_seed(0)
    return timm.create_model("vit5_small_patch16_224", **{**SMALL, **options}).eval()


def with_large_weights(**options):
    model = small(**options)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def images(dtype=torch.float32):
    return torch.randn(2, 3, *SMALL["img_size"], generator=torch.Generator().manual_seed(0)).to(dtype)


def rms_norm(x, weight):
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def rotated(x, rows, columns, base):
    """Neighbouring channels of x [B, N, H, d] as complex numbers, turned by row in the first half, by column after."""
    frequencies = base ** -(torch.arange(x.shape[-1] // 4, dtype=torch.float64) / (x.shape[-1] // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([place.flatten()[:, None, None] * frequencies for place in (row, column)], dim=-1)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


def reference(w, image):
    """The paper's order: class token, patches, registers; the last are rotated on a grid of 2 × 2 with the base 100."""
    patches = F.conv2d(image, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=8)
    x = patches.flatten(2).transpose(1, 2) + w["pos_embed"]
    tokens = len(x)
    x = torch.cat([w["cls_token"].expand(tokens, -1, -1), x, w["reg_token"].expand(tokens, -1, -1)], dim=1)
    for block in range(SMALL["depth"]):
        b = {name.removeprefix(f"blocks.{block}."): t for name, t in w.items() if name.startswith(f"blocks.{block}.")}
        q, k, v = (
            t.unflatten(-1, (HEADS, -1)) for t in (rms_norm(x, b["norm1.weight"]) @ b["attn.qkv.weight"].T).chunk(3, -1)
        )
        q, k = rms_norm(q, b["attn.q_norm.weight"]), rms_norm(k, b["attn.k_norm.weight"])
        q, k = (
            torch.cat(
                [t[:, :1], rotated(t[:, 1:-REGISTERS], *GRID, 10_000), rotated(t[:, -REGISTERS:], 2, 2, 100)], dim=1
            )
            for t in (q, k)
        )
        maps = (torch.einsum("bnhd,bmhd->bhnm", q, k) / q.shape[-1] ** 0.5).softmax(dim=-1)
        out = torch.einsum("bhnm,bmhd->bnhd", maps, v).flatten(2)
        x = x + b["gamma_1"] * F.linear(out, b["attn.proj.weight"], b["attn.proj.bias"])
        hidden = F.gelu(F.linear(rms_norm(x, b["norm2.weight"]), b["mlp.fc1.weight"], b["mlp.fc1.bias"]))
        x = x + b["gamma_2"] * F.linear(hidden, b["mlp.fc2.weight"], b["mlp.fc2.bias"])
    return F.linear(rms_norm(x[:, 0], w["norm.weight"]), w["head.weight"], w["head.bias"])


def test_computes_the_papers_formula():
    model = with_large_weights().double()
    expected = reference(model.state_dict(), images(torch.float64))
    assert expected.std() > 0.1
    # timm computes the rotations in single precision.
    torch.testing.assert_close(model(images(torch.float64)), expected, rtol=1e-6, atol=1e-6)


def test_registers_are_rotated_on_a_grid_of_their_own():
    """Without a rotation, registers could change places without effect."""
    model = with_large_weights()
    before = model(images())
    with torch.no_grad():
        model.reg_token.copy_(model.reg_token[:, [0, 2, 1, 3]])
    assert not torch.allclose(model(images()), before, atol=1e-3)
    model.register_rope.pos_embed = model.register_rope.pos_embed[:1].expand(4, -1)
    unrotated = model(images())
    with torch.no_grad():
        model.reg_token.copy_(model.reg_token[:, [0, 2, 1, 3]])
    torch.testing.assert_close(model(images()), unrotated)


@pytest.mark.parametrize(
    ("size", "parameters"),
    [("small", 22_039_144), ("base", 86_543_080), ("large", 304_258_024), ("xlarge", 448_505_128)],
)
def test_has_as_many_parameters_as_the_authors_code(size, parameters):
    with torch.device("meta"):
        model = timm.create_model(f"vit5_{size}_patch16_224")
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_starts_as_the_authors_does():
    model = small(embed_dim=96)
    assert all((block.gamma_1 == 1e-4).all() and (block.gamma_2 == 1e-4).all() for block in model.blocks)
    scaled_by_depth = [block.attn.proj.weight.std().item() for block in model.blocks]
    assert [*scaled_by_depth, model.head.weight.std().item()] == pytest.approx([0.02] * 4, rel=0.1)


def test_exchanged_attention_starts_as_the_authors_does():
    model = build("vit5_small_patch16_224", attention="linear", qk_norm=False, **{**SMALL, "embed_dim": 96})
    assert [block.attn.mechanism.proj.weight.std().item() for block in model.blocks] == pytest.approx(
        [0.02] * 3, rel=0.1
    )


def test_dropped_patches_leave_the_rotation_of_the_others():
    """All registers stay, and each patch keeps its place."""
    model = small(patch_drop_rate=0.5)
    patches = model.patch_embed(images())
    whole = model._pos_embed(patches)[1]
    x, rope = model.train()._pos_embed(patches)
    assert rope.shape[:3] == (2, 1, x.shape[1] - 1) == (2, 1, REGISTERS + 12)
    for image in range(2):
        assert torch.equal(rope[image, 0, :REGISTERS], whole[:REGISTERS])
        at = [(patches + model.pos_embed)[image].eq(token).all(dim=-1).nonzero().item() for token in x[image, 5:]]
        assert torch.equal(rope[image, 0, REGISTERS:], whole[REGISTERS:][at])


def test_loads_weights_as_the_authors_save_them(tmp_path):
    model = with_large_weights()
    tables = {f"blocks.{block}.attn.{rope}.freqs": torch.ones(2) for block in range(3) for rope in ("rope", "rope_reg")}
    torch.save({"model": {**model.state_dict(), **tables}, "epoch": 799}, tmp_path / "vit5.pth")
    overlay = {"file": str(tmp_path / "vit5.pth"), "num_classes": 5}
    loaded = build("vit5_small_patch16_224", pretrained=True, pretrained_cfg_overlay=overlay, **SMALL).eval()
    assert torch.equal(loaded(images()), model(images()))


@pytest.mark.parametrize(("registers", "near"), [(3, "1 or 4"), (8, "4 or 9")])
def test_registers_that_fill_no_square_grid_are_refused(registers, near):
    with pytest.raises(ValueError, match=f"num_reg_tokens={registers} must be a square.*use {near}"):
        ViT5(**SMALL, num_reg_tokens=registers)
