"""Planner: the choice of the engine for a spec, with reasons."""

from convolith.planner.choose import ACCURACIES, EFFORTS, check_choice, check_device, needs_kernel, plan, plan_call
from convolith.planner.plan import BoundPlan, Candidate, Plan, computed

__all__ = [
    "ACCURACIES",
    "EFFORTS",
    "BoundPlan",
    "Candidate",
    "Plan",
    "check_choice",
    "check_device",
    "computed",
    "needs_kernel",
    "plan",
    "plan_call",
]
