"""ReLU attention: the softmax replaced by a ReLU and a division by the number of tokens.

Source: Wortsman et al., "Replacing softmax with ReLU in Vision Transformers", arXiv:2309.08586.

    out = ReLU(QKᵀ/√d) V / N

Under a mask N is the number of keys that the query sees, so that hidden tokens are as if absent.

Cost: O(N²·D) besides the four projections.
"""

from torch import Tensor

from fvit.attention.ops import pair_bias
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("relu")
class Relu(Projected):
    """Attention with ReLU / N in place of the softmax. Arguments as for `Projected`; `attn_drop` falls on the map."""

    takes_pair_mask = True

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """Map tokens [B, N, C] to [B, N, C]; `attn_mask` broadcasts to [B, H, N, N]."""
        q, k, v = self.heads(x)
        return self.output(self.attn_drop(self._map(q, k, attn_mask, is_causal)) @ v)

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """As `Mechanism.weights`: the ``map``, whose rows need not sum to 1."""
        q, k, _ = self.heads(x)
        return {"map": self._map(q, k, attn_mask, is_causal)}

    def _map(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        bias, seen_keys = pair_bias(attn_mask, is_causal, q)
        logits_bhnn = (q * self.scale) @ k.transpose(-2, -1)
        if bias is not None:
            logits_bhnn = logits_bhnn + bias
        return logits_bhnn.relu() / seen_keys
