"""Agent attention: what the agents are pooled from, and which of its two maps is normalised over what."""

from typing import ClassVar

import torch
import torch.nn.functional as F

from fvit.attention import Agent

from ..refs import agent
from . import OnHeads, exhibit


class RightAgent(OnHeads, Agent):
    reference = staticmethod(agent.reference)
    options: ClassVar = ({"num_agents": 4},)
    lies: ClassVar = ((2, 4), 1, 0)

    def mix(self, q, k, v, keep):
        agents = self.pool(self.pooled_from(q, k), keep)
        gathered = self.inner(agents @ k.mT * self.head_dim**-0.5, keep.mT) @ v
        return self.outer(q @ agents.mT * self.head_dim**-0.5) @ gathered

    def pooled_from(self, q, k):
        return q

    def pool(self, t, keep):
        """Four pairs of neighbours in a row, of which one at least is there."""
        pairs, there = ((x[:, :, 1:]).unflatten(2, (4, 2)) for x in (t * keep, keep.to(t)))
        return pairs.sum(dim=3) / self.number(there)

    def number(self, there):
        return there.sum(dim=3)

    def inner(self, logits, keep):
        return logits.masked_fill(~keep, float("-inf")).softmax(dim=-1)

    def outer(self, logits):
        return logits.softmax(dim=-1)


@exhibit()
class AgentsPooledFromKeys(RightAgent):
    def pooled_from(self, q, k):
        return k


@exhibit()
class AgentsPooledAlongTheTokens(RightAgent):
    def pool(self, t, keep):
        return F.adaptive_avg_pool1d(t.flatten(0, 1).mT, 4).mT.unflatten(0, t.shape[:2])


@exhibit()
class AgentSoftmaxOverAgentsInBothMaps(RightAgent):
    def inner(self, logits, keep):
        return torch.where(keep, logits, 0).softmax(dim=-2) * keep


@exhibit()
class AgentSoftmaxOverQueries(RightAgent):
    def outer(self, logits):
        return logits.softmax(dim=-2)


@exhibit("mask")
class AgentsAverageHiddenQueries(RightAgent):
    def number(self, there):
        return torch.full_like(there.sum(dim=3), 2)


@exhibit("mask")
class AgentsAttendToHiddenTokens(RightAgent):
    def inner(self, logits, keep):
        return logits.softmax(dim=-1)
