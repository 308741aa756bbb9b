"""Loss weights over a run, and token matching, against a step-by-step computation."""

import copy

import pytest
import torch
from timm.models import create_model
from torch import nn

from fvit.models import build
from fvit.training.distillation import LossWeight, Tap, TokenMatch
from fvit.training.losses import token_loss

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(2, 3, 32, 32, generator=GENERATOR)


# Weights


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0.0: 0, 0.1: 0, 0.2: 4, 0.5: 4, 0.7: 4, 0.8: 0, 1.0: 0}),
        ("linear", {0.0: 0, 0.1: 0, 0.2: 4, 0.35: 3, 0.5: 2, 0.65: 1, 0.8: 0, 1.0: 0}),
        ("cosine", {0.0: 0, 0.1: 0, 0.2: 4, 0.4: 3, 0.5: 2, 0.6: 1, 0.8: 0, 1.0: 0}),
    ],
)
def test_weight_follows_its_schedule(schedule, expected):
    weight = LossWeight(4.0, schedule, 0.2, 0.8)
    assert [weight(share) for share in expected] == pytest.approx(list(expected.values()), abs=1e-9)


def test_weight_prints_what_differs_from_a_constant_one():
    assert LossWeight(0.5, "constant", 0.0, 1.0)(0.999) == 0.5
    assert str(LossWeight(0.5, "constant", 0.0, 1.0)) == "0.5"
    assert str(LossWeight(2.0, "linear", 0.0, 0.5)) == "2 linear from 0% to 50%"


def test_weight_pops_its_own_options():
    options = {"weight": 1.0, "schedule": "cosine", "start": 0.0, "end": 0.5, "temperature": 3.0}
    assert LossWeight.pop_from(options) == LossWeight(1.0, "cosine", 0.0, 0.5)
    assert options == {"temperature": 3.0}


# Tokens


def vit(attention="softmax", depth=2, **options):
    shape = {"embed_dim": 24, "num_heads": 3, "patch_size": 8, "depth": depth, **options}
    return build("vit_tiny_patch16_224", 32, 10, attention, **shape)


def tokens(model, place):
    """Tokens at a place of a model, computed step by step as in timm's blocks."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(IMAGES))))
    found = []
    for block in model.blocks:
        attention = block.attn(block.norm1(x))
        x = x + attention
        x = x + block.mlp(block.norm2(x))
        found.append(attention if place == "attention" else x)
    return [model.norm(x)] if place == "final" else found


def compare(match, student, teacher):
    with match:
        student(IMAGES)
        with torch.no_grad():
            teacher(IMAGES)
        return match()


@pytest.mark.parametrize("distance", ["mse", "cosine"])
@pytest.mark.parametrize("place", ["attention", "blocks", "final"])
def test_loss_is_averaged_over_the_tokens_of_all_places(place, distance):
    student, teacher = vit("additive"), vit()
    losses = [token_loss(a, b, distance) for a, b in zip(tokens(student, place), tokens(teacher, place), strict=True)]
    match = TokenMatch(student, teacher, place, distance)
    loss = compare(match, student, teacher)
    assert not match.state_dict()
    assert loss.item() == pytest.approx(sum(losses).item() / len(losses), rel=1e-5)
    loss.backward()
    reached = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert "blocks.0.attn.q.weight" in reached
    assert ("blocks.1.mlp.fc2.weight" in reached) == (place != "attention")
    assert "head.weight" not in reached
    assert all(p.grad is None for p in teacher.parameters())


def test_blocks_are_paired_by_the_map():
    student, teacher = vit("additive", depth=2), vit(depth=4)
    pairs = zip(tokens(student, "attention"), [tokens(teacher, "attention")[i] for i in (3, 0)], strict=True)
    expected = [token_loss(a, b, "mse").item() for a, b in pairs]
    loss = compare(TokenMatch(student, teacher, "attention", "mse", [3, 0]), student, teacher)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)


@pytest.mark.parametrize(("place", "count"), [("attention", 2), ("blocks", 2), ("final", 1)])
def test_different_widths_are_compared_through_projectors(place, count):
    student, teacher = vit("additive", embed_dim=12), vit(embed_dim=36)
    match = TokenMatch(student, teacher, place, "mse")
    assert [tuple(p.weight.shape) for p in match.projectors] == [(36, 12)] * count
    mine = [projector(t) for projector, t in zip(match.projectors, tokens(student, place), strict=True)]
    expected = [token_loss(a, b, "mse").item() for a, b in zip(mine, tokens(teacher, place), strict=True)]
    loss = compare(match, student, teacher)
    assert loss.item() == pytest.approx(sum(expected) / count, rel=1e-5)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in match.parameters())


@pytest.mark.parametrize(
    ("prefix", "mine", "theirs"),
    [
        ({"class_token": True, "global_pool": "token"}, 1, 3),
        ({"class_token": False, "global_pool": "avg"}, 0, 3),
        ({"class_token": True, "global_pool": "token", "reg_tokens": 2}, 0, 0),
    ],
    ids=["fewer", "none", "as many"],
)
def test_prefix_tokens_are_compared_if_both_have_the_same(prefix, mine, theirs):
    student, teacher = vit("additive", **prefix), vit(class_token=True, global_pool="token", reg_tokens=2)
    pairs = zip(tokens(student, "blocks"), tokens(teacher, "blocks"), strict=True)
    expected = [token_loss(a[:, mine:], b[:, theirs:], "mse").item() for a, b in pairs]
    loss = compare(TokenMatch(student, teacher, "blocks", "mse"), student, teacher)
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)


def test_tap_records_only_while_it_is_open():
    layer = nn.Linear(3, 3)
    tap = Tap([layer])
    layer(torch.zeros(1, 3))
    assert tap.outputs == [None]
    tap.open = True
    output = layer(torch.ones(1, 3))
    assert tap.outputs[0] is output
    tap.close()
    layer(torch.ones(1, 3))
    assert tap.outputs == [None]


def test_copy_of_the_student_has_its_own_tap():
    student, teacher = vit(), vit()
    pair = nn.ModuleList([student, TokenMatch(student, teacher, "attention", "mse")])
    twin = copy.deepcopy(pair)
    with pair[1]:
        twin[0](IMAGES)
        assert pair[1].student.outputs == [None, None]


@pytest.mark.parametrize("place", ["attention", "blocks"])
def test_different_depths_need_a_map(place):
    key = {"attention": "attention", "blocks": "features"}[place]
    with pytest.raises(ValueError, match=rf"2 blocks and the teacher 6; .*distillation\.{key}\.blocks=\[2,5\]"):
        TokenMatch(vit(), vit(depth=6), place, "mse")
    TokenMatch(vit(), vit(depth=6), "final", "mse")


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([0], r"distillation\.attention\.blocks=\[0\] names 1 blocks of the teacher, and the student has 2"),
        ([0, 4], r"distillation\.attention\.blocks names \[4\], and the teacher has blocks 0 to 3"),
    ],
)
def test_invalid_map_is_rejected(blocks, message):
    with pytest.raises(ValueError, match=message):
        TokenMatch(vit(), vit(depth=4), "attention", "mse", blocks)


def test_models_without_such_tokens_are_rejected():
    resnet = create_model("test_resnet", num_classes=10)
    message = r"the tokens of the {} cannot be matched: ResNet has .*distillation=deit_soft or deit_hard"
    with pytest.raises(ValueError, match=message.format("teacher")):
        TokenMatch(vit(), resnet, "attention", "mse")
    with pytest.raises(ValueError, match=message.format("student")):
        TokenMatch(resnet, vit(), "final", "mse")


@pytest.mark.parametrize("place", ["attention", "blocks", "final"])
def test_stages_of_different_widths_have_their_own_projectors(place):
    """In Swin, attention sees windows, and each stage has another width."""
    shape = {"img_size": 32, "patch_size": 2, "window_size": 4, "depths": (1, 2), "num_heads": (2, 4)}
    student = create_model("swin_tiny_patch4_window7_224", embed_dim=12, num_classes=10, **shape)
    teacher = create_model("swin_tiny_patch4_window7_224", embed_dim=16, num_classes=10, **shape)
    match = TokenMatch(student, teacher, place, "mse")
    widths = [(12, 16), (24, 32), (24, 32)][-1 if place == "final" else 0 :]
    assert [(p.in_features, p.out_features) for p in match.projectors] == widths
    loss = compare(match, student, teacher)
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in match.parameters())


def test_different_grids_are_rejected():
    with pytest.raises(ValueError, match="the student sees 2 × 2 patches and the teacher 4 × 4"):
        TokenMatch(vit(patch_size=16), vit(), "final", "mse")
