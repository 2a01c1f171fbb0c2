"""Folding: several convolutions of a model become one, exactly (`fold`), or one becomes several (`expand`)."""

from convolith.folding.expand.forms import expand
from convolith.folding.fold_model import Folded, fold
from convolith.folding.report import FoldReport, Rewrite, Skipped

__all__ = ["FoldReport", "Folded", "Rewrite", "Skipped", "expand", "fold"]
