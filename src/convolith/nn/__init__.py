"""Drop-in convolution modules, and the conversion of whole models to them and back."""

from convolith.nn import layers as _layers
from convolith.nn.conversion import Conversion, Layer, convert, report, revert
from convolith.nn.freezing import freeze, unfreeze
from convolith.nn.layers import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    LazyConv1d,
    LazyConv2d,
    LazyConv3d,
    LazyConvTranspose1d,
    LazyConvTranspose2d,
    LazyConvTranspose3d,
)

__all__ = [
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Conversion",
    "Layer",
    "LazyConv1d",
    "LazyConv2d",
    "LazyConv3d",
    "LazyConvTranspose1d",
    "LazyConvTranspose2d",
    "LazyConvTranspose3d",
    "convert",
    "freeze",
    "report",
    "revert",
    "unfreeze",
]

for _layer in _layers.SWAPPED.values():
    _layer.__module__ = __name__  # the public name, under which modules are printed and pickled
