"""Which engine computes a spec, and why."""

from convolith.planner.choose import ACCURACIES, Bound, Candidate, Plan, check_choice, computed, plan

__all__ = ["ACCURACIES", "Bound", "Candidate", "Plan", "check_choice", "computed", "plan"]
