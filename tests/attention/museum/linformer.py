"""Linformer: what its projections act on, and what its softmax runs over."""

from fvit.attention import Linformer

from ..refs import linformer
from . import OnHeads, exhibit


class RightLinformer(OnHeads, Linformer):
    reference = staticmethod(linformer.reference)
    options = ({"projected_tokens": 3}, {"projected_tokens": 5})

    def mix(self, q, k, v, keep):
        k, v = self.e() @ self.shown(k, keep), self.f() @ self.shown(v, keep)
        return self.normalise(self.scaled(q @ k.transpose(-2, -1))) @ v

    def e(self):
        return self.key_projection.weight

    def f(self):
        return self.value_projection.weight

    def shown(self, t, keep):
        return t * keep

    def scaled(self, logits):
        return logits * self.head_dim**-0.5

    def normalise(self, logits):
        return logits.softmax(dim=-1)


@exhibit()
class LinformerWithoutScale(RightLinformer):
    def scaled(self, logits):
        return logits


@exhibit()
class LinformerScaledByItsProjectedTokens(RightLinformer):
    def scaled(self, logits):
        return logits * logits.shape[-1] ** -0.5


@exhibit()
class LinformerSharesItsProjectionWithoutBeingAsked(RightLinformer):
    def f(self):
        return self.e()


@exhibit()
class LinformerNormalisesItsProjections(RightLinformer):
    def e(self):
        return super().e().softmax(dim=-1)


@exhibit()
class LinformerSoftmaxOverQueries(RightLinformer):
    def normalise(self, logits):
        return logits.softmax(dim=-2)


@exhibit("mask")
class LinformerIgnoresItsMask(RightLinformer):
    def shown(self, t, keep):
        return t


@exhibit("gradient")
class LinformerStopsTheGradientOfItsMap(RightLinformer):
    def normalise(self, logits):
        return super().normalise(logits).detach()
