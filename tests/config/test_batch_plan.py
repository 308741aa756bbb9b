import pytest
from hypothesis import given
from hypothesis import strategies as st

from fvit.config.batch_plan import plan_batches


@given(share=st.integers(1, 512), world=st.integers(1, 16), micro=st.none() | st.integers(1, 600))
def test_plan_is_exact_and_takes_the_fewest_passes(share, world, micro):
    plan = plan_batches(share * world, world, micro)
    assert plan.per_device * plan.accumulate * world == share * world
    assert plan.per_device <= (micro or share)
    larger = [size for size in range(plan.per_device + 1, share + 1) if share % size == 0 and size <= (micro or share)]
    assert larger == []


@given(batch=st.integers(1, 100), world=st.integers(2, 9))
def test_a_batch_that_does_not_divide_names_batches_that_do(batch, world):
    if batch % world == 0:
        assert plan_batches(batch, world).per_device == batch // world
        return
    with pytest.raises(ValueError, match=f"does not divide over {world} devices") as caught:
        plan_batches(batch, world)
    offered = [int(word) for word in str(caught.value).split("use global_batch_size=")[1].split(" or ")]
    assert all(size % world == 0 and size > 0 for size in offered)


def test_plan_as_text():
    assert str(plan_batches(64, 1)) == "64 images per step = 64 per device"
    assert str(plan_batches(1024, 8, 32)) == "1,024 images per step = 32 per device × 8 devices × 4 accumulated"
