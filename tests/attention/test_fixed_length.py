"""Weights shaped by the tokens: given their size by the first layout, resampled by later ones and by checkpoints."""

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
from fvit.attention.fixed_length import FixedLength, Layout, resample_tokens
from fvit.models import exchange

from .suite import HEADS, WIDTH, build, cases_where, tokens_of

fixed_length = cases_where(lambda case: get(case.key).fixed_length)

SMALL, LARGE = Layout(8, 6, 2), Layout(12, 9, 2)


def smooth(layout):
    """A function on the unit square that does not vary fast, read off at the patches; 3 for prefix tokens."""
    down = (torch.arange(layout.rows, dtype=torch.float64)[:, None] + 0.5) / layout.rows
    right = (torch.arange(layout.columns, dtype=torch.float64) + 0.5) / layout.columns
    patches = torch.cos(math.pi * down) + torch.cos(2 * math.pi * right) / 2 + down * right
    return torch.cat([torch.full((layout.prefix,), 3.0, dtype=torch.float64), patches.flatten()])


# One axis of one tensor


@pytest.mark.parametrize("new", [LARGE, Layout(9, 7, 2), Layout(6, 8, 2)], ids=str)
def test_smooth_weights_become_what_they_are_elsewhere_and_come_back(new):
    """Within 2 % of the largest: bicubic interpolation takes the border for flat, and that is where it errs."""
    weights = smooth(SMALL)
    resampled = resample_tokens(weights, 0, SMALL, new)
    assert (resampled - smooth(new)).abs().max() < 0.02 * weights.abs().max()
    assert (resample_tokens(resampled, 0, new, SMALL) - weights).abs().max() < 0.02 * weights.abs().max()


def test_far_from_the_border_smooth_weights_come_back_almost_exactly():
    small, large = Layout(16, 16, 0), Layout(32, 32, 0)
    back = resample_tokens(resample_tokens(smooth(small), 0, small, large), 0, large, small)
    inside = (back - smooth(small)).view(16, 16)[3:-3, 3:-3]
    assert inside.abs().max() < 1e-3 * smooth(small).abs().max()


@pytest.mark.parametrize("new", [LARGE, Layout(3, 11, 2), Layout(1, 1, 2)], ids=str)
def test_constant_weights_stay_constant(new):
    weights = torch.full((SMALL.tokens, 3), 0.7, dtype=torch.float64)
    expected = torch.full((new.tokens, 3), 0.7, dtype=torch.float64)
    torch.testing.assert_close(resample_tokens(weights, 0, SMALL, new), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("new", [LARGE, Layout(6, 8, 2), Layout(4, 3, 2)], ids=str)
def test_the_sum_is_kept_where_it_is_asked_for(new):
    """To 4 % of the sum of the magnitudes, which a plain resampling would change by 125, 0 and 75 %."""
    weights = smooth(SMALL)
    resampled = resample_tokens(weights, 0, SMALL, new, keep_sum=True)
    assert abs(resampled[2:].sum() - weights[2:].sum()) < 0.04 * weights[2:].abs().sum()
    assert torch.equal(resampled[:2], weights[:2])


def test_rows_are_not_taken_for_columns():
    by_row = torch.arange(8.0).repeat_interleave(6)
    resampled = resample_tokens(by_row, 0, Layout(8, 6, 0), Layout(10, 9, 0)).view(10, 9)
    torch.testing.assert_close(resampled, resampled[:, :1].expand(10, 9))
    assert (resampled[1:] > resampled[:-1]).all()


@pytest.mark.parametrize("rows", [9, 3])
def test_a_grid_of_one_column_is_resampled_as_one_of_one_row(rows):
    """By itself, torch 2.14's antialiased interpolation gives the first value in all rows of a single column."""
    weights = smooth(Layout(5, 1, 2))
    lying = resample_tokens(weights, 0, Layout(1, 5, 2), Layout(1, rows, 2))
    assert lying[2:].unique().numel() == rows
    assert torch.equal(resample_tokens(weights, 0, Layout(5, 1, 2), Layout(rows, 1, 2)), lying)


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_any_axis_can_run_over_the_tokens(axis):
    weights = torch.randn(4, 5, 3).movedim(axis, 0)[:1].expand(SMALL.tokens, -1, -1).movedim(0, axis)
    resampled = resample_tokens(weights, axis, SMALL, LARGE)
    assert resampled.shape[axis] == LARGE.tokens
    torch.testing.assert_close(resampled.select(axis, 5), weights.select(axis, 5))


def test_prefix_tokens_keep_their_weights_and_may_become_fewer():
    weights = torch.randn(SMALL.tokens)
    assert torch.equal(resample_tokens(weights, 0, SMALL, LARGE)[:2], weights[:2])
    fewer = resample_tokens(weights, 0, SMALL, Layout(8, 6, 1))
    assert torch.equal(fewer, torch.cat([weights[:1], weights[2:]]))


def test_more_prefix_tokens_than_were_learned_are_refused():
    with pytest.raises(ValueError, match="learned with 2 prefix tokens cannot serve 5; build the model with as many"):
        resample_tokens(torch.zeros(SMALL.tokens), 0, SMALL, Layout(8, 6, 5))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_resampling_keeps_the_dtype(dtype):
    assert resample_tokens(torch.ones(SMALL.tokens, dtype=dtype), 0, SMALL, LARGE).dtype == dtype


# A mechanism


class Toy(FixedLength):
    """One tensor of each sort."""

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
        return {"rows": Layout(layout.rows, 1, layout.prefix), "columns": Layout(1, layout.columns, 0)}.get(
            name, layout
        )


def test_the_first_layout_shapes_and_initialises():
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
    # Twice as many rows and columns, each patch with a quarter of the weight; the prefix with all of it.
    torch.testing.assert_close(toy.between.weight[:, 2:], torch.full((142, 140), 0.25))
    torch.testing.assert_close(toy.between.weight[:, :2], torch.ones(142, 2))


def test_the_same_layout_again_changes_nothing_but_the_index_of_the_block():
    toy = Toy(4)
    toy.set_layout((5, 7), 2)
    data, before = toy.rows.data_ptr(), copy.deepcopy(toy.state_dict())
    toy.set_layout((5, 7), 2, block_index=3)
    assert toy.rows.data_ptr() == data
    assert toy.block_index == 3
    torch.testing.assert_close(toy.state_dict(), before, rtol=0, atol=0)


def test_a_refused_layout_leaves_the_mechanism_as_it_was():
    toy = Toy(4)
    toy.set_layout((5, 7), 1)
    before = copy.deepcopy(toy.state_dict())
    with pytest.raises(ValueError, match="cannot serve 2"):
        toy.set_layout((6, 8), 2)
    assert (toy.grid_size, toy.num_prefix_tokens) == ((5, 7), 1)
    torch.testing.assert_close(toy.state_dict(), before, rtol=0, atol=0)


# Every mechanism of fixed length


def resized(module, grid, prefix=1):
    twin = copy.deepcopy(module)
    twin.set_layout(grid, prefix)
    return twin


@fixed_length
def test_forward_before_any_layout_is_refused(case):
    module = get(case.key)(WIDTH, HEADS, **case.options)
    with pytest.raises(ValueError, match=r"got 7 tokens where set_layout told of no layout; call set_layout"):
        module(torch.zeros(1, 7, WIDTH))


@fixed_length
@pytest.mark.parametrize("tokens", [1, 6, 8])
def test_another_number_of_tokens_is_refused(case, tokens):
    module = build(case, grid=(2, 3))
    with pytest.raises(ValueError, match=rf"got {tokens} tokens where set_layout told of 7 tokens"):
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
@pytest.mark.parametrize("grid", [(6, 8), (7, 5)], ids=str)
def test_equal_weights_come_back_from_another_layout(case, grid):
    module = build(case, grid=(3, 4), std=0)
    for tensor in [*module.parameters(), *module.buffers()]:
        tensor.data.fill_(0.3)
    twin = resized(resized(module, grid), (3, 4))
    torch.testing.assert_close(twin.state_dict(), module.state_dict(), rtol=1e-5, atol=1e-6)


@fixed_length
def test_the_same_patch_more_often_means_the_same(case):
    """Whatever is summed over the tokens keeps its sum, and whatever is averaged its size."""
    module = build(case, grid=(1, 1), prefix=0)
    token = tokens_of(module)
    expected = module(token)
    for grid in ((4, 5), (8, 10)):
        module.set_layout(grid, 0)
        tokens = token.expand(-1, grid[0] * grid[1], -1)
        torch.testing.assert_close(module(tokens), expected.expand_as(tokens), rtol=1e-5, atol=1e-5)


@fixed_length
def test_a_copy_is_resized_by_itself(case):
    module = build(case, grid=(2, 3))
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert twin.layout == module.layout == Layout(2, 3, 1)
        twin.set_layout((4, 6), 1)
        assert module.layout == Layout(2, 3, 1)
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
    # The caller's dict holds the same tensors as before, and these their values.
    assert saved.keys() == untouched.keys()
    for name, (tensor, values) in untouched.items():
        assert saved[name] is tensor
        assert torch.equal(tensor, values)


@fixed_length
def test_weights_bring_their_layout_to_a_mechanism_that_has_none(case):
    module = build(case, grid=(2, 3))
    fresh = get(case.key)(WIDTH, HEADS, dtype=torch.float64, **case.options)
    fresh.load_state_dict(module.state_dict())
    assert fresh.layout == Layout(2, 3, 1)
    x = tokens_of(module)
    assert torch.equal(fresh(x), module(x))


@fixed_length
def test_weights_are_loaded_into_an_outer_module_as_well(case):
    module, other = build(case, grid=(2, 3)), build(case, grid=(4, 5), seed=1)
    nn.Sequential(nn.Identity(), other).load_state_dict(nn.Sequential(nn.Identity(), module).state_dict())
    x = tokens_of(other)
    assert torch.equal(other(x), resized(module, (4, 5))(x))


@fixed_length
def test_weights_with_too_few_prefix_tokens_are_refused(case):
    """But where prefix tokens have no weights."""
    module, other = build(case, prefix=0), build(case, prefix=1)
    if all(tensor.shape == module.state_dict()[name].shape for name, tensor in other.state_dict().items()):
        other.load_state_dict(module.state_dict())
        x = tokens_of(other)
        torch.testing.assert_close(other(x)[:, 1:], module(x[:, 1:]))
        return
    with pytest.raises(ValueError, match="0 prefix tokens cannot serve 1"):
        other.load_state_dict(module.state_dict())


@fixed_length
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_survives_a_new_layout(case, dtype):
    module = build(case, grid=(2, 3), dtype=dtype)
    module.set_layout((5, 4), 1)
    assert {tensor.dtype for tensor in [*module.parameters(), *module.buffers()]} == {dtype}


@fixed_length
def test_layouts_are_told_on_meta_and_weights_assigned_there(case):
    module = build(case, grid=(4, 5))
    empty = get(case.key)(WIDTH, HEADS, device="meta", dtype=torch.float64, **case.options)
    empty.set_layout((2, 3), 1)
    empty.set_layout((4, 5), 1)
    assert {tensor.device.type for tensor in [*empty.parameters(), *empty.buffers()]} == {"meta"}
    empty.load_state_dict(module.state_dict(), assign=True)
    x = tokens_of(module)
    assert torch.equal(empty(x), module(x))


@fixed_length
def test_averaged_weights_follow(case):
    """Of Lightning's EMA, which is torch's, and of timm's."""
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


PREFIXES = {"class token": dict(reg_tokens=4), "patches alone": dict(class_token=False, global_pool="avg")}


def model_with(case, size, prefix="class token"):
    torch.manual_seed(0)
    options = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5, mlp_ratio=1.0)
    # A class token that is given nothing cannot be what the head reads.
    pool = {} if get(case.key).reaches_prefix else {"global_pool": "avg"}
    model = VisionTransformer(img_size=size, **{**options, **PREFIXES[prefix], **pool})
    return exchange(model, {"name": case.key, **case.options})


def train(model, size, steps=2):
    """A little, so that no weight is where it started."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images = torch.randn(4, 3, *size, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
        optimizer.step()
    return model


@pytest.mark.parametrize("prefix", PREFIXES)
@fixed_length
def test_a_trained_model_serves_another_size_of_image_either_way(case, prefix):
    """Through `set_input_size` and through a checkpoint, with the same result; and trains on."""
    small, large = (32, 48), (64, 40)
    model = train(model_with(case, small, prefix), small)
    weights = copy.deepcopy(model.state_dict())
    model.set_input_size(large)
    loaded = model_with(case, large, prefix)
    # The position embedding is timm's, and its own checkpoints are resampled by a function beside.
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
def test_timms_initialisation_meets_weights_of_their_final_size(case):
    """timm initialises Linears by itself; what is drawn by their width must not be drawn for one token."""
    torch.manual_seed(1)
    alone = get(case.key)(24, 3, **case.options)
    alone.set_layout((8, 8), 5)
    for block in model_with(case, (64, 64)).blocks:
        for name in alone.token_axes:
            inside, outside = block.attn.state_dict()[name], alone.state_dict()[name]
            assert inside.shape == outside.shape
            torch.testing.assert_close(inside.std(), outside.std(), rtol=0.2, atol=0)
            torch.testing.assert_close(inside.mean(), outside.mean(), rtol=0.1, atol=0.4 * outside.std().item())
