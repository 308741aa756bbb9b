"""Nyström attention: its landmarks, its scales and its pseudo-inverse."""

import torch

from fvit.attention import Nystrom

from ..refs import nystrom
from . import OnHeads, exhibit


class RightNystrom(OnHeads, Nystrom):
    reference = staticmethod(nystrom.reference)
    options = ({"num_landmarks": 2}, {"num_landmarks": 2, "iterations": 2})

    def mix(self, q, k, v, keep):
        heads = []
        for b in range(len(q)):
            there = self.there(keep[b, 0, :, 0])
            landmark_q, landmark_k = (self.landmarks(t[b, :, there]) for t in (q, k))
            # On masked rows the exhibits may do what they like: they are not compared.
            to, between = self.map(q[b], landmark_k), self.map(landmark_q, landmark_k)
            pooled = self.map(landmark_q, k[b, :, keep[b, 0, :, 0]]) @ v[b, :, keep[b, 0, :, 0]]
            heads.append(to @ self.inverse(between) @ pooled)
        return torch.stack(heads)

    def there(self, keep):
        return keep

    def landmarks(self, t):
        count = min(self.num_landmarks, t.shape[1])
        size, longer = divmod(t.shape[1], count)
        segments = t.split([size] * (count - longer) + [size + 1] * longer, dim=1)
        return torch.stack([self.pool(segment) for segment in segments], dim=1)

    def pool(self, segment):
        return segment.mean(dim=1)

    def map(self, q, k):
        return (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(dim=-1)

    def inverse(self, a):
        eye = torch.eye(a.shape[-1], dtype=a.dtype)
        z = self.start(a)
        for _ in range(self.iterations):
            z = z @ self.step(a @ z, eye)
        return z

    def start(self, a):
        return a.transpose(-2, -1) / a.sum(dim=-2).amax(dim=-1)[:, None, None]

    def step(self, az, eye):
        return (13 * eye - az @ (15 * eye - az @ (7 * eye - az))) / 4


@exhibit()
class NystromWithLandmarksSummed(RightNystrom):
    def pool(self, segment):
        return segment.sum(dim=1)


@exhibit()
class NystromWithFirstTokensAsLandmarks(RightNystrom):
    def pool(self, segment):
        return segment[:, 0]


@exhibit()
class NystromWithoutScale(RightNystrom):
    def map(self, q, k):
        return (q @ k.transpose(-2, -1)).softmax(dim=-1)


@exhibit()
class NystromWithoutInverse(RightNystrom):
    def inverse(self, a):
        return a


@exhibit()
class NystromTransposesInPlaceOfInverting(RightNystrom):
    def inverse(self, a):
        return a.transpose(-2, -1)


@exhibit()
class NystromWithLongerSegmentsFirst(RightNystrom):
    def landmarks(self, t):
        return super().landmarks(t.flip(1)).flip(1)


@exhibit("mask")
class NystromAveragesHiddenTokens(RightNystrom):
    def there(self, keep):
        return torch.ones_like(keep)


@exhibit("gradient")
class NystromStopsTheGradientOfItsInverse(RightNystrom):
    def inverse(self, a):
        return super().inverse(a).detach()


@exhibit()
class NystromByNewtonsIteration(RightNystrom):
    options = ({"num_landmarks": 2, "iterations": 1},)

    def step(self, az, eye):
        return 2 * eye - az


@exhibit()
class NystromStartsFromTheTransposeItself(RightNystrom):
    """The iteration forgets where it started, if it is given the time."""

    options = ({"num_landmarks": 2, "iterations": 0},)

    def start(self, a):
        return a.transpose(-2, -1)


@exhibit()
class NystromStartsFromTheNormOfAllHeads(RightNystrom):
    options = ({"num_landmarks": 2, "iterations": 0},)

    def start(self, a):
        return a.transpose(-2, -1) / a.sum(dim=-2).max()
