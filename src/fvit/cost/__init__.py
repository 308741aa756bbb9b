"""What a model costs: parameters and multiply-accumulates."""

from fvit.cost.count import Cost, count

__all__ = ["Cost", "count"]
