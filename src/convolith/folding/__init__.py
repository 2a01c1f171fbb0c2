"""Whole models folded: many convolutions made one, exactly; and the other direction, for training."""

from convolith.folding.expand.forms import expand
from convolith.folding.fold_model import Folded, fold
from convolith.folding.report import FoldReport, Rewrite, Skipped

__all__ = ["FoldReport", "Folded", "Rewrite", "Skipped", "expand", "fold"]
