"""The zoo: attention mechanisms under one contract. This folder imports torch and nothing else."""

from fvit.attention.additive import Additive
from fvit.attention.aft_full import AftFull
from fvit.attention.aft_simple import AftSimple
from fvit.attention.agent import Agent
from fvit.attention.base import Mechanism
from fvit.attention.catm import Catm
from fvit.attention.cosformer import Cosformer
from fvit.attention.differential import Differential
from fvit.attention.efficient import Efficient
from fvit.attention.fnet import FNet
from fvit.attention.focused import Focused
from fvit.attention.gated import Gated
from fvit.attention.gfnet import GFNet
from fvit.attention.gmlp import GMLP
from fvit.attention.hydra import Hydra
from fvit.attention.identity import Identity
from fvit.attention.inline import InLine
from fvit.attention.linear import Linear
from fvit.attention.linformer import Linformer
from fvit.attention.mala import Mala
from fvit.attention.mixer import Mixer
from fvit.attention.mlla import Mlla
from fvit.attention.nystrom import Nystrom
from fvit.attention.performer import Performer
from fvit.attention.permute_mlp import PermuteMlp
from fvit.attention.pola import Pola
from fvit.attention.pool import Pool
from fvit.attention.projected import Projected
from fvit.attention.random import Random
from fvit.attention.registry import bind, get, names, register
from fvit.attention.relu import Relu
from fvit.attention.relu_linear import ReluLinear
from fvit.attention.separable import Separable
from fvit.attention.sigmoid import Sigmoid
from fvit.attention.softmax import Softmax
from fvit.attention.swiftformer import SwiftFormer
from fvit.attention.synthesizer import Synthesizer
from fvit.attention.window import Window
from fvit.attention.xca import Xca

__all__ = [
    "GMLP",
    "Additive",
    "AftFull",
    "AftSimple",
    "Agent",
    "Catm",
    "Cosformer",
    "Differential",
    "Efficient",
    "FNet",
    "Focused",
    "GFNet",
    "Gated",
    "Hydra",
    "Identity",
    "InLine",
    "Linear",
    "Linformer",
    "Mala",
    "Mechanism",
    "Mixer",
    "Mlla",
    "Nystrom",
    "Performer",
    "PermuteMlp",
    "Pola",
    "Pool",
    "Projected",
    "Random",
    "Relu",
    "ReluLinear",
    "Separable",
    "Sigmoid",
    "Softmax",
    "SwiftFormer",
    "Synthesizer",
    "Window",
    "Xca",
    "bind",
    "get",
    "names",
    "register",
]
