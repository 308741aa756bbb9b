"""The table of mechanisms and options that the shared suite runs over."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from .refs import (
    additive,
    additive_plus,
    aft_full,
    aft_simple,
    agent,
    catm,
    circulant,
    cosformer,
    differential,
    efficient,
    fnet,
    focused,
    gated,
    gfnet,
    gla,
    gmlp,
    hedgehog,
    hydra,
    identity,
    inline,
    linear,
    linformer,
    mala,
    mhla,
    mixer,
    mlla,
    nala,
    nc_ssd,
    neighborhood,
    nystrom,
    performer,
    permute_mlp,
    pola,
    pool,
    rala,
    random,
    relu,
    relu_linear,
    sep_conv,
    separable,
    sigmoid,
    softmax,
    swiftformer,
    synthesizer,
    tssa,
    ttt,
    ttt_t5,
    vrwkv,
    window,
    xca,
)

Reference = Callable[[nn.Module, Tensor, Tensor | None], Tensor]

GRIDS = ((2, 3), (4, 2), (3, 5), (1, 4))


@dataclass(frozen=True)
class Case:
    """One mechanism with one set of options, and the properties that the suite tests."""

    key: str
    reference: Reference
    """(module, x [B, N, C], keep: bool [B, N] or None) -> [B, N, C]; only rows that are kept are compared."""
    options: Mapping[str, Any] = field(default_factory=dict)
    equivariant: bool = True
    """Permuting the tokens permutes the output. Tested to be false where it is False."""
    masks: Literal["keys", "pairs"] | None = "keys"
    """Supported masks: over keys, also between pairs, or none; all others must raise."""
    causal: bool = False
    multiplicity: bool = False
    """A mask of log m on a key equals m copies of its token, as for a softmax or a normalised kernel."""
    quadratic: bool = False
    """Some tensor has an element per pair of tokens."""
    dropouts: tuple[str, ...] = ("attn_drop", "proj_drop")
    """The dropout rates that have an effect."""
    positive: tuple[str, ...] = ()
    """Parameters to draw between 0 and 1."""
    block_index: int = 0
    grids: tuple[tuple[int, int], ...] = GRIDS
    """(rows, columns) to test on; options may require certain ones."""
    float32: float = 5e-6
    bfloat16: float = 3e-2
    """Bounds on ‖error‖/‖float64 result‖ of the output, and of all gradients concatenated."""

    @property
    def id(self) -> str:
        """`key` or `key-option=value-…`, for pytest."""
        named = {**self.options, **({"block": self.block_index} if self.block_index else {})}
        return "-".join([self.key, *(f"{name}={getattr(v, '__name__', v)}" for name, v in named.items())])


NO_BIAS = {"qkv_bias": False, "proj_bias": False}
PAIRS = dict(masks="pairs", causal=True, quadratic=True)
OF_SOFTMAX = dict(masks="pairs", causal=True, quadratic=True, multiplicity=True)
OUTPUT_ONLY = dict(equivariant=False, dropouts=("proj_drop",))

CASES = [
    Case("additive", additive.reference, multiplicity=True),
    Case("additive", additive.reference, {"logits": "full"}, multiplicity=True),
    Case("additive", additive.reference, {"value": "separate"}, multiplicity=True),
    Case("additive", additive.reference, {"proj": True, "qkv_bias": False}, multiplicity=True),
    Case("additive", additive.reference, {"logits": "full", "value": "separate", "proj": True}, multiplicity=True),
    Case("additive_plus", additive_plus.reference, {"regions": 4}, equivariant=False),
    Case("additive_plus", additive_plus.reference, {"regions": 9, "conv": 0, "qkv_bias": False}, equivariant=False),
    Case("additive_plus", additive_plus.reference, {"regions": 1, "conv": 0}),
    Case(
        "additive_plus",
        additive_plus.reference,
        {"regions": 4, "gate": "residual", "value": "shared", "residual": True, "conv": 5},
        equivariant=False,
    ),
    Case("identity", identity.reference, masks="pairs", causal=True, dropouts=()),
    Case("linear", linear.reference, multiplicity=True),
    Case("linear", linear.reference, NO_BIAS, multiplicity=True),
    Case("softmax", softmax.reference, **OF_SOFTMAX),
    Case("softmax", softmax.reference, {"qk_norm": True}, **OF_SOFTMAX),
    Case("softmax", softmax.reference, NO_BIAS, **PAIRS),
    Case("softmax", softmax.reference, {"kv_heads": 1}, **OF_SOFTMAX),
    Case("softmax", softmax.reference, {"rotary": True}, equivariant=False, **PAIRS),
    Case("softmax", softmax.reference, {"talking_heads": True}, **OF_SOFTMAX),
    Case("softmax", softmax.reference, {"conv": 3}, equivariant=False, quadratic=True),
    Case("separable", separable.reference, multiplicity=True),
    Case("separable", separable.reference, NO_BIAS, multiplicity=True),
    Case("swiftformer", swiftformer.reference, multiplicity=True),
    Case("swiftformer", swiftformer.reference, {"norm": "l2"}),
    Case("swiftformer", swiftformer.reference, NO_BIAS, multiplicity=True),
    Case("fnet", fnet.reference, masks=None, **OUTPUT_ONLY),
    Case("focused", focused.reference, multiplicity=True),
    Case("focused", focused.reference, {"focusing_factor": 5, **NO_BIAS}, multiplicity=True),
    Case("focused", focused.reference, {"conv": 5}, equivariant=False),
    Case("focused", focused.reference, {"focusing_factor": 1, "conv": 5, "position_keys": True}, equivariant=False),
    Case("focused", focused.reference, {"norm": "token", "scale_channels": True}, multiplicity=True),
    Case("focused", focused.reference, {"position_keys": True, "qkv_bias": False}, equivariant=False),
    Case(
        "focused",
        focused.reference,
        {"conv": 5, "norm": "token", "scale_channels": True, "position_keys": True},
        equivariant=False,
    ),
    Case("sigmoid", sigmoid.reference, **PAIRS),
    Case("sigmoid", sigmoid.reference, NO_BIAS, **PAIRS),
    Case("relu", relu.reference, **PAIRS),
    Case("relu", relu.reference, NO_BIAS, **PAIRS),
    Case("gated", gated.reference, **OF_SOFTMAX),
    Case("gated", gated.reference, NO_BIAS, **PAIRS),
    Case("differential", differential.reference, **OF_SOFTMAX),
    Case("differential", differential.reference, {"qkv_bias": False}, block_index=6, **PAIRS),
    Case("differential", differential.reference, {"lambda_init": 0.5, "proj_bias": False}, **PAIRS),
    Case("efficient", efficient.reference, multiplicity=True),
    Case("efficient", efficient.reference, NO_BIAS, multiplicity=True),
    Case("relu_linear", relu_linear.reference, multiplicity=True),
    Case("relu_linear", relu_linear.reference, NO_BIAS, multiplicity=True),
    Case("relu_linear", relu_linear.reference, {"conv": 3}, equivariant=False),
    Case("relu_linear", relu_linear.reference, {"aggregate": 5}, equivariant=False),
    Case("relu_linear", relu_linear.reference, {"aggregate": 3, "conv": 3, "proj_bias": False}, equivariant=False),
    Case("xca", xca.reference, multiplicity=True),
    Case("xca", xca.reference, NO_BIAS, multiplicity=True),
    Case("hydra", hydra.reference, multiplicity=True),
    Case("hydra", hydra.reference, NO_BIAS, multiplicity=True),
    Case("aft_simple", aft_simple.reference, multiplicity=True),
    Case("aft_simple", aft_simple.reference, NO_BIAS, multiplicity=True),
    # In cos a cos b + sin a sin b each feature is rounded twice, which a normaliser near 0 amplifies.
    Case("cosformer", cosformer.reference, equivariant=False, bfloat16=4e-2),
    Case("cosformer", cosformer.reference, NO_BIAS, equivariant=False, bfloat16=4e-2),
    Case("performer", performer.reference, multiplicity=True),
    Case("performer", performer.reference, {"num_features": 3, "seed": 1}, multiplicity=True),
    Case("performer", performer.reference, NO_BIAS, multiplicity=True),
    Case("inline", inline.reference, multiplicity=True),
    Case("inline", inline.reference, NO_BIAS, multiplicity=True),
    Case("inline", inline.reference, {"local": True}, equivariant=False),
    Case("mala", mala.reference, multiplicity=True),
    Case("mala", mala.reference, NO_BIAS, multiplicity=True),
    Case("mala", mala.reference, {"conv": 3}, equivariant=False),
    Case("mala", mala.reference, {"rotary": True}, equivariant=False),
    Case("mala", mala.reference, {"gate": True, "qkv_bias": False}, multiplicity=True),
    Case("mala", mala.reference, {"conv": 5, "rotary": True, "gate": True}, equivariant=False),
    Case("pool", pool.reference, **OUTPUT_ONLY),
    Case("catm", catm.reference, **OUTPUT_ONLY),
    Case("catm", catm.reference, {"qkv_bias": False}, **OUTPUT_ONLY),
    Case("agent", agent.reference, {"num_agents": 4}, equivariant=False),
    Case("agent", agent.reference, {"num_agents": 9, "position_bias": True, "conv": 3}, equivariant=False),
    Case("agent", agent.reference, {"num_agents": 9, "conv": 3, "qkv_bias": False}, equivariant=False),
    Case("agent", agent.reference, {"position_bias": True, "conv": 3}, equivariant=False),
    Case("pola", pola.reference, multiplicity=True),
    Case("pola", pola.reference, {"alpha": 1.0, **NO_BIAS}, multiplicity=True),
    Case("pola", pola.reference, {"conv": 3}, equivariant=False),
    Case("pola", pola.reference, {"scale_channels": True}, multiplicity=True),
    Case("pola", pola.reference, {"conv": 5, "scale_channels": True, "position_keys": True}, equivariant=False),
    Case("mlla", mlla.reference, equivariant=False),
    Case("mlla", mlla.reference, NO_BIAS, equivariant=False),
    Case("mlla", mlla.reference, {"conv": 3, "gate": True}, equivariant=False),
    Case("gfnet", gfnet.reference, **OUTPUT_ONLY),
    Case("permute_mlp", permute_mlp.reference, **OUTPUT_ONLY),
    Case("permute_mlp", permute_mlp.reference, {"segments": 2, **NO_BIAS}, **OUTPUT_ONLY),
    Case("window", window.reference, equivariant=False),
    Case("window", window.reference, {"position_bias": True}, equivariant=False),
    Case("window", window.reference, {"window": 2}, equivariant=False),
    Case("window", window.reference, {"window": 2}, equivariant=False, block_index=1),
    Case("window", window.reference, {"window": 3, "position_bias": True}, equivariant=False, block_index=1),
    Case("window", window.reference, {"window": 2, **NO_BIAS}, equivariant=False),
    Case("linformer", linformer.reference, equivariant=False),
    Case("linformer", linformer.reference, {"projected_tokens": 3, **NO_BIAS}, equivariant=False),
    # The pseudo-inverse amplifies the rounding of q, k and v, which alone gives this error in the gradients.
    Case("nystrom", nystrom.reference, {"num_landmarks": 3}, equivariant=False, bfloat16=5e-2),
    Case("nystrom", nystrom.reference, {"num_landmarks": 4, "iterations": 3, "qkv_bias": False}, equivariant=False),
    Case("nystrom", nystrom.reference, {"num_landmarks": 2, "conv": 3, "proj_bias": False}, equivariant=False),
    Case("aft_full", aft_full.reference, equivariant=False, quadratic=True),
    Case("aft_full", aft_full.reference, {"rank": 2, **NO_BIAS}, equivariant=False, quadratic=True),
    Case("aft_full", aft_full.reference, {"rank": None}, equivariant=False, quadratic=True),
    Case("mixer", mixer.reference, **OUTPUT_ONLY),
    Case("mixer", mixer.reference, {"mlp_ratio": 1.5}, **OUTPUT_ONLY),
    Case("gmlp", gmlp.reference, quadratic=True, **OUTPUT_ONLY),
    Case("gmlp", gmlp.reference, {"mlp_ratio": 6, **NO_BIAS}, quadratic=True, **OUTPUT_ONLY),
    Case("random", random.reference, equivariant=False, quadratic=True),
    Case("synthesizer", synthesizer.reference, equivariant=False, quadratic=True),
    Case("synthesizer", synthesizer.reference, NO_BIAS, equivariant=False, quadratic=True),
    Case("synthesizer", synthesizer.reference, {"kind": "factorised_dense"}, equivariant=False, quadratic=True),
    Case("synthesizer", synthesizer.reference, {"kind": "random"}, equivariant=False, quadratic=True),
    Case("synthesizer", synthesizer.reference, {"kind": "factorised_random"}, equivariant=False, quadratic=True),
    Case(
        "synthesizer",
        synthesizer.reference,
        {"kind": "factorised_random", "rank": 2},
        equivariant=False,
        quadratic=True,
    ),
    Case("mhla", mhla.reference, equivariant=False, positive=("mixing",)),
    Case("mhla", mhla.reference, {"num_blocks": 4, **NO_BIAS}, equivariant=False, positive=("mixing",)),
    Case("mhla", mhla.reference, {"rms_norm": True, "conv": 5}, equivariant=False, positive=("mixing",)),
    Case("ttt", ttt.reference, multiplicity=True),
    Case("ttt", ttt.reference, NO_BIAS, multiplicity=True),
    Case("ttt", ttt.reference, {"conv_head": True}, equivariant=False),
    Case("rala", rala.reference, multiplicity=True),
    Case("rala", rala.reference, NO_BIAS, multiplicity=True),
    Case("rala", rala.reference, {"rotary": True, "conv": 5}, equivariant=False),
    Case("circulant", circulant.reference, equivariant=False),
    Case("circulant", circulant.reference, {"gate": True, **NO_BIAS}, equivariant=False),
    Case("circulant", circulant.reference, {"gate": True}, equivariant=False),
    Case("tssa", tssa.reference, multiplicity=True),
    Case("tssa", tssa.reference, {"qkv_bias": False}, multiplicity=True),
    Case("sep_conv", sep_conv.reference, **OUTPUT_ONLY),
    Case("sep_conv", sep_conv.reference, {"kernel": 3, "expansion": 1, "qkv_bias": False}, **OUTPUT_ONLY),
    Case("hedgehog", hedgehog.reference, multiplicity=True),
    Case("hedgehog", hedgehog.reference, NO_BIAS, multiplicity=True),
    Case("neighborhood", neighborhood.reference, equivariant=False),
    Case("neighborhood", neighborhood.reference, {"window": 3, **NO_BIAS}, equivariant=False),
    Case("neighborhood", neighborhood.reference, {"window": 3, "dilation": 2}, equivariant=False),
    Case("neighborhood", neighborhood.reference, {"position_bias": True}, equivariant=False),
    Case(
        "neighborhood",
        neighborhood.reference,
        {"window": 3, "dilation": 2, "position_bias": True},
        equivariant=False,
    ),
    Case("nala", nala.reference, multiplicity=True),
    Case("nala", nala.reference, NO_BIAS, multiplicity=True),
    Case("nala", nala.reference, {"rotary": True, "gate": True, "conv": 5}, equivariant=False),
    Case("nc_ssd", nc_ssd.reference, multiplicity=True),
    Case("nc_ssd", nc_ssd.reference, {"state": 3, **NO_BIAS}, multiplicity=True),
    Case("nc_ssd", nc_ssd.reference, {"expand": 2, "conv": 3, "gate": True}, equivariant=False),
    Case("ttt_t5", ttt_t5.reference, multiplicity=True),
    Case("ttt_t5", ttt_t5.reference, NO_BIAS, multiplicity=True),
    Case("ttt_t5", ttt_t5.reference, {"qk_conv": 3}, equivariant=False),
    Case("gla", gla.reference, equivariant=False),
    Case("gla", gla.reference, {"gate_rank": 3, "qkv_bias": False}, equivariant=False),
    Case("gla", gla.reference, {"local": True}, equivariant=False),
    Case("vrwkv", vrwkv.reference, equivariant=False),
    Case("vrwkv", vrwkv.reference, {"qkv_bias": False}, equivariant=False),
    Case("vrwkv", vrwkv.reference, {"shift": True}, equivariant=False),
]

KEYS = list(dict.fromkeys(case.key for case in CASES))
DEFAULTS = [next(case for case in CASES if case.key == key) for key in KEYS]
"""Each mechanism's first case, as its paper defines it."""
FULL = [
    max((case for case in CASES if case.key == key), key=lambda case: len(case.options.keys() - NO_BIAS.keys()))
    for key in KEYS
]
"""Each mechanism's case with the most options, and so with the most parameters."""
PATHS = [case for case in CASES if not case.options or case.options.keys() - NO_BIAS.keys()]
"""All cases but those that only leave out biases."""
