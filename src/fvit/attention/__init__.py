"""Attention mechanisms under one contract. This package imports torch and the standard library only."""

from fvit.attention.base import Mechanism
from fvit.attention.projected import Projected
from fvit.attention.registry import bind, get, names, register
from fvit.attention.zoo.additive import AdditiveAttention
from fvit.attention.zoo.additive_plus import AdditivePlusAttention
from fvit.attention.zoo.aft_full import AFTFull
from fvit.attention.zoo.aft_simple import AFTSimple
from fvit.attention.zoo.agent import AgentAttention
from fvit.attention.zoo.catm import CATM
from fvit.attention.zoo.circulant import CirculantAttention
from fvit.attention.zoo.cosformer import CosFormerAttention
from fvit.attention.zoo.differential import DifferentialAttention
from fvit.attention.zoo.efficient import EfficientAttention
from fvit.attention.zoo.fnet import FNet
from fvit.attention.zoo.focused import FocusedLinearAttention
from fvit.attention.zoo.gated import GatedAttention
from fvit.attention.zoo.gfnet import GFNet
from fvit.attention.zoo.gla import GatedLinearAttention
from fvit.attention.zoo.gmlp import GMLP
from fvit.attention.zoo.hedgehog import HedgehogAttention
from fvit.attention.zoo.hydra import HydraAttention
from fvit.attention.zoo.identity import IdentityMixer
from fvit.attention.zoo.inline import InLineAttention
from fvit.attention.zoo.linear import LinearAttention
from fvit.attention.zoo.linformer import LinformerAttention
from fvit.attention.zoo.mala import MALA
from fvit.attention.zoo.mhla import MHLA
from fvit.attention.zoo.mixer import TokenMixingMLP
from fvit.attention.zoo.mlla import MLLA
from fvit.attention.zoo.nala import NaLa
from fvit.attention.zoo.nc_ssd import NonCausalSSD
from fvit.attention.zoo.neighborhood import NeighborhoodAttention
from fvit.attention.zoo.nystrom import NystromAttention
from fvit.attention.zoo.performer import PerformerAttention
from fvit.attention.zoo.permute_mlp import PermuteMLP
from fvit.attention.zoo.pola import PoLA
from fvit.attention.zoo.pool import PoolMixer
from fvit.attention.zoo.rala import RALA
from fvit.attention.zoo.random import RandomMixer
from fvit.attention.zoo.relu import ReLUAttention
from fvit.attention.zoo.relu_linear import ReLULinearAttention
from fvit.attention.zoo.sep_conv import SeparableConvolution
from fvit.attention.zoo.separable import SeparableAttention
from fvit.attention.zoo.sigmoid import SigmoidAttention
from fvit.attention.zoo.softmax import SoftmaxAttention
from fvit.attention.zoo.swiftformer import SwiftFormerAttention
from fvit.attention.zoo.synthesizer import SynthesizerAttention
from fvit.attention.zoo.tssa import TSSA
from fvit.attention.zoo.ttt import TestTimeTraining
from fvit.attention.zoo.ttt_t5 import T5TestTimeTraining
from fvit.attention.zoo.vrwkv import BiWKV
from fvit.attention.zoo.window import WindowAttention
from fvit.attention.zoo.xca import XCA

# Class names of version 0.1.
Additive, AftFull, AftSimple = AdditiveAttention, AFTFull, AFTSimple
Agent, Catm, Cosformer = AgentAttention, CATM, CosFormerAttention
Differential, Efficient, Focused = DifferentialAttention, EfficientAttention, FocusedLinearAttention
Gated, Hydra, Identity = GatedAttention, HydraAttention, IdentityMixer
InLine, Linear, Linformer = InLineAttention, LinearAttention, LinformerAttention
Mala, Mixer, Mlla = MALA, TokenMixingMLP, MLLA
Nystrom, Performer, PermuteMlp = NystromAttention, PerformerAttention, PermuteMLP
Pola, Pool, Random = PoLA, PoolMixer, RandomMixer
Relu, ReluLinear, Separable = ReLUAttention, ReLULinearAttention, SeparableAttention
Sigmoid, Softmax, SwiftFormer = SigmoidAttention, SoftmaxAttention, SwiftFormerAttention
Synthesizer, Window, Xca = SynthesizerAttention, WindowAttention, XCA

__all__ = [
    "CATM",
    "GMLP",
    "MALA",
    "MHLA",
    "MLLA",
    "RALA",
    "TSSA",
    "XCA",
    "AFTFull",
    "AFTSimple",
    "AdditiveAttention",
    "AdditivePlusAttention",
    "AgentAttention",
    "BiWKV",
    "CirculantAttention",
    "CosFormerAttention",
    "DifferentialAttention",
    "EfficientAttention",
    "FNet",
    "FocusedLinearAttention",
    "GFNet",
    "GatedAttention",
    "GatedLinearAttention",
    "HedgehogAttention",
    "HydraAttention",
    "IdentityMixer",
    "InLineAttention",
    "LinearAttention",
    "LinformerAttention",
    "Mechanism",
    "NaLa",
    "NeighborhoodAttention",
    "NonCausalSSD",
    "NystromAttention",
    "PerformerAttention",
    "PermuteMLP",
    "PoLA",
    "PoolMixer",
    "Projected",
    "RandomMixer",
    "ReLUAttention",
    "ReLULinearAttention",
    "SeparableAttention",
    "SeparableConvolution",
    "SigmoidAttention",
    "SoftmaxAttention",
    "SwiftFormerAttention",
    "SynthesizerAttention",
    "T5TestTimeTraining",
    "TestTimeTraining",
    "TokenMixingMLP",
    "WindowAttention",
    "bind",
    "get",
    "names",
    "register",
]
