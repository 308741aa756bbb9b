"""Adapters between a host's block and a mechanism, where blocks call their attention with arguments of their own.

A relative position bias is added to the logits, rotary positions turn the queries and keys of softmax attention, and a
window mask hides pairs, if the mechanism can honour them. What it cannot honour, `exchange` refuses (masks) or drops
and reports (positions).
"""

import torch
from timm.layers import RelPosBias, RelPosMlp, apply_rot_embed_cat
from torch import Tensor, nn

from fvit.attention import IdentityMixer, Mechanism, SoftmaxAttention
from fvit.attention.base import Size
from fvit.attention.ops import refuse_mask_and_causality, softmax_map
from fvit.attention.registry import unbound


class Adapter(nn.Module):
    """Base of the adapters: a mechanism, and the relative position bias of the attention that it replaces.

    Args:
        mechanism: maps tokens [B, N, C] to [B, N, C].
        rel_pos: the host's position bias; dropped if `mechanism` cannot add it.
    """

    def __init__(self, mechanism: Mechanism, rel_pos: RelPosBias | RelPosMlp | None = None) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.rel_pos = rel_pos if self.takes_bias else None

    @property
    def takes_bias(self) -> bool:
        """Whether the mechanism can add the host's bias, which has one map per head."""
        # IdentityMixer takes any mask because it mixes nothing, so a bias would have no effect.
        same_heads = self.mechanism.num_heads == self.mechanism.host_args["num_heads"]
        return self.mechanism.takes_pair_mask and same_heads and not isinstance(self.mechanism, IdentityMixer)

    @property
    def takes_shared(self) -> bool:
        """Whether the mechanism uses the positions that the host shares among blocks."""
        return self.takes_bias

    def position_bias(self, shared: Tensor | None = None) -> Tensor | None:
        """The sum of this block's bias and the one shared among blocks, [1, H, N, N] or [H, N, N]."""
        if not self.takes_bias:
            return None
        if self.rel_pos is None:
            return shared
        return self.rel_pos.get_bias() if shared is None else self.rel_pos.get_bias() + shared

    def set_window_size(self, window_size: Size) -> None:
        """Resample the bias for another grid; hosts call it when their input size changes."""
        if self.rel_pos is not None:
            self.rel_pos.set_window_size(window_size)


class BiasAdapter(Adapter):
    """For blocks of BEiT, which pass `shared_rel_pos_bias`, and of VisionTransformerRelPos, with `shared_rel_pos`."""

    def forward(
        self, x: Tensor, shared_rel_pos_bias: Tensor | None = None, shared_rel_pos: Tensor | None = None
    ) -> Tensor:
        shared = shared_rel_pos if shared_rel_pos_bias is None else shared_rel_pos_bias
        return self.mechanism(x, attn_mask=self.position_bias(shared))


class RotaryAdapter(Adapter):
    """For blocks of EVA, and of NaFlexVit with the same attention, which pass rotary positions `rope`.

    Softmax attention turns its queries and keys as timm's does; other mechanisms ignore them, which `exchange` reports.

    Attributes:
        rotate_half: timm's layout of the pairs that are turned: the two halves of a head, or neighbouring channels.
        ignores_rope: for weights that were trained without.
    """

    takes_bias = False
    rotate_half = False
    ignores_rope = False

    @property
    def takes_shared(self) -> bool:
        softmax, heads = self.mechanism, self.mechanism.host_args["num_heads"]
        if self.ignores_rope or unbound(type(softmax)) is not SoftmaxAttention or softmax.num_heads != heads:
            return False
        return not softmax.rotary and softmax.mix_logits is None

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        if rope is None or not self.takes_shared:
            return self.mechanism(x, attn_mask=attn_mask, is_causal=is_causal)
        q, k, v = self._turned(x, rope, attn_mask, is_causal)
        v = self.mechanism.mix_values(v)
        out = self.mechanism.sdpa(q, k, v, attn_mask, is_causal=is_causal)
        return self.mechanism.output(self.mechanism.add_conv(out, v, attn_mask, is_causal))

    def weights(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> dict[str, Tensor]:
        """`Mechanism.weights` of what `forward` computes."""
        if rope is None or not self.takes_shared:
            return self.mechanism.weights(x, attn_mask=attn_mask, is_causal=is_causal)
        q, k, _ = self._turned(x, rope, attn_mask, is_causal)
        return {"map": softmax_map(q, k, attn_mask, is_causal)}

    def _turned(
        self, x: Tensor, rope: Tensor, attn_mask: Tensor | None, is_causal: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values [B, H, N, d] of softmax attention; `rope` turns the last tokens of the first two."""
        refuse_mask_and_causality(attn_mask, is_causal)
        q, k, v = self.mechanism.heads(x)
        prefix = q.shape[2] - rope.shape[-2]
        q, k = (
            torch.cat([t[:, :, :prefix], apply_rot_embed_cat(t[:, :, prefix:], rope, half=self.rotate_half)], dim=2)
            for t in (q, k)
        )
        return q.type_as(v), k.type_as(v), v


class WindowAdapter(Adapter):
    """For blocks of Swin, which treat each window as an image of its own."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens [B·W, N, C] of W windows per image; `mask` [W, N, N] is nonzero where a pair must not attend."""
        bias = self.position_bias()
        if mask is None:
            return self.mechanism(x, attn_mask=bias)
        # The host adds −100, which hides a pair from a softmax only; −∞ or False hides it from any mechanism.
        visible = (mask == 0).repeat(x.shape[0] // mask.shape[0], 1, 1).unsqueeze(1)
        return self.mechanism(x, attn_mask=visible if bias is None else torch.where(visible, bias, float("-inf")))
