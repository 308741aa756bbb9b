"""Fastformer's additive attention: raw keys pooled, and softmaxes over what is not the tokens."""

from typing import ClassVar

import torch

from fvit.attention import Additive

from ..refs import additive
from . import exhibit


class RightAdditive(Additive):
    reference = staticmethod(additive.reference)
    options: ClassVar = ({"logits": "per_head"}, {"logits": "full"}, {"value": "separate"})

    def forward(self, x, attn_mask=None):
        self.keep = torch.ones(x.shape[0], 1, x.shape[1]) > 0 if attn_mask is None else attn_mask[:, 0]
        q, k = self.q(x), self.k(x)
        v = q if self.v is None else self.v(x)
        p = self.pool(self.query_logit, q, q).unsqueeze(1) * k
        global_key = self.global_key(p, k).unsqueeze(1)
        return self.transform(global_key * v) + self.residual(x, q)

    def pool(self, weight, seen, summed):
        seen = self.split_heads(seen) if self.logits == "per_head" else seen.unsqueeze(1)
        weights = self.normalise(self.scaled((seen @ weight.unsqueeze(-1)).squeeze(-1)))
        return torch.einsum("bhn,bhnd->bhd", weights, self.split_heads(summed)).flatten(1)

    def scaled(self, logits):
        return logits * self.head_dim**-0.5

    def normalise(self, logits):
        return logits.masked_fill(~self.keep, float("-inf")).softmax(dim=2)

    def global_key(self, p, k):
        return self.pool(self.key_logit, p, p)

    def residual(self, x, q):
        return q


@exhibit()
class AdditivePoolsRawKeys(RightAdditive):
    def global_key(self, p, k):
        return self.pool(self.key_logit, p, k)


@exhibit()
class AdditiveTakesLogitsOfRawKeys(RightAdditive):
    def global_key(self, p, k):
        return self.pool(self.key_logit, k, p)


@exhibit()
class AdditiveSoftmaxOverHeads(RightAdditive):
    def normalise(self, logits):
        return logits.softmax(dim=1)


@exhibit()
class AdditiveSoftmaxOverOneElement(RightAdditive):
    def normalise(self, logits):
        return logits.unsqueeze(-1).softmax(dim=-1).squeeze(-1)


@exhibit()
class AdditiveWithoutScale(RightAdditive):
    def scaled(self, logits):
        return logits


@exhibit()
class AdditiveMultipliesTheLogitBias(RightAdditive):
    def scaled(self, logits):
        return super().scaled(logits) * torch.linspace(-1.5, 0.5, self.num_heads, dtype=logits.dtype).unsqueeze(-1)


@exhibit()
class AdditiveWithoutResidual(RightAdditive):
    def residual(self, x, q):
        return 0


@exhibit()
class AdditiveResidualOfItsInput(RightAdditive):
    def residual(self, x, q):
        return x
