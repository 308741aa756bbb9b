"""Modules between a block and a mechanism, for hosts whose blocks call their attention in another way.

What a host passes is honoured where the mechanism can: a relative position bias is added to the logits, and a mask of
windows hides pairs. What it cannot honour, `exchange` refuses or reports: a bias goes with the attention that it was
learned for, and so does a rotary position embedding, which works inside the old attention.
"""

import torch
from timm.layers import RelPosBias, RelPosMlp
from torch import Tensor, nn

from fvit.attention import IdentityMixer, Mechanism
from fvit.attention.base import Size


class Adapter(nn.Module):
    """Base of the adapters: a mechanism, and the relative position bias of the attention whose place it takes.

    Args:
        mechanism: maps tokens [B, N, C] to [B, N, C].
        rel_pos: the host's bias, of which a mechanism has none; dropped if `mechanism` does not take it.
    """

    def __init__(self, mechanism: Mechanism, rel_pos: RelPosBias | RelPosMlp | None = None) -> None:
        super().__init__()
        self.mechanism = mechanism
        self.rel_pos = rel_pos if self.takes_bias else None

    @property
    def takes_bias(self) -> bool:
        """Whether a bias of the host, which is one a head, means something to the mechanism."""
        # Identity honours every mask by mixing nothing, so that a bias would change nothing.
        as_many_heads = self.mechanism.num_heads == self.mechanism.host_args["num_heads"]
        return self.mechanism.takes_pair_mask and as_many_heads and not isinstance(self.mechanism, IdentityMixer)

    def position_bias(self, shared: Tensor | None = None) -> Tensor | None:
        """This block's bias and the one that the host shares among blocks, [1, H, N, N] or [H, N, N]."""
        if not self.takes_bias:
            return None
        if self.rel_pos is None:
            return shared
        return self.rel_pos.get_bias() if shared is None else self.rel_pos.get_bias() + shared

    def set_window_size(self, window_size: Size) -> None:
        """Bring the bias to another grid; hosts call it when the size of their images changes."""
        if self.rel_pos is not None:
            self.rel_pos.set_window_size(window_size)


class BeitAdapter(Adapter):
    """In blocks of BEiT."""

    def forward(self, x: Tensor, shared_rel_pos_bias: Tensor | None = None) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]."""
        return self.mechanism(x, attn_mask=self.position_bias(shared_rel_pos_bias))


class RelPosAdapter(Adapter):
    """In blocks of timm's VisionTransformerRelPos."""

    def forward(self, x: Tensor, shared_rel_pos: Tensor | None = None) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]."""
        return self.mechanism(x, attn_mask=self.position_bias(shared_rel_pos))


class RotaryAdapter(Adapter):
    """In blocks of EVA, and of NaFlexVit where they are the same; the rotation finds nothing here to turn."""

    takes_bias = False

    def forward(
        self, x: Tensor, rope: Tensor | None = None, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]."""
        return self.mechanism(x, attn_mask=attn_mask, is_causal=is_causal)


class WindowAdapter(Adapter):
    """In blocks of Swin, whose tokens come window by window: each is an image of its own to the mechanism."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map tokens [B·W, N, C] of W windows an image; `mask` [W, N, N] is not 0 where a pair must not meet."""
        bias = self.position_bias()
        if mask is None:
            return self.mechanism(x, attn_mask=bias)
        # The host's −100 hides enough for a softmax alone; −∞ and False hide from any mechanism.
        seen = (mask == 0).repeat(x.shape[0] // mask.shape[0], 1, 1).unsqueeze(1)
        return self.mechanism(x, attn_mask=seen if bias is None else torch.where(seen, bias, float("-inf")))
