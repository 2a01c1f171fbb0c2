"""What a layer or a model costs before it runs."""

from convolith.costing.layer import Cost
from convolith.costing.model import ModelCost
from convolith.costing.scaling import Scaling
from convolith.costing.subject import cost

__all__ = ["Cost", "ModelCost", "Scaling", "cost"]
