"""Weights shaped by the number of tokens: sized by the first layout, resampled by later ones and by checkpoints."""

import copy
import math
import pickle
from typing import ClassVar

import pytest
import torch
from timm.layers import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from fvit.attention import get
from fvit.attention.fixed_length import FixedLength, TokenLayout, resample_tokens
from fvit.models import exchange

from .cases import CASES, FULL, PATHS
from .suite import HEADS, WIDTH, build, over, tokens_of

KEYS_OF_KINDS = ("aft_full", "synthesizer")  # different options have different parameters shaped by the tokens


def has_fixed_length(case):
    return get(case.key).fixed_length


fixed_length = over([c for c in CASES if c in FULL or (c in PATHS and c.key in KEYS_OF_KINDS)], has_fixed_length)

SMALL, LARGE = TokenLayout(8, 6, 2), TokenLayout(12, 9, 2)


def smooth(layout):
    """A smooth function on the unit square, sampled at the patches; 3 for prefix tokens."""
    down = (torch.arange(layout.rows, dtype=torch.float64)[:, None] + 0.5) / layout.rows
    right = (torch.arange(layout.columns, dtype=torch.float64) + 0.5) / layout.columns
    patches = torch.cos(math.pi * down) + torch.cos(2 * math.pi * right) / 2 + down * right
    return torch.cat([torch.full((layout.prefix,), 3.0, dtype=torch.float64), patches.flatten()])


# One axis of one tensor


@pytest.mark.parametrize("new", [LARGE, TokenLayout(9, 7, 2), TokenLayout(6, 8, 2)], ids=str)
def test_smooth_weights_are_interpolated_accurately_both_ways(new):
    """Within 2 % of the largest: bicubic interpolation is less accurate at the border."""
    weights = smooth(SMALL)
    resampled = resample_tokens(weights, 0, SMALL, new)
    assert (resampled - smooth(new)).abs().max() < 0.02 * weights.abs().max()
    assert (resample_tokens(resampled, 0, new, SMALL) - weights).abs().max() < 0.02 * weights.abs().max()


@pytest.mark.parametrize("new", [LARGE, TokenLayout(3, 11, 2), TokenLayout(1, 1, 2)], ids=str)
def test_constant_weights_stay_constant(new):
    weights = torch.full((SMALL.tokens, 3), 0.7, dtype=torch.float64)
    expected = torch.full((new.tokens, 3), 0.7, dtype=torch.float64)
    torch.testing.assert_close(resample_tokens(weights, 0, SMALL, new), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("new", [LARGE, TokenLayout(6, 8, 2), TokenLayout(4, 3, 2)], ids=str)
def test_keep_sum_preserves_the_sum(new):
    """Within 4 % of the sum of magnitudes, which resampling alone would change by 125, 0 and 75 %."""
    weights = smooth(SMALL)
    resampled = resample_tokens(weights, 0, SMALL, new, keep_sum=True)
    assert abs(resampled[2:].sum() - weights[2:].sum()) < 0.04 * weights[2:].abs().sum()
    assert torch.equal(resampled[:2], weights[:2])


def test_rows_are_not_mistaken_for_columns():
    by_row = torch.arange(8.0).repeat_interleave(6)
    resampled = resample_tokens(by_row, 0, TokenLayout(8, 6, 0), TokenLayout(10, 9, 0)).view(10, 9)
    torch.testing.assert_close(resampled, resampled[:, :1].expand(10, 9))
    assert (resampled[1:] > resampled[:-1]).all()


@pytest.mark.parametrize("rows", [9, 3])
def test_a_grid_of_one_column_is_resampled_as_one_of_one_row(rows):
    """torch 2.14's antialiased interpolation of a single column returns its first value everywhere."""
    weights = smooth(TokenLayout(5, 1, 2))
    lying = resample_tokens(weights, 0, TokenLayout(1, 5, 2), TokenLayout(1, rows, 2))
    assert lying[2:].unique().numel() == rows
    assert torch.equal(resample_tokens(weights, 0, TokenLayout(5, 1, 2), TokenLayout(rows, 1, 2)), lying)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_can_run_over_the_tokens(axis):
    weights = torch.randn(4, 5, 3).movedim(axis, 0)[:1].expand(SMALL.tokens, -1, -1).movedim(0, axis)
    resampled = resample_tokens(weights, axis, SMALL, LARGE)
    assert resampled.shape[axis] == LARGE.tokens
    torch.testing.assert_close(resampled.select(axis, 5), weights.select(axis, 5))


def test_weights_of_prefix_tokens_are_copied_or_dropped():
    weights = torch.randn(SMALL.tokens)
    assert torch.equal(resample_tokens(weights, 0, SMALL, LARGE)[:2], weights[:2])
    fewer = resample_tokens(weights, 0, SMALL, TokenLayout(8, 6, 1))
    assert torch.equal(fewer, torch.cat([weights[:1], weights[2:]]))


def test_more_prefix_tokens_are_refused():
    with pytest.raises(ValueError, match="weights for 2 prefix tokens cannot be resampled to 5; build the model with"):
        resample_tokens(torch.zeros(SMALL.tokens), 0, SMALL, TokenLayout(8, 6, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_resampling_keeps_the_dtype(dtype):
    assert resample_tokens(torch.ones(SMALL.tokens, dtype=dtype), 0, SMALL, LARGE).dtype == dtype


# A mechanism


class Toy(FixedLength):
    """One tensor of each kind."""

    token_axes: ClassVar = {
        "between.weight": (0, 1),
        "between.bias": (0,),
        "rows": (1,),
        "columns": (0,),
        "frozen": (0,),
    }
    summed_axes: ClassVar = {"between.weight": (1,)}

    def __init__(self, dim, num_heads=1, **host):
        super().__init__(dim, num_heads, **host)
        self.between = nn.Linear(1, 1)
        self.rows = nn.Parameter(torch.empty(3, 1))
        self.columns = nn.Parameter(torch.empty(1, 2))
        self.register_buffer("frozen", torch.empty(1))

    def part(self, name, layout):
        return {"rows": TokenLayout(layout.rows, 1, layout.prefix), "columns": TokenLayout(1, layout.columns, 0)}.get(
            name, layout
        )


def test_the_first_layout_sizes_and_initialises():
    toy = Toy(4)
    toy.set_layout((5, 7), 2)
    shapes = {name: tuple(tensor.shape) for name, tensor in toy.state_dict().items()}
    assert shapes == {
        "between.weight": (37, 37),
        "between.bias": (37,),
        "rows": (3, 7),
        "columns": (7, 2),
        "frozen": (37,),
        "_extra_state": (3,),
    }
    assert (toy.between.in_features, toy.between.out_features) == (37, 37)
    assert not toy.between.bias.any()
    assert 0.018 < toy.between.weight.std() < 0.022


def test_a_new_layout_resamples_each_tensor_along_its_axes():
    toy = Toy(4)
    toy.set_layout((5, 7), 2)
    with torch.no_grad():
        toy.between.weight.fill_(1)
        toy.rows.copy_(torch.arange(7.0))
    toy.set_layout((10, 14), 2)
    assert (toy.between.in_features, toy.between.out_features) == (142, 142)
    assert toy.rows[0, :2].tolist() == [0, 1]
    assert (toy.rows.shape, toy.columns.shape, toy.frozen.shape) == ((3, 12), (14, 2), (142,))
    # Four times as many patches have a quarter of the weight each; the prefix tokens keep theirs.
    torch.testing.assert_close(toy.between.weight[:, 2:], torch.full((142, 140), 0.25))
    torch.testing.assert_close(toy.between.weight[:, :2], torch.ones(142, 2))


def test_the_same_layout_again_changes_only_the_block_index():
    toy = Toy(4)
    toy.set_layout((5, 7), 2)
    data, before = toy.rows.data_ptr(), copy.deepcopy(toy.state_dict())
    toy.set_layout((5, 7), 2, block_index=3)
    assert toy.rows.data_ptr() == data
    assert toy.block_index == 3
    torch.testing.assert_close(toy.state_dict(), before, rtol=0, atol=0)


def test_a_refused_layout_leaves_the_mechanism_unchanged():
    toy = Toy(4)
    toy.set_layout((5, 7), 1)
    before = copy.deepcopy(toy.state_dict())
    with pytest.raises(ValueError, match="cannot be resampled to 2"):
        toy.set_layout((6, 8), 2)
    assert (toy.grid_size, toy.num_prefix_tokens) == ((5, 7), 1)
    torch.testing.assert_close(toy.state_dict(), before, rtol=0, atol=0)


# Every mechanism of fixed length


def resized(module, grid, prefix=1):
    twin = copy.deepcopy(module)
    twin.set_layout(grid, prefix)
    return twin


@fixed_length
def test_another_number_of_tokens_is_refused(case):
    module = get(case.key)(WIDTH, HEADS, dtype=torch.float64, **case.options)
    with pytest.raises(ValueError, match=r"got 7 tokens, but no layout is set; call set_layout"):
        module(torch.zeros(1, 7, WIDTH, dtype=torch.float64))
    module.set_layout((2, 3), 1)
    for tokens in (1, 6, 8):
        with pytest.raises(ValueError, match=rf"got {tokens} tokens, but the layout has 7; call set_layout"):
            module(torch.zeros(1, tokens, WIDTH, dtype=torch.float64))


@fixed_length
def test_a_new_layout_changes_parameters_in_place_and_drops_their_gradients(case):
    module = build(case, grid=(2, 3))
    module(tokens_of(module).requires_grad_()).sum().backward()
    before = dict(module.named_parameters())
    module.set_layout((4, 5), 1)
    assert dict(module.named_parameters()).keys() == before.keys()
    assert all(parameter is before[name] for name, parameter in module.named_parameters())
    assert all(parameter.grad is None or parameter.grad.shape == parameter.shape for parameter in before.values())
    x = tokens_of(module).requires_grad_()
    assert module(x).shape == x.shape
    module(x).sum().backward()


@fixed_length
def test_more_copies_of_one_patch_give_the_same_output(case):
    """What is summed over tokens keeps its sum, and what is averaged its values."""
    module = build(case, grid=(1, 1), prefix=0)
    token = tokens_of(module)
    expected = module(token)
    for grid in ((4, 5), (8, 10)):
        module.set_layout(grid, 0)
        tokens = token.expand(-1, grid[0] * grid[1], -1)
        torch.testing.assert_close(module(tokens), expected.expand_as(tokens), rtol=1e-5, atol=1e-5)


@fixed_length
def test_a_copy_is_resized_independently(case):
    module = build(case, grid=(2, 3))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.layout == module.layout == TokenLayout(2, 3, 1)
        twin.set_layout((4, 6), 1)
        assert module.layout == TokenLayout(2, 3, 1)
        assert module(tokens_of(module)).shape == (2, 7, WIDTH)
        assert twin(tokens_of(twin)).shape == (2, 25, WIDTH)


@fixed_length
def test_weights_of_another_layout_are_resampled_as_they_are_loaded(case):
    module, other = build(case, grid=(2, 3)), build(case, grid=(4, 5), seed=1)
    saved = module.state_dict()
    untouched = {name: (tensor, tensor.clone()) for name, tensor in saved.items()}
    other.load_state_dict(saved)
    x = tokens_of(other)
    assert torch.equal(other(x), resized(module, (4, 5))(x))
    # The caller's dict and its tensors are unchanged.
    assert saved.keys() == untouched.keys()
    for name, (tensor, values) in untouched.items():
        assert saved[name] is tensor
        assert torch.equal(tensor, values)


@fixed_length
def test_weights_set_the_layout_of_a_mechanism_without_one(case):
    module = build(case, grid=(2, 3))
    fresh = get(case.key)(WIDTH, HEADS, dtype=torch.float64, **case.options)
    fresh.load_state_dict(module.state_dict())
    assert fresh.layout == TokenLayout(2, 3, 1)
    x = tokens_of(module)
    assert torch.equal(fresh(x), module(x))


@fixed_length
def test_weights_with_too_few_prefix_tokens_are_refused(case):
    """Unless prefix tokens have no weights of their own."""
    module, other = build(case, prefix=0), build(case, prefix=1)
    if all(tensor.shape == module.state_dict()[name].shape for name, tensor in other.state_dict().items()):
        other.load_state_dict(module.state_dict())
        x = tokens_of(other)
        torch.testing.assert_close(other(x)[:, 1:], module(x[:, 1:]))
        return
    with pytest.raises(ValueError, match="0 prefix tokens cannot be resampled to 1"):
        other.load_state_dict(module.state_dict())


@fixed_length
def test_layouts_can_be_set_on_the_meta_device_and_in_bfloat16(case):
    short = build(case, grid=(2, 3), dtype=torch.bfloat16)
    short.set_layout((5, 4), 1)
    assert {tensor.dtype for tensor in [*short.parameters(), *short.buffers()]} == {torch.bfloat16}
    module = build(case, grid=(4, 5))
    empty = get(case.key)(WIDTH, HEADS, device="meta", dtype=torch.float64, **case.options)
    empty.set_layout((2, 3), 1)
    empty.set_layout((4, 5), 1)
    assert {tensor.device.type for tensor in [*empty.parameters(), *empty.buffers()]} == {"meta"}
    empty.load_state_dict(module.state_dict(), assign=True)
    x = tokens_of(module)
    assert torch.equal(empty(x), module(x))


@over(FULL, lambda case: case.key in ("gfnet", "random", "synthesizer"))
def test_averaged_models_follow(case):
    """torch's AveragedModel, which Lightning's EMA uses, and timm's."""
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH, dtype=torch.float64), build(case, grid=(2, 3)))
    averages = [AveragedModel(model, use_buffers=True), ModelEmaV3(model, decay=0.5)]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    for average in averages:
        (average.update_parameters if isinstance(average, AveragedModel) else average.update)(model)
        averaged = average.module[1]
        averaged.set_layout((4, 5), 1)
        restored = build(case, grid=(4, 5), seed=1)
        restored.load_state_dict(averaged.state_dict())
        x = tokens_of(restored)
        assert torch.equal(averaged(x), restored(x))


# Inside a model


PREFIXES = {"class token": dict(reg_tokens=4), "patches only": dict(class_token=False, global_pool="avg")}


def model_with(case, size, prefix="class token"):
    torch.manual_seed(0)
    options = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, mlp_ratio=1.0)
    # The head cannot read a class token that receives no information.
    pool = {} if get(case.key).reaches_prefix else {"global_pool": "avg"}
    model = VisionTransformer(img_size=size, **{**options, **PREFIXES[prefix], **pool})
    return exchange(model, {"name": case.key, **case.options})


def train(model, size, steps=2):
    """A few steps, after which no weight has its initial value."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
        optimizer.step()
    return model


@over(FULL, has_fixed_length)
def test_a_trained_model_takes_another_image_size_either_way(case):
    """By `set_input_size` and through a checkpoint, with the same result; and continues to train."""
    small, large = (32, 48), (64, 40)
    prefix = list(PREFIXES)[FULL.index(case) % 2]
    model = train(model_with(case, small, prefix), small)
    weights = copy.deepcopy(model.state_dict())
    model.set_input_size(large)
    loaded = model_with(case, large, prefix)
    # timm resamples its position embedding separately.
    weights["pos_embed"] = resample_abs_pos_embed(
        weights["pos_embed"], new_size=[8, 5], old_size=[4, 6], num_prefix_tokens=loaded.num_prefix_tokens
    )
    loaded.load_state_dict(weights)
    images = torch.randn(2, 3, *large, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(loaded.eval()(images), model.eval()(images), rtol=1e-5, atol=1e-5)
    for block, twin in zip(model.blocks, loaded.blocks, strict=True):
        torch.testing.assert_close(twin.attn.state_dict(), block.attn.state_dict(), rtol=0, atol=0)
    train(model.train(), large)


@fixed_length
def test_weights_are_initialised_at_their_final_size(case):
    """timm initialises Linears itself; what depends on their width must not be drawn for one token."""
    torch.manual_seed(1)
    alone = get(case.key)(24, 3, **case.options)
    alone.set_layout((8, 8), 5)
    for block in model_with(case, (64, 64)).blocks:
        for name in alone.token_axes:
            inside, outside = block.attn.state_dict()[name], alone.state_dict()[name]
            assert inside.shape == outside.shape
            torch.testing.assert_close(inside.std(), outside.std(), rtol=0.2, atol=0)
            torch.testing.assert_close(inside.mean(), outside.mean(), rtol=0.1, atol=0.4 * outside.std().item())
