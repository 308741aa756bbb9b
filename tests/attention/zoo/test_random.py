import torch
from timm.models.vision_transformer import VisionTransformer

from fvit.attention import RandomMixer
from fvit.models import exchange


def test_every_output_is_an_average_of_tokens():
    module = RandomMixer(8, 2, dtype=torch.float64)
    module.set_layout((2, 3), 1)
    weights = module(torch.eye(7, dtype=torch.float64)[None])[0]
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(7, dtype=torch.float64))
    assert (weights > 0).all()
    # R is uniform on [0, 1), so the weights of a row differ by less than a factor of e.
    assert (weights.amax(dim=1) < weights.amin(dim=1) * torch.e).all()


def test_it_is_not_trained_and_differs_between_blocks():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, num_classes=5)
    exchange(model, "random")
    before = [block.attn.logits.clone() for block in model.blocks]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model.train()(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimizer.step()
    assert all(torch.equal(block.attn.logits, logits) for block, logits in zip(model.blocks, before, strict=True))
    assert not torch.equal(*before)
    assert not list(model.blocks[0].attn.parameters())
