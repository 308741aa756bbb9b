"""Efficient attention: which softmax runs over which axis."""

from fvit.attention import Efficient

from ..refs import efficient
from . import OnHeads, exhibit


class RightEfficient(OnHeads, Efficient):
    reference = staticmethod(efficient.reference)

    def mix(self, q, k, v, keep):
        return self.of_query(q) @ (self.of_key(k.masked_fill(~keep, float("-inf"))).transpose(-2, -1) @ v)

    def of_query(self, q):
        return q.softmax(dim=-1)

    def of_key(self, k):
        return k.softmax(dim=-2)


@exhibit()
class EfficientWithQueriesOverTokens(RightEfficient):
    def of_query(self, q):
        return q.softmax(dim=-2)


@exhibit()
class EfficientWithKeysOverChannels(RightEfficient):
    def of_key(self, k):
        return k.softmax(dim=-1)


@exhibit()
class EfficientWithoutSoftmaxOfQueries(RightEfficient):
    def of_query(self, q):
        return q
