"""What a layer costs before it runs."""

from convolith.costing.layer import Cost, Scaling, cost

__all__ = ["Cost", "Scaling", "cost"]
