"""What a model costs: parameters and multiply-accumulates; and what two models cost that share the work."""

from fvit.cost.count import Cost, count

__all__ = ["Cost", "count"]
