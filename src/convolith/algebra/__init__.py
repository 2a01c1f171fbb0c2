"""Convolutions as an algebra: plain functions over `Conv` values."""

from convolith.algebra.chain import Composition, compose

__all__ = ["Composition", "compose"]
