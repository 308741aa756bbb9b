"""Masks and causality are honoured exactly, or refused with the name of a mechanism that honours them."""

import functools
import itertools

import pytest
import torch

from .cases import DEFAULTS, FULL, PATHS
from .suite import HEADS, assert_same, build, every_default, over, tokens_of, values_and_gradients

KINDS = ("bool", "-inf", "finfo.min")
DTYPES = (torch.float32, torch.bfloat16)

refused = pytest.raises(ValueError, match="attention=softmax")


def mask_over_keys(keep, kind, dtype):
    """`keep` [B, N] as a mask [B, 1, 1, N] of one of the kinds in use."""
    keep = keep[:, None, None]
    if kind == "bool":
        return keep
    filling = torch.finfo(dtype).min if kind == "finfo.min" else float(kind)
    return torch.zeros(keep.shape, dtype=dtype).masked_fill(~keep, filling)


def all_but_the_last_two(x):
    """A `keep` [B, N]."""
    return (torch.arange(x.shape[1]) < x.shape[1] - 2).expand(len(x), -1)


def takes_any_number_of_tokens(case):
    """Whether masked tokens can be left out instead."""
    module = build(case)
    return not (module.needs_grid or module.fixed_length)


@over(DEFAULTS, lambda case: case.masks and takes_any_number_of_tokens(case))
def test_masked_tokens_are_as_if_absent(case):
    module = build(case)
    x = tokens_of(module)
    tokens = x.shape[1]
    for lengths in ((tokens - 2, tokens - 3), (1, tokens)):
        keep = torch.arange(tokens) < torch.tensor(lengths)[:, None]
        alone = [module(x[image : image + 1, :length])[0] for image, length in enumerate(lengths)]
        for kind in KINDS:
            out = module(x, attn_mask=mask_over_keys(keep, kind, x.dtype))
            torch.testing.assert_close(out[keep], torch.cat(alone), rtol=1e-10, atol=1e-10)


@over(FULL, lambda case: case.masks)
def test_values_of_masked_tokens_have_no_influence(case):
    for kind, dtype in itertools.product(KINDS, DTYPES):
        module = build(case, dtype=dtype)
        x = tokens_of(module).to(dtype)
        keep = all_but_the_last_two(x)
        forward = functools.partial(module, attn_mask=mask_over_keys(keep, kind, dtype))
        padded = (x.masked_fill(~keep.unsqueeze(-1), garbage) for garbage in (0.0, 1e4))
        results = [values_and_gradients(module, forward, tokens, x, keep) for tokens in padded]
        for result in results:
            assert all(tensor.isfinite().all() for tensor in result.values())
            assert not result["d x"][~keep].any()
        torch.testing.assert_close(*results)


@over(PATHS, lambda case: case.masks)
def test_a_fully_masked_image_gives_zeros_and_leaves_its_neighbour_alone(case):
    module = build(case)
    x = tokens_of(module)
    seen = torch.arange(2)[:, None].expand(x.shape[:2]) == 1
    alone = module(x[1:])
    for kind in (*KINDS, "-1e4"):
        mask = mask_over_keys(seen, kind, x.dtype)
        result = values_and_gradients(module, functools.partial(module, attn_mask=mask), x, x)
        assert all(tensor.isfinite().all() for tensor in result.values())
        assert not result["out"][0].any()
        assert not result["d x"][0].any()
        torch.testing.assert_close(result["out"][1:], alone, rtol=1e-10, atol=1e-10)
        for weights in module.weights(x, attn_mask=mask).values():
            assert not weights[0].any()
            assert weights[1].any()


@over(PATHS, lambda case: case.masks)
def test_images_that_are_masked_by_any_number_give_finite_results(case):
    for dtype in DTYPES:
        module = build(case, dtype=dtype)
        x = tokens_of(module, batch=8).to(dtype)
        fillings = torch.tensor([torch.finfo(dtype).min, -1e9, -1e4, -100, -80, -70, -40, -10], dtype=dtype)
        mask = fillings[:, None, None, None].expand(-1, 1, 1, x.shape[1])
        result = values_and_gradients(module, functools.partial(module, attn_mask=mask), x, x)
        assert all(tensor.isfinite().all() for tensor in result.values()), dtype
        assert not result["out"][:5].any()


@over(DEFAULTS, lambda case: case.masks == "pairs")
def test_a_query_that_sees_no_key_in_any_head_gets_0(case):
    module = build(case)
    x = tokens_of(module)
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
    mask[2] = False
    out = {shape: module(x, attn_mask=mask.expand(shape)) for shape in (mask.shape, (1, 1, *mask.shape))}
    for found in out.values():
        assert not found[:, 2].any()
        assert found[:, 3].any()
        torch.testing.assert_close(found[:, 3:], module(x)[:, 3:], rtol=1e-10, atol=1e-10)


@over(FULL, lambda case: case.masks)
def test_a_mask_is_broadcast_over_images_and_changes_nothing_if_it_hides_nothing(case):
    module = build(case)
    x = tokens_of(module)
    mask = all_but_the_last_two(x)[:, None, None]
    assert torch.equal(module(x, attn_mask=mask[:1]), module(x, attn_mask=mask))
    upstream = torch.randn_like(x)
    expected = values_and_gradients(module, module, x, upstream)
    for kind in KINDS:
        mask = mask_over_keys(torch.ones(x.shape[:2], dtype=torch.bool), kind, x.dtype)
        assert_same(values_and_gradients(module, functools.partial(module, attn_mask=mask), x, upstream), expected)


@over(PATHS, lambda case: case.multiplicity)
def test_a_mask_of_logarithms_counts_tokens(case):
    module = build(case)
    x = tokens_of(module, batch=1)
    copies = torch.randint(1, 4, x.shape[1:2], generator=torch.Generator().manual_seed(0))
    copies[0], copies[3] = 0, 2
    present = copies > 0
    first = (copies.cumsum(0) - copies)[present]
    mask = copies.to(x.dtype).log()[None, None, None]
    upstream = torch.randn_like(x)[:, present]
    assert_same(
        values_and_gradients(module, lambda x: module(x, attn_mask=mask)[:, present], x, upstream),
        values_and_gradients(module, lambda x: module(x.repeat_interleave(copies, dim=1))[:, first], x, upstream),
    )


@every_default
def test_masks_between_pairs_and_per_head_are_honoured_or_refused(case):
    module = build(case)
    assert module.takes_pair_mask == (case.masks == "pairs")
    x = tokens_of(module)
    in_group = torch.arange(x.shape[1]) % 2 == 0
    between_pairs = (in_group[:, None] == in_group).expand(2, 1, -1, -1)
    per_head = torch.ones(2, HEADS, 1, x.shape[1], dtype=torch.bool)
    if case.masks != "pairs":
        over_keys = [] if case.masks else [all_but_the_last_two(x)[:, None, None]]
        for mask in (between_pairs, per_head, *over_keys):
            with refused:
                module(x, attn_mask=mask)
        return
    out = module(x, attn_mask=between_pairs)
    for group in (in_group, ~in_group):
        alone = module(x, attn_mask=group.expand(2, 1, 1, -1))
        torch.testing.assert_close(out[:, group], alone[:, group], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(module(x, attn_mask=per_head), module(x), rtol=1e-10, atol=1e-10)
    per_head[:, 0, :, 1:] = False
    assert case.key == "identity" or not torch.allclose(module(x, attn_mask=per_head), module(x))


@every_default
def test_causality_is_honoured_or_refused(case):
    module = build(case)
    x = tokens_of(module)
    if not case.causal:
        with refused:
            module(x, is_causal=True)
        return
    out = module(x, is_causal=True)
    for length in range(1, x.shape[1]):
        later = x.clone()
        later[:, length:] = 1e3
        torch.testing.assert_close(module(later, is_causal=True)[:, :length], out[:, :length], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out[:, :1], module(x[:, :1]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(out[:, -1], module(x)[:, -1], rtol=1e-10, atol=1e-10)
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()[None, None]
    torch.testing.assert_close(out, module(x, attn_mask=mask), rtol=1e-10, atol=1e-10)
    if case.key != "identity":
        with pytest.raises(ValueError, match="attn_mask or is_causal, not both"):
            module(x, attn_mask=mask, is_causal=True)
