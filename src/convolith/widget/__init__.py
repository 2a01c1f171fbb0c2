"""Live figures of the explorer, in notebooks and in saved pages: a layer cell by cell, and two convolutions as one."""

from convolith.widget.figures import fold, look

__all__ = ["fold", "look"]
