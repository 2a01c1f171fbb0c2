"""The peers, one row each: when one takes a case, and how it is called at its best."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from convolith import ConvSpec
from convolith.engines.aten import unfolded

Runner = Callable[[], Any]
PATIENCE, TORCH_PATIENCE = 2e9, 5e9
"""Products that ndimage.correlate and torch's plain loops are given to do: some ten seconds."""


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


def _ndimage(operands: Operands) -> Runner:
    from scipy import ndimage

    x, k = operands.x.numpy()[0, 0], operands.k.numpy()[0, 0]
    kind = np.dtype(operands.spec.out_dtype)
    return lambda: ndimage.correlate(x, k, output=kind, mode="constant")


def _onnx_model(operands: Operands) -> bytes:
    """One Conv node with its weights inside."""
    from onnx import TensorProto, checker, helper, numpy_helper

    spec = operands.spec
    node = helper.make_node(
        "Conv",
        ["x", "k"],
        ["y"],
        kernel_shape=list(spec.kernel_size),
        strides=list(spec.stride),
        dilations=list(spec.dilation),
        group=spec.groups,
        pads=[before for before, _ in spec.padding] + [after for _, after in spec.padding],
    )
    shapes = {"x": spec.input_shape, "y": spec.output_shape}
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shapes[name]))] for name in ("x", "y")
    )
    graph = helper.make_graph([node], "conv", inputs, outputs, [numpy_helper.from_array(operands.k.numpy(), "k")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def _onnxruntime(operands: Operands) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_onnx_model(operands), options, providers=["CPUExecutionProvider"])
    x = operands.x.numpy()
    return lambda: session.run(None, {"x": x})[0]


def _openvino(operands: Operands) -> Runner:
    import openvino

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
    }
    request = core.compile_model(core.read_model(_onnx_model(operands)), "CPU", settings).create_infer_request()
    x = operands.x.numpy()
    return lambda: request.infer({0: x}, share_inputs=True, share_outputs=True)[0]


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


def _correlate(spec: ConvSpec) -> str | None:
    if not any(map(any, spec.padding)):
        return "always pads"
    return _one_plane(spec) or _within(spec, PATIENCE)


def _onnx(spec: ConvSpec) -> str | None:
    if not spec.dtype == spec.kernel_dtype == "float32":
        return "takes float32"
    return _within(spec, PATIENCE) if spec.in_channels == spec.groups and spec.taps > 500 else None


def _within(spec: ConvSpec, products: float) -> str | None:
    """Whether a slow peer is done before the day is."""
    return "would take minutes" if float(np.prod(spec.output_shape)) * spec.products_per_output > products else None


def beyond_torch(spec: ConvSpec) -> str | None:
    """Return why torch is not timed, or None.

    Its plain loops for one channel do about 4e8 products a second; in float64 it copies the window of every output.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if unfolded(spec)[1] > memory / 2:
        return f"torch would allocate {unfolded(spec)[1] / 1e9:.0f} GB"
    return _within(spec, TORCH_PATIENCE) if spec.in_channels == spec.groups else None


def _torch_contiguous(spec: ConvSpec) -> str | None:
    return _float_operands(spec) or beyond_torch(spec)


def _float_operands(spec: ConvSpec) -> str | None:
    return None if spec.dtype == spec.kernel_dtype else "takes one dtype"


PEERS = (
    Peer("torch", "torch", _torch_contiguous, _torch),
    Peer(
        "torch channels_last",
        "torch",
        lambda spec: "has no such format on one axis" if spec.axes == 1 else _float_operands(spec),
        _torch_channels_last,
    ),
    Peer("OpenCV filter2D", "cv2", _filter2d, _opencv),
    Peer("SciPy fftconvolve", "scipy", _one_plane, _scipy("fftconvolve")),
    Peer("SciPy oaconvolve", "scipy", _one_plane, _scipy("oaconvolve")),
    Peer("ndimage.correlate", "scipy", _correlate, _ndimage),
    Peer("ONNX Runtime", "onnxruntime", _onnx, _onnxruntime),
    Peer("OpenVINO", "openvino", _onnx, _openvino),
)


def missing(peers: tuple[Peer, ...] = PEERS) -> dict[str, str]:
    """The peers whose package is not installed here."""
    return {peer.name: f"{peer.package} is not installed" for peer in peers if find_spec(peer.package) is None}
