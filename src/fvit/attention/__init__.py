"""The zoo: attention mechanisms under one contract. This folder imports torch and nothing else."""

from fvit.attention.base import Mechanism
from fvit.attention.projected import Projected
from fvit.attention.registry import bind, get, names, register
from fvit.attention.zoo.additive import Additive
from fvit.attention.zoo.aft_full import AftFull
from fvit.attention.zoo.aft_simple import AftSimple
from fvit.attention.zoo.agent import Agent
from fvit.attention.zoo.catm import Catm
from fvit.attention.zoo.cosformer import Cosformer
from fvit.attention.zoo.differential import Differential
from fvit.attention.zoo.efficient import Efficient
from fvit.attention.zoo.fnet import FNet
from fvit.attention.zoo.focused import Focused
from fvit.attention.zoo.gated import Gated
from fvit.attention.zoo.gfnet import GFNet
from fvit.attention.zoo.gmlp import GMLP
from fvit.attention.zoo.hydra import Hydra
from fvit.attention.zoo.identity import Identity
from fvit.attention.zoo.inline import InLine
from fvit.attention.zoo.linear import Linear
from fvit.attention.zoo.linformer import Linformer
from fvit.attention.zoo.mala import Mala
from fvit.attention.zoo.mixer import Mixer
from fvit.attention.zoo.mlla import Mlla
from fvit.attention.zoo.nystrom import Nystrom
from fvit.attention.zoo.performer import Performer
from fvit.attention.zoo.permute_mlp import PermuteMlp
from fvit.attention.zoo.pola import Pola
from fvit.attention.zoo.pool import Pool
from fvit.attention.zoo.random import Random
from fvit.attention.zoo.relu import Relu
from fvit.attention.zoo.relu_linear import ReluLinear
from fvit.attention.zoo.separable import Separable
from fvit.attention.zoo.sigmoid import Sigmoid
from fvit.attention.zoo.softmax import Softmax
from fvit.attention.zoo.swiftformer import SwiftFormer
from fvit.attention.zoo.synthesizer import Synthesizer
from fvit.attention.zoo.window import Window
from fvit.attention.zoo.xca import Xca

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
