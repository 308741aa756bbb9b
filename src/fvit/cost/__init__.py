"""What a model costs: parameters, MACs, time and memory."""

from fvit.cost.count import Cost, count

__all__ = ["Cost", "count"]
