"""The cost of a layer or a model, computed before it runs."""

from convolith.costing.api import cost
from convolith.costing.growth.laws import Law
from convolith.costing.growth.scaling import Scaling
from convolith.costing.layer_cost import LayerCost
from convolith.costing.model_cost import ModelCost
from convolith.costing.peak import Peak

__all__ = ["Law", "LayerCost", "ModelCost", "Peak", "Scaling", "cost"]
