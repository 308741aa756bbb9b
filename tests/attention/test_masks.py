"""Masks and causality are honoured to the letter, or refused with the name of a mechanism that honours them."""

import pytest
import torch

from .suite import HEADS, assert_same, build, cases_where, every_case, tokens_of, values_and_gradients

KINDS = ("bool", "-inf", "finfo.min")

refused = pytest.raises(ValueError, match="attention=softmax")


def mask_over_keys(keep, kind, dtype):
    """`keep` [B, N] as a mask [B, 1, 1, N] of one of the kinds that are in use."""
    keep = keep[:, None, None]
    if kind == "bool":
        return keep
    filling = float("-inf") if kind == "-inf" else torch.finfo(dtype).min
    return torch.zeros(keep.shape, dtype=dtype).masked_fill(~keep, filling)


def all_but_the_last_two(x):
    """A `keep` [B, N]."""
    return (torch.arange(x.shape[1]) < x.shape[1] - 2).expand(len(x), -1)


def takes_any_number_of_tokens(case):
    """Whether a token that is masked can be left out instead."""
    module = build(case)
    return not (module.needs_grid or module.fixed_length)


@pytest.mark.parametrize("left", ["most", "one and all"])
@cases_where(lambda case: case.masks and takes_any_number_of_tokens(case))
def test_masked_tokens_are_as_if_absent(case, left):
    module = build(case)
    x = tokens_of(module)
    tokens = x.shape[1]
    lengths = {"most": (tokens - 2, tokens - 3), "one and all": (1, tokens)}[left]
    keep = torch.arange(tokens) < torch.tensor(lengths)[:, None]
    alone = [module(x[image : image + 1, :length])[0] for image, length in enumerate(lengths)]
    for kind in KINDS:
        out = module(x, attn_mask=mask_over_keys(keep, kind, x.dtype))
        torch.testing.assert_close(out[keep], torch.cat(alone), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@cases_where(lambda case: case.masks)
def test_garbage_in_masked_tokens_has_no_influence(case, dtype):
    module = build(case, dtype=dtype)
    x = tokens_of(module).to(dtype)
    keep = all_but_the_last_two(x)
    for kind in KINDS:
        mask = mask_over_keys(keep, kind, dtype)
        results = []
        for garbage in (0.0, 1e4):
            padded = x.masked_fill(~keep.unsqueeze(-1), garbage)
            results.append(
                values_and_gradients(module, lambda x, mask=mask: module(x, attn_mask=mask), padded, x, keep)
            )
            assert all(tensor.isfinite().all() for tensor in results[-1].values())
            assert not results[-1]["d x"][~keep].any()
        torch.testing.assert_close(*results)


@cases_where(lambda case: case.masks and case.key != "identity")
def test_a_mask_over_keys_changes_something(case):
    module = build(case)
    x = tokens_of(module)
    keep = all_but_the_last_two(x)
    assert not torch.allclose(module(x, attn_mask=keep[:, None, None])[keep], module(x)[keep])


@cases_where(lambda case: case.masks)
def test_one_mask_serves_all_images(case):
    module = build(case)
    x = tokens_of(module)
    mask = all_but_the_last_two(x)[:, None, None]
    assert torch.equal(module(x, attn_mask=mask[:1]), module(x, attn_mask=mask))


@cases_where(lambda case: case.masks)
def test_a_mask_that_hides_nothing_changes_nothing(case):
    module = build(case)
    x = tokens_of(module)
    upstream = torch.randn_like(x)
    for kind in KINDS:
        mask = mask_over_keys(torch.ones(x.shape[:2], dtype=torch.bool), kind, x.dtype)
        assert_same(
            values_and_gradients(module, lambda x, mask=mask: module(x, attn_mask=mask), x, upstream),
            values_and_gradients(module, module, x, upstream),
        )


@cases_where(lambda case: case.multiplicity)
def test_a_mask_of_logarithms_counts_tokens(case):
    module = build(case)
    x = tokens_of(module, batch=1)
    copies = torch.randint(1, 4, x.shape[1:2], generator=torch.Generator().manual_seed(0))
    copies[0], copies[3] = 0, 2
    there = copies > 0
    first = (copies.cumsum(0) - copies)[there]
    mask = copies.to(x.dtype).log()[None, None, None]
    upstream = torch.randn_like(x)[:, there]
    assert_same(
        values_and_gradients(module, lambda x: module(x, attn_mask=mask)[:, there], x, upstream),
        values_and_gradients(module, lambda x: module(x.repeat_interleave(copies, dim=1))[:, first], x, upstream),
    )


@cases_where(lambda case: not case.masks)
def test_a_mask_over_keys_is_refused(case):
    module = build(case)
    x = tokens_of(module)
    with refused:
        module(x, attn_mask=all_but_the_last_two(x)[:, None, None])


@every_case
def test_mask_between_pairs_is_honoured_or_refused(case):
    module = build(case)
    assert module.takes_pair_mask == (case.masks == "pairs")
    x = tokens_of(module)
    of_one_group = torch.arange(x.shape[1]) % 2 == 0
    mask = (of_one_group[:, None] == of_one_group).expand(2, 1, -1, -1)
    if case.masks == "pairs":
        out = module(x, attn_mask=mask)
        for group in (of_one_group, ~of_one_group):
            alone = module(x, attn_mask=group.expand(2, 1, 1, -1))
            torch.testing.assert_close(out[:, group], alone[:, group], rtol=1e-10, atol=1e-10)
    else:
        with refused:
            module(x, attn_mask=mask)


@every_case
def test_mask_per_head_is_honoured_or_refused(case):
    module = build(case)
    x = tokens_of(module)
    mask = torch.ones(2, HEADS, 1, x.shape[1], dtype=torch.bool)
    if case.masks == "pairs":
        torch.testing.assert_close(module(x, attn_mask=mask), module(x), rtol=1e-10, atol=1e-10)
        mask[:, 0, :, 1:] = False
        assert case.key == "identity" or not torch.allclose(module(x, attn_mask=mask), module(x))
    else:
        with refused:
            module(x, attn_mask=mask)


@every_case
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
    if takes_any_number_of_tokens(case):
        torch.testing.assert_close(out[:, :1], module(x[:, :1]), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(out[:, -1], module(x)[:, -1], rtol=1e-10, atol=1e-10)
    if case.masks == "pairs":
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()[None, None]
        torch.testing.assert_close(out, module(x, attn_mask=mask), rtol=1e-10, atol=1e-10)
