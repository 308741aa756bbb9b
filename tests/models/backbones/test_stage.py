import torch
from torch import nn

from fvit.models.backbones.stage import Stage


def test_downsamples_and_then_runs_the_blocks_in_order():
    stage = Stage(nn.Linear(3, 2), (nn.Linear(2, 2) for _ in range(3)))
    x = torch.randn(4, 3)
    expected = stage.downsample(x)
    for block in stage.blocks:
        expected = block(expected)
    torch.testing.assert_close(stage(x), expected)


def test_nothing_is_checkpointed_without_gradients():
    stage = Stage(nn.Identity(), [nn.Linear(2, 2)])
    stage.grad_checkpointing = True
    with torch.no_grad():
        assert not stage(torch.ones(1, 2)).requires_grad
    assert stage(torch.ones(1, 2, requires_grad=True)).requires_grad
