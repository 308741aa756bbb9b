"""The zoo: attention mechanisms under one contract. This folder imports torch and nothing else."""

from fvit.attention.additive import Additive
from fvit.attention.base import Mechanism
from fvit.attention.identity import Identity
from fvit.attention.linear import Linear
from fvit.attention.registry import bind, get, names, register
from fvit.attention.softmax import Softmax

__all__ = ["Additive", "Identity", "Linear", "Mechanism", "Softmax", "bind", "get", "names", "register"]
