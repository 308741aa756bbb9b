"""The table that the shared suite runs over: a mechanism joins it by its lines in `CASES`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from .refs import (
    additive,
    aft_full,
    aft_simple,
    agent,
    catm,
    cosformer,
    differential,
    efficient,
    fnet,
    focused,
    gated,
    gfnet,
    gmlp,
    hydra,
    identity,
    inline,
    linear,
    linformer,
    mala,
    mixer,
    mlla,
    nystrom,
    performer,
    permute_mlp,
    pola,
    pool,
    random,
    relu,
    relu_linear,
    separable,
    sigmoid,
    softmax,
    swiftformer,
    synthesizer,
    window,
    xca,
)

Reference = Callable[[nn.Module, Tensor, Tensor | None], Tensor]

GRIDS = ((2, 3), (4, 2), (3, 5), (1, 4))


@dataclass(frozen=True)
class Case:
    """One mechanism with one set of options, and what it declares of itself.

    That a mechanism needs a grid, a fixed length or no prefix is read off its class.
    """

    key: str
    reference: Reference
    """Maps (module, x [B, N, C], keep: bool [B, N] or None) to [B, N, C]; only rows that are kept are compared."""
    options: Mapping[str, Any] = field(default_factory=dict)
    equivariant: bool = True
    """Permuting the tokens permutes the output and does nothing else. Where this is False, it must be false."""
    masks: Literal["keys", "pairs"] | None = "keys"
    """Masks that are honoured: over keys, between pairs (and over keys) or none; all others are refused."""
    causal: bool = False
    multiplicity: bool = False
    """A mask of log m on a key is worth m copies of its token, as for any softmax or normalised kernel."""
    quadratic: bool = False
    """A number is held for each pair of tokens, in a map or among the weights."""
    dropouts: tuple[str, ...] = ("attn_drop", "proj_drop")
    """The rates that have something to fall on."""
    block_index: int = 0
    """The block in which it stands, for what changes with depth."""
    grids: tuple[tuple[int, int], ...] = GRIDS
    """(rows, columns) on which it is tried: its own where options ask for certain ones, none for one token alone."""
    float32: float = 5e-6
    bfloat16: float = 3e-2
    """Bounds on ‖error‖/‖float64 result‖ of the output, and of all gradients taken together."""

    @property
    def id(self) -> str:
        """`key` or `key-option=value-…`, for pytest."""
        named = {**self.options, **({"block": self.block_index} if self.block_index else {})}
        return "-".join([self.key, *(f"{name}={getattr(v, '__name__', v)}" for name, v in named.items())])


CASES = [
    Case("additive", additive.reference, multiplicity=True),
    Case("additive", additive.reference, {"logits": "full"}, multiplicity=True),
    Case("additive", additive.reference, {"value": "separate"}, multiplicity=True),
    Case("additive", additive.reference, {"proj": True, "qkv_bias": False}, multiplicity=True),
    Case("additive", additive.reference, {"logits": "full", "value": "separate", "proj": True}, multiplicity=True),
    Case("identity", identity.reference, masks="pairs", causal=True, dropouts=()),
    Case("linear", linear.reference, multiplicity=True),
    Case("linear", linear.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("softmax", softmax.reference, masks="pairs", causal=True, multiplicity=True, quadratic=True),
    Case(
        "softmax", softmax.reference, {"qk_norm": True}, masks="pairs", causal=True, multiplicity=True, quadratic=True
    ),
    Case(
        "softmax",
        softmax.reference,
        {"qkv_bias": False, "proj_bias": False},
        masks="pairs",
        causal=True,
        quadratic=True,
    ),
    Case("separable", separable.reference, multiplicity=True),
    Case("separable", separable.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("swiftformer", swiftformer.reference, multiplicity=True),
    Case("swiftformer", swiftformer.reference, {"norm": "l2"}),
    Case("swiftformer", swiftformer.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("fnet", fnet.reference, equivariant=False, masks=None, dropouts=("proj_drop",)),
    Case("focused", focused.reference, multiplicity=True),
    Case(
        "focused", focused.reference, {"focusing_factor": 5, "qkv_bias": False, "proj_bias": False}, multiplicity=True
    ),
    Case("focused", focused.reference, {"conv": 5}, equivariant=False),
    Case("focused", focused.reference, {"norm": "token", "scale_channels": True}, multiplicity=True),
    Case("focused", focused.reference, {"position_keys": True, "qkv_bias": False}, equivariant=False),
    Case(
        "focused",
        focused.reference,
        {"conv": 5, "norm": "token", "scale_channels": True, "position_keys": True},
        equivariant=False,
    ),
    Case("sigmoid", sigmoid.reference, masks="pairs", causal=True, quadratic=True),
    Case(
        "sigmoid",
        sigmoid.reference,
        {"qkv_bias": False, "proj_bias": False},
        masks="pairs",
        causal=True,
        quadratic=True,
    ),
    Case("relu", relu.reference, masks="pairs", causal=True, quadratic=True),
    Case("relu", relu.reference, {"qkv_bias": False, "proj_bias": False}, masks="pairs", causal=True, quadratic=True),
    Case("gated", gated.reference, masks="pairs", causal=True, multiplicity=True, quadratic=True),
    Case("gated", gated.reference, {"qkv_bias": False, "proj_bias": False}, masks="pairs", causal=True, quadratic=True),
    Case("differential", differential.reference, masks="pairs", causal=True, multiplicity=True, quadratic=True),
    Case(
        "differential",
        differential.reference,
        {"qkv_bias": False},
        masks="pairs",
        causal=True,
        block_index=6,
        quadratic=True,
    ),
    Case(
        "differential",
        differential.reference,
        {"lambda_init": 0.5, "proj_bias": False},
        masks="pairs",
        causal=True,
        quadratic=True,
    ),
    Case("efficient", efficient.reference, multiplicity=True),
    Case("efficient", efficient.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("relu_linear", relu_linear.reference, multiplicity=True),
    Case("relu_linear", relu_linear.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("relu_linear", relu_linear.reference, {"conv": 3}, equivariant=False),
    Case("relu_linear", relu_linear.reference, {"aggregate": 5}, equivariant=False),
    Case("relu_linear", relu_linear.reference, {"aggregate": 3, "conv": 3, "proj_bias": False}, equivariant=False),
    Case("xca", xca.reference, multiplicity=True),
    Case("xca", xca.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("hydra", hydra.reference, multiplicity=True),
    Case("hydra", hydra.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("aft_simple", aft_simple.reference, multiplicity=True),
    Case("aft_simple", aft_simple.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    # In cos a cos b + sin a sin b each feature is rounded twice, and a normaliser near 0 makes the most of it.
    Case("cosformer", cosformer.reference, equivariant=False, bfloat16=4e-2),
    Case("cosformer", cosformer.reference, {"qkv_bias": False, "proj_bias": False}, equivariant=False, bfloat16=4e-2),
    Case("performer", performer.reference, multiplicity=True),
    Case("performer", performer.reference, {"num_features": 3, "seed": 1}, multiplicity=True),
    Case("performer", performer.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("inline", inline.reference, multiplicity=True),
    Case("inline", inline.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("inline", inline.reference, {"local": True}, equivariant=False),
    Case("mala", mala.reference, multiplicity=True),
    Case("mala", mala.reference, {"qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("mala", mala.reference, {"conv": 3}, equivariant=False),
    Case("mala", mala.reference, {"rotary": True}, equivariant=False),
    Case("mala", mala.reference, {"gate": True, "qkv_bias": False}, multiplicity=True),
    Case("mala", mala.reference, {"conv": 5, "rotary": True, "gate": True}, equivariant=False),
    Case("pool", pool.reference, equivariant=False, dropouts=("proj_drop",)),
    Case("catm", catm.reference, equivariant=False, dropouts=("proj_drop",)),
    Case("catm", catm.reference, {"qkv_bias": False}, equivariant=False, dropouts=("proj_drop",)),
    Case("agent", agent.reference, {"num_agents": 4}, equivariant=False),
    Case("agent", agent.reference, {"num_agents": 4, "position_bias": True}, equivariant=False),
    Case("agent", agent.reference, {"num_agents": 9, "conv": 3, "qkv_bias": False}, equivariant=False),
    Case("agent", agent.reference, {"position_bias": True, "conv": 3}, equivariant=False),
    Case("pola", pola.reference, multiplicity=True),
    Case("pola", pola.reference, {"alpha": 1.0, "qkv_bias": False, "proj_bias": False}, multiplicity=True),
    Case("pola", pola.reference, {"conv": 3}, equivariant=False),
    Case("pola", pola.reference, {"scale_channels": True}, multiplicity=True),
    Case("pola", pola.reference, {"conv": 5, "scale_channels": True, "position_keys": True}, equivariant=False),
    Case("mlla", mlla.reference, equivariant=False),
    Case("mlla", mlla.reference, {"qkv_bias": False, "proj_bias": False}, equivariant=False),
    Case("mlla", mlla.reference, {"conv": 3, "gate": True}, equivariant=False),
    Case("gfnet", gfnet.reference, equivariant=False, dropouts=("proj_drop",)),
    Case("permute_mlp", permute_mlp.reference, equivariant=False, dropouts=("proj_drop",)),
    Case(
        "permute_mlp",
        permute_mlp.reference,
        {"segments": 2, "qkv_bias": False, "proj_bias": False},
        equivariant=False,
        dropouts=("proj_drop",),
    ),
    Case("window", window.reference, equivariant=False),
    Case("window", window.reference, {"position_bias": True}, equivariant=False),
    Case("window", window.reference, {"window": 2}, equivariant=False),
    Case("window", window.reference, {"window": 2}, equivariant=False, block_index=1),
    Case("window", window.reference, {"window": 3, "position_bias": True}, equivariant=False, block_index=1),
    Case("window", window.reference, {"window": 2, "qkv_bias": False, "proj_bias": False}, equivariant=False),
    Case("linformer", linformer.reference, equivariant=False),
    Case(
        "linformer",
        linformer.reference,
        {"projected_tokens": 3, "qkv_bias": False, "proj_bias": False},
        equivariant=False,
    ),
    # The pseudo-inverse magnifies the rounding of q, k and v, which alone gives this error in the gradients.
    Case("nystrom", nystrom.reference, {"num_landmarks": 3}, equivariant=False, bfloat16=5e-2),
    Case("nystrom", nystrom.reference, {"num_landmarks": 4, "iterations": 3, "qkv_bias": False}, equivariant=False),
    Case("nystrom", nystrom.reference, {"num_landmarks": 2, "conv": 3, "proj_bias": False}, equivariant=False),
    Case("aft_full", aft_full.reference, equivariant=False, quadratic=True),
    Case(
        "aft_full",
        aft_full.reference,
        {"rank": 2, "qkv_bias": False, "proj_bias": False},
        equivariant=False,
        quadratic=True,
    ),
    Case("aft_full", aft_full.reference, {"rank": None}, equivariant=False, quadratic=True),
    Case("mixer", mixer.reference, equivariant=False, dropouts=("proj_drop",)),
    Case("mixer", mixer.reference, {"mlp_ratio": 1.5}, equivariant=False, dropouts=("proj_drop",)),
    Case("gmlp", gmlp.reference, equivariant=False, dropouts=("proj_drop",), quadratic=True),
    Case(
        "gmlp",
        gmlp.reference,
        {"mlp_ratio": 6, "qkv_bias": False, "proj_bias": False},
        equivariant=False,
        dropouts=("proj_drop",),
        quadratic=True,
    ),
    Case("random", random.reference, equivariant=False, quadratic=True),
    Case("synthesizer", synthesizer.reference, equivariant=False, quadratic=True),
    Case(
        "synthesizer", synthesizer.reference, {"qkv_bias": False, "proj_bias": False}, equivariant=False, quadratic=True
    ),
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
]
