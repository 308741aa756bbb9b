"""Bugs of other implementations of Fastformer: the comparison with the reference rejects each.

Without the fault the variant equals the reference, and with it, it is off by more than a hundredth of the largest
element, 10⁸ times the tolerance.
"""

import pytest
import torch

from fvit.attention import AdditiveAttention

from .refs import additive
from .suite import assert_equals_reference, randomise


class Variant(AdditiveAttention):
    """Additive attention once more, in overridable steps."""

    def forward(self, x, attn_mask=None):
        q, k = self.q(x), self.k(x)
        v = q if self.v is None else self.v(x)
        p = self.pool(self.query_logit, q, q).unsqueeze(1) * k
        return self.transform(self.global_key(p, k).unsqueeze(1) * v) + self.residual(x, q)

    def pool(self, weight, seen, summed):
        seen = self.split_heads(seen) if self.logits == "per_head" else seen.unsqueeze(1)
        weights = self.normalise(self.scaled((seen @ weight.unsqueeze(-1)).squeeze(-1)))
        return torch.einsum("bhn,bhnd->bhd", weights, self.split_heads(summed)).flatten(1)

    def scaled(self, logits):
        return logits * self.head_dim**-0.5

    def normalise(self, logits):
        return logits.softmax(dim=2)

    def global_key(self, p, k):
        return self.pool(self.key_logit, p, p)

    def residual(self, x, q):
        return q


class PoolsRawKeys(Variant):
    def global_key(self, p, k):
        return self.pool(self.key_logit, p, k)


class LogitsOfRawKeys(Variant):
    def global_key(self, p, k):
        return self.pool(self.key_logit, k, p)


class SoftmaxOverHeads(Variant):
    def normalise(self, logits):
        return logits.softmax(dim=1)


class SoftmaxOverOneElement(Variant):
    def normalise(self, logits):
        return logits.unsqueeze(-1).softmax(dim=-1).squeeze(-1)


class NoScale(Variant):
    def scaled(self, logits):
        return logits


class MultipliesTheLogitBias(Variant):
    def scaled(self, logits):
        return super().scaled(logits) * torch.linspace(-1.5, 0.5, self.num_heads, dtype=logits.dtype).unsqueeze(-1)


class NoResidual(Variant):
    def residual(self, x, q):
        return 0


class ResidualOfTheInput(Variant):
    def residual(self, x, q):
        return x


@pytest.mark.parametrize("options", [{}, {"logits": "full"}, {"value": "separate"}], ids=str)
@pytest.mark.parametrize("cls", [Variant, *Variant.__subclasses__()], ids=lambda cls: cls.__name__)
def test_the_reference_rejects_it(cls, options):
    torch.manual_seed(0)
    module = randomise(cls(24, 3, dtype=torch.float64, **options), std=0.3)
    x = torch.randn(2, 5, 24, dtype=torch.float64)
    if cls is Variant:
        assert_equals_reference(module, additive.reference, x)
    else:
        with pytest.raises(AssertionError, match=r"^out: "):
            assert_equals_reference(module, additive.reference, x, tolerance=0.01)
