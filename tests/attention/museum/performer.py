"""FAVOR+: its features' norm term and scale, and its normaliser."""

from fvit.attention import Performer

from ..refs import performer
from . import OnHeads, exhibit


class RightPerformer(OnHeads, Performer):
    reference = staticmethod(performer.reference)

    def mix(self, q, k, v, keep):
        q, k = self.phi(q), self.phi(k) * keep
        return q @ (k.transpose(-2, -1) @ v) / self.normaliser(q, k)

    def phi(self, t):
        t = self.scaled(t)
        return (t @ self.features.transpose(-2, -1) - self.norm_term(t)).exp()

    def scaled(self, t):
        return t * self.head_dim**-0.25

    def norm_term(self, t):
        return t.square().sum(dim=-1, keepdim=True) / 2

    def normaliser(self, q, k):
        return q @ k.sum(dim=-2).unsqueeze(-1)


@exhibit()
class PerformerWithoutNormTerm(RightPerformer):
    def norm_term(self, t):
        return 0


@exhibit()
class PerformerWithoutScale(RightPerformer):
    def scaled(self, t):
        return t


@exhibit()
class PerformerScalesQueryAndKeyTwice(RightPerformer):
    def scaled(self, t):
        return t * self.head_dim**-0.5


@exhibit()
class PerformerWithoutNormaliser(RightPerformer):
    def normaliser(self, q, k):
        return self.features.shape[1]
