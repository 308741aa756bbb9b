import torch

from fvit.cost import utilisation
from fvit.cost.timing import Timing
from fvit.cost.utilisation import matmul_rate, mfu


def test_rate_is_of_two_operations_per_mac_and_leaves_random_numbers_alone(monkeypatch):
    seen = {}

    def timed(steps, runs, budget, device, queued):
        [step] = steps.values()
        seen.update(product=step(), runs=runs, queued=queued)
        return {"product": Timing((2.0, 1.0, 4.0))}

    monkeypatch.setattr(utilisation, "time_in_turns", timed)
    before = torch.get_rng_state()
    assert matmul_rate(torch.device("cpu"), torch.float32, side=10) == 2 * 10**3 / 2.0
    assert torch.equal(torch.get_rng_state(), before)
    assert (seen["product"].shape, seen["product"].dtype) == ((10, 10), torch.float32)
    assert seen["queued"]


def test_rate_of_this_machine_is_that_of_a_processor():
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, side=64) < 1e14


def test_training_takes_three_forward_passes():
    """10 images/s of 1 GMAC are 60 GFLOP/s."""
    assert mfu(1e9, 10, 120e9) == 0.5
