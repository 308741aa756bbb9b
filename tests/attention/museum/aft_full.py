"""AFT-full: what becomes of its position biases."""

from fvit.attention import AftFull

from ..refs import aft_full
from . import OnHeads, exhibit


class RightAftFull(OnHeads, AftFull):
    reference = staticmethod(aft_full.reference)
    options = ({"rank": None}, {"rank": 16})

    def mix(self, q, k, v, keep):
        weights = self.combine(self.bias()[:, :, None], k[:, :, None]) * keep[:, :, None]
        return self.gate(q) * (weights * v[:, :, None]).sum(dim=-2) / self.normaliser(weights, k, keep)

    def bias(self):
        return self.position_bias if self.rank is None else self.query_position @ self.key_position.T

    def combine(self, bias, k):
        return (k + bias).exp()

    def normaliser(self, weights, k, keep):
        return weights.sum(dim=-2)

    def gate(self, q):
        return q.sigmoid()


@exhibit()
class AftFullMultipliesItsBias(RightAftFull):
    def combine(self, bias, k):
        return k.exp() * bias


@exhibit()
class AftFullAddsItsBiasBehindTheExponential(RightAftFull):
    def combine(self, bias, k):
        return k.exp() + bias


@exhibit()
class AftFullScalesItsKeysByTheBias(RightAftFull):
    def combine(self, bias, k):
        return (k * bias).exp()


@exhibit()
class AftFullWithoutBias(RightAftFull):
    def combine(self, bias, k):
        return super().combine(0 * bias, k)


@exhibit()
class AftFullWithItsBiasTransposed(RightAftFull):
    def bias(self):
        return super().bias().T


@exhibit()
class AftFullNormalisesByKeysAlone(RightAftFull):
    def normaliser(self, weights, k, keep):
        return (k.exp() * keep).sum(dim=-2, keepdim=True)


@exhibit()
class AftFullGatesWithoutSigmoid(RightAftFull):
    def gate(self, q):
        return q


@exhibit("mask")
class AftFullMasksItsNumeratorAlone(RightAftFull):
    def normaliser(self, weights, k, keep):
        return self.combine(self.bias()[:, :, None], k[:, :, None]).sum(dim=-2)


@exhibit("gradient")
class AftFullStopsTheGradientOfItsNormaliser(RightAftFull):
    def normaliser(self, weights, k, keep):
        return super().normaliser(weights, k, keep).detach()
