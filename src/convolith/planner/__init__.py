"""Which engine computes a spec, and why."""

from convolith.planner.choose import ACCURACIES, EFFORTS, check_choice, plan
from convolith.planner.plan import Bound, Candidate, Plan, computed

__all__ = ["ACCURACIES", "EFFORTS", "Bound", "Candidate", "Plan", "check_choice", "computed", "plan"]
