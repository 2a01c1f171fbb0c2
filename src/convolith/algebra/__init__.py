"""Convolutions as an algebra: plain functions over `Conv` values."""

from convolith.algebra.chain import Composition, compose
from convolith.algebra.decomposition import Decomposition, decompose

__all__ = ["Composition", "Decomposition", "compose", "decompose"]
