"""That the check of a configuration and the model itself hold the same things for blocks and for what can be kept."""

import pytest

from fvit.config.surgery import KEEP, check_blocks, check_keep
from fvit.models import block_indices
from fvit.models.transfer import NAMES


def test_what_can_be_kept_is_what_the_models_know():
    assert tuple(NAMES) == KEEP
    assert check_keep(list(NAMES)) == list(NAMES)


@pytest.mark.parametrize("blocks", ["4-11", "0,1,4-11", " 2 , 0 - 1 ", [0, 1, "4-6"], ["0,3", 5], "3", 3, "3-3", []])
def test_blocks_that_pass_are_understood(blocks):
    assert check_blocks(blocks) == blocks
    assert all(index >= 0 for index in block_indices(blocks))


@pytest.mark.parametrize("blocks", ["4..11", "4-", "", [1.5], "11-4", [True], {"a": 1}, [[1]], "x"], ids=str)
def test_blocks_that_are_not_understood_do_not_pass(blocks):
    for check in (check_blocks, block_indices):
        with pytest.raises(ValueError, match=r"is no block|runs backwards"):
            check(blocks)


@pytest.mark.parametrize("blocks", [-1, [-1], "0--1"])
def test_indices_do_not_count_from_the_end(blocks):
    with pytest.raises(ValueError, match="is no block"):
        check_blocks(blocks)


def test_nothing_chosen_is_all():
    assert check_blocks(None) is None
