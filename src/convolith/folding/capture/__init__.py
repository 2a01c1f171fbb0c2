"""First stage of folding: record a model as a graph."""

from convolith.folding.capture.checked_graph import Captured, NoGraph, capture
from convolith.folding.capture.model_copies import HOOKS, bookkeeping, hooks_of, structural_copy, without_hooks

__all__ = ["HOOKS", "Captured", "NoGraph", "bookkeeping", "capture", "hooks_of", "structural_copy", "without_hooks"]
