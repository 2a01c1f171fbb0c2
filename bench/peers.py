"""The peers, one row each: when one takes a case, and how it is called at its best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from convolith import ConvSpec

Runner = Callable[[], Any]


@dataclass(frozen=True)
class Operands:
    """A case's arrays: x and k as tensors and as NumPy views of the same memory."""

    spec: ConvSpec
    x: torch.Tensor
    k: torch.Tensor

    @property
    def padding(self) -> tuple[int, ...]:
        """Symmetric padding, one number per axis (the grid has no other)."""
        return tuple(before for before, _ in self.spec.padding)

    def torch_options(self) -> dict[str, Any]:
        """Keywords of torch's own convolution."""
        return {
            "stride": self.spec.stride,
            "padding": self.padding,
            "dilation": self.spec.dilation,
            "groups": self.spec.groups,
        }


@dataclass(frozen=True)
class Peer:
    """A name, the package it needs, why it does not take a case (or None), and its runner for one that it takes."""

    name: str
    package: str
    refuse: Callable[[ConvSpec], str | None]
    runner: Callable[[Operands], Runner]


CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}


def _torch(operands: Operands) -> Runner:
    run, options = CONVOLUTIONS[operands.spec.axes], operands.torch_options()
    return lambda: run(operands.x, operands.k, **options)


def _torch_channels_last(operands: Operands) -> Runner:
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}[operands.spec.axes]
    x, k = operands.x.to(memory_format=layout), operands.k.to(memory_format=layout)
    run, options = CONVOLUTIONS[operands.spec.axes], operands.torch_options()
    return lambda: run(x, k, **options)


def _opencv(operands: Operands) -> Runner:
    import cv2

    cv2.setNumThreads(torch.get_num_threads())
    image, kernel = operands.x.numpy()[0, 0], operands.k.numpy()[0, 0]
    depth = {"float32": cv2.CV_32F, "float64": cv2.CV_64F}[operands.spec.out_dtype]
    return lambda: cv2.filter2D(image, depth, kernel, borderType=cv2.BORDER_CONSTANT)


def _scipy(name: str) -> Callable[[Operands], Runner]:
    def runner(operands: Operands) -> Runner:
        from scipy import signal

        run = getattr(signal, name)
        x = operands.x.numpy()[0, 0].astype(operands.spec.out_dtype)
        flipped = np.ascontiguousarray(np.flip(operands.k.numpy()[0, 0]))
        mode = "same" if any(operands.padding) else "valid"
        return lambda: run(x, flipped, mode=mode)

    return runner


def _one_plane(spec: ConvSpec) -> str | None:
    if spec.batch * spec.in_channels * spec.out_channels > 1:
        return "takes one channel"
    if max(*spec.stride, *spec.dilation) > 1:
        return "takes no stride or dilation"
    same = all(2 * a == 2 * b == e - 1 for (a, b), e in zip(spec.padding, spec.extent, strict=True))
    valid = not any(map(any, spec.padding))
    return None if same or valid else "pads by half the kernel or not at all"


def _filter2d(spec: ConvSpec) -> str | None:
    if spec.axes != 2:
        return "takes two axes"
    if spec.out_dtype not in ("float32", "float64"):
        return f"gives no {spec.out_dtype}"
    if not any(map(any, spec.padding)):
        return "always pads"
    return _one_plane(spec)


def _float_operands(spec: ConvSpec) -> str | None:
    return None if spec.dtype == spec.kernel_dtype else "takes one dtype"


PEERS = (
    Peer("torch", "torch", _float_operands, _torch),
    Peer(
        "torch channels_last",
        "torch",
        lambda spec: "has no such format on one axis" if spec.axes == 1 else _float_operands(spec),
        _torch_channels_last,
    ),
    Peer("OpenCV filter2D", "cv2", _filter2d, _opencv),
    Peer("SciPy fftconvolve", "scipy", _one_plane, _scipy("fftconvolve")),
    Peer("SciPy oaconvolve", "scipy", _one_plane, _scipy("oaconvolve")),
)


def missing(peers: tuple[Peer, ...] = PEERS) -> dict[str, str]:
    """The peers whose package is not installed here."""
    return {peer.name: f"{peer.package} is not installed" for peer in peers if find_spec(peer.package) is None}
