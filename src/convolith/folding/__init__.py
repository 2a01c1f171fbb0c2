"""Whole models folded: many convolutions made one, exactly; and the other direction, for training."""

from convolith.folding.model import Folded, fold
from convolith.folding.report import Report, Rewrite, Skipped
from convolith.folding.training_forms import expand

__all__ = ["Folded", "Report", "Rewrite", "Skipped", "expand", "fold"]
