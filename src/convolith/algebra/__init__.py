"""Convolutions as an algebra: plain functions over `Conv` values."""

from convolith.algebra.branches import add, concatenate, scale, subtract
from convolith.algebra.chain import Composition, compose
from convolith.algebra.decomposition.decompose import Decomposition, decompose
from convolith.algebra.layers_as_convolutions import (
    average_pool,
    batch_norm,
    identity,
    linear,
    pad,
    rescale,
    select,
    upsample,
)

__all__ = [
    "Composition",
    "Decomposition",
    "add",
    "average_pool",
    "batch_norm",
    "compose",
    "concatenate",
    "decompose",
    "identity",
    "linear",
    "pad",
    "rescale",
    "scale",
    "select",
    "subtract",
    "upsample",
]
