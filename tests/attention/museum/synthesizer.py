"""Synthesizer: what its logits are made of, and what its softmax runs over."""

from typing import ClassVar

import torch

from fvit.attention import Synthesizer

from ..refs import synthesizer
from . import exhibit

KINDS = ("dense", "factorised_dense", "random", "factorised_random")


class RightSynthesizer(Synthesizer):
    reference = staticmethod(synthesizer.reference)
    options: ClassVar = tuple({"kind": kind} for kind in KINDS)

    def forward(self, x, attn_mask=None):
        keep = torch.ones(1, 1, 1, x.shape[1], dtype=torch.bool) if attn_mask is None else attn_mask
        hidden = None if self.q is None else self.activate(self.split_heads(self.q(x)))
        logits = self.masked(self.scaled(self.logits_of(hidden)), keep)
        return self.proj(self.merge_heads(self.normalise(logits) @ self.split_heads(self.v(x))))

    def activate(self, t):
        return t.relu()

    def logits_of(self, hidden):
        if self.kind == "random":
            return self.logits
        if self.kind == "factorised_random":
            return torch.einsum("hik,hjk->hij", self.query_factor, self.key_factor)
        if self.kind == "dense":
            return torch.einsum("bhid,hdj->bhij", hidden, self.logit_weight) + self.logit_bias[:, None]
        of_rows = torch.einsum("bhid,hdr->bhir", hidden, self.row_weight) + self.row_bias[:, None]
        of_columns = torch.einsum("bhid,hdc->bhic", hidden, self.column_weight) + self.column_bias[:, None]
        return self.outer(of_rows, of_columns)

    def outer(self, of_rows, of_columns):
        return torch.einsum("bhir,bhic->bhirc", of_rows, of_columns).flatten(-2)

    def scaled(self, logits):
        return logits

    def masked(self, logits, keep):
        return logits.masked_fill(~keep, float("-inf"))

    def normalise(self, logits):
        return logits.softmax(dim=-1)


@exhibit()
class SynthesizerWithTheScaleOfSoftmax(RightSynthesizer):
    def scaled(self, logits):
        return logits * self.head_dim**-0.5


@exhibit()
class SynthesizerSoftmaxOverQueries(RightSynthesizer):
    def normalise(self, logits):
        return logits.softmax(dim=-2)


@exhibit()
class SynthesizerTransposed(RightSynthesizer):
    def scaled(self, logits):
        return logits.transpose(-2, -1)


@exhibit("mask")
class SynthesizerIgnoresItsMask(RightSynthesizer):
    def masked(self, logits, keep):
        return logits


@exhibit("mask")
class SynthesizerZeroesMaskedLogits(RightSynthesizer):
    def masked(self, logits, keep):
        return logits * keep


class RightDense(RightSynthesizer):
    options: ClassVar = ({"kind": "dense"}, {"kind": "factorised_dense"})


@exhibit()
class DenseSynthesizerWithoutActivation(RightDense):
    def activate(self, t):
        return t


@exhibit("gradient")
class DenseSynthesizerStopsTheGradientOfItsMap(RightDense):
    def normalise(self, logits):
        return super().normalise(logits).detach()


class RightFactorisedDense(RightSynthesizer):
    options: ClassVar = ({"kind": "factorised_dense"},)


@exhibit()
class FactorisedSynthesizerAddsItsFactors(RightFactorisedDense):
    def outer(self, of_rows, of_columns):
        return (of_rows.unsqueeze(-1) + of_columns.unsqueeze(-2)).flatten(-2)
