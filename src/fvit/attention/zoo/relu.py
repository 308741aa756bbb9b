"""ReLU attention: ReLU and division by the number of tokens replace the softmax.

Source: Wortsman et al., "Replacing softmax with ReLU in Vision Transformers", arXiv:2309.08586.

    out = ReLU(QKᵀ/√d) V / N

Under a mask N is the number of keys that the query sees, so hidden tokens are as if absent.

Cost: O(N²·D) besides the four projections.

Family: softmax.
"""

from torch import Tensor

from fvit.attention.ops import pair_bias
from fvit.attention.projected import Projected
from fvit.attention.registry import register


@register("relu")
class ReLUAttention(Projected):
    """ReLU / N attention. Arguments as for `Projected`; `attn_drop` applies to the map."""

    takes_pair_mask = True
    adds_conv = True

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        q, k, v = self.heads(x)
        out = self.attn_drop(self._map(q, k, attn_mask, is_causal)) @ v
        return self.output(self.add_conv(out, v, attn_mask, is_causal))

    def weights(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> dict[str, Tensor]:
        """The ``map``, whose rows need not sum to 1."""
        q, k, _ = self.heads(x)
        return {"map": self._map(q, k, attn_mask, is_causal)}

    def _map(self, q: Tensor, k: Tensor, attn_mask: Tensor | None, is_causal: bool) -> Tensor:
        bias, seen_keys = pair_bias(attn_mask, is_causal, q)
        logits_bhnn = (q * self.scale) @ k.transpose(-2, -1)
        if bias is not None:
            logits_bhnn = logits_bhnn + bias
        return logits_bhnn.relu() / seen_keys
