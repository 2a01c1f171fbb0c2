"""Awkward layers and networks with their known products, and everyone who counts them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from io import BytesIO, StringIO
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional

import convolith as cl


class Case(NamedTuple):
    """A model, the shape of its input, its products forward and, with the input's gradient left out, backward."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    forward: int
    backward: int


class Functional(nn.Module):
    """A function with one parameter."""

    def __init__(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.zeros(shape))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.function(x, self.weight)


class Twice(nn.Module):
    """One module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(8, 8, 3, padding=1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.layer(x))


class Subclass(nn.Conv2d):
    """A convolution of another name."""


class Attention(nn.Module):
    """Scaled dot products of an input with itself."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.scaled_dot_product_attention(x, x, x)


GROUPED = 32 * 2 * 9 * 256
LAYERS = {
    "grouped": Case(lambda: nn.Conv2d(16, 32, 3, padding=1, groups=8, bias=False), (1, 16, 16, 16), GROUPED, GROUPED),
    "depthwise": Case(lambda: nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), (1, 16, 16, 16), 36864, 36864),
    "with a bias": Case(lambda: nn.Conv2d(16, 32, 3, padding=1), (1, 16, 16, 16), 1179648, 1179648),
    "transposed": Case(lambda: nn.ConvTranspose2d(16, 8, 2, stride=2, bias=False), (1, 16, 8, 8), 32768, 32768),
    "transposed, grouped": Case(
        lambda: nn.ConvTranspose2d(16, 8, 3, stride=2, groups=4, bias=False), (1, 16, 8, 8), 18432, 18432
    ),
    "padding same": Case(lambda: nn.Conv2d(8, 8, 3, padding="same", bias=False), (1, 8, 9, 9), 46656, 46656),
    "padding same, even": Case(lambda: nn.Conv2d(8, 8, 2, padding="same", bias=False), (1, 8, 9, 9), 20736, 20736),
    "circular padding": Case(
        lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular", bias=False), (1, 8, 9, 9), 46656, 46656
    ),
    "dilated": Case(lambda: nn.Conv2d(8, 8, 3, padding=4, dilation=4, bias=False), (1, 8, 9, 9), 46656, 46656),
    "one axis": Case(lambda: nn.Conv1d(8, 8, 5, bias=False), (1, 8, 20), 5120, 5120),
    "three axes": Case(lambda: nn.Conv3d(2, 4, 3, bias=False), (1, 2, 6, 6, 6), 13824, 13824),
    "functional": Case(lambda: Functional(functional.conv2d, 8, 8, 3, 3), (1, 8, 9, 9), 28224, 28224),
    "functional linear": Case(lambda: Functional(functional.linear, 5, 7), (3, 7), 105, 105),
    "einsum": Case(lambda: Functional(partial(torch.einsum, "nchw,oc->nohw"), 6, 8), (1, 8, 9, 9), 3888, 3888),
    "called twice": Case(Twice, (1, 8, 9, 9), 93312, 139968),
    "subclass": Case(lambda: Subclass(8, 8, 3, bias=False), (1, 8, 9, 9), 28224, 28224),
    "LSTM": Case(lambda: nn.LSTM(16, 32), (10, 2, 16), 122880, 245760),
    "attention": Case(Attention, (1, 2, 10, 8), 3200, 0),
}
"""Backward, weights have gradients and the input has none (but torch's LSTM computes it anyway)."""


def fake(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """FlopCounterMode of torch, on fake tensors."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        state = {name: mode.from_tensor(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}
        with FlopCounterMode(display=False) as counter:
            out = torch.func.functional_call(model, state, (mode.from_tensor(x),))
            out = next(iter(out.values())) if isinstance(out, dict) else out[0] if isinstance(out, tuple) else out
            forward = counter.get_total_flops() // 2
            if out.requires_grad:
                out.sum().backward()
            return forward, counter.get_total_flops() // 2 - forward


def by_fvcore(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """Meta's fvcore, by tracing."""
    from fvcore.nn import FlopCountAnalysis

    analysis = FlopCountAnalysis(model, x).unsupported_ops_warnings(enabled=False)
    return int(analysis.uncalled_modules_warnings(enabled=False).total()), None


def by_torchinfo(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """torchinfo, by hooks."""
    from torchinfo import summary

    return int(summary(model, input_data=x, verbose=0).total_mult_adds), None


def by_ptflops(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """ptflops, by its ATen back end."""
    from ptflops import get_model_complexity_info

    with redirect_stdout(StringIO()):
        found = get_model_complexity_info(
            model,
            tuple(x.shape),
            as_strings=False,
            print_per_layer_stat=False,
            verbose=False,
            backend="aten",
            input_constructor=lambda _: x,
        )
    return int(found[0] or 0), None


def by_thop(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """thop, by hooks."""
    from thop import profile

    return int(profile(model, inputs=(x,), verbose=False)[0]), None


def by_calflops(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """calflops, by replacing functions."""
    from calflops import calculate_flops

    with redirect_stdout(StringIO()):
        found = calculate_flops(model=model, args=[x], output_as_string=False, print_results=False)
    return int(found[1]), None


def by_torchprofile(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """torchprofile, by tracing."""
    from torchprofile import profile_macs

    return int(profile_macs(model, x)), None


def by_onnx_tool(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """onnx-tool, of an export."""
    import onnx
    import onnx_tool

    held = BytesIO()
    with redirect_stdout(StringIO()):
        torch.onnx.export(model, (x,), held, dynamo=False)
        graph = onnx_tool.Model(onnx.load_model_from_string(held.getvalue()), {"verbose": False}).graph
        graph.shape_infer({next(iter(graph.input)): x.numpy()})
        graph.profile()
    return int(graph.macs[0]), None


def by_convolith(model: nn.Module, x: torch.Tensor) -> tuple[int, int | None]:
    """A model, even where a layer by itself has a closed form."""
    counted = cl.cost(nn.Sequential(model), example_input=x)
    return counted.forward.macs, counted.backward.macs


PEERS: dict[str, tuple[str, Callable[[nn.Module, torch.Tensor], tuple[int, int | None]]]] = {
    "convolith": ("convolith", by_convolith),
    "FlopCounterMode": ("torch", fake),
    "fvcore": ("fvcore", by_fvcore),
    "torchinfo": ("torchinfo", by_torchinfo),
    "ptflops": ("ptflops", by_ptflops),
    "thop": ("thop", by_thop),
    "calflops": ("calflops", by_calflops),
    "torchprofile": ("torchprofile", by_torchprofile),
    "onnx-tool": ("onnx_tool", by_onnx_tool),
}
"""By name: the package that must be installed, and forward and backward products (None where it counts none)."""


def judged(name: str, case: Case) -> dict[str, Any]:
    """Everyone's answers: right, or how many times too high; backward after a slash."""
    row: dict[str, Any] = {"": name}
    for peer, (package, count) in PEERS.items():
        if find_spec(package) is None:
            row[peer] = None
            continue
        try:
            with warnings.catch_warnings(), suppress(ImportError):
                warnings.simplefilter("ignore")
                forward, backward = count(case.make().eval(), torch.zeros(case.shape))
        except Exception as problem:  # noqa: BLE001 - whatever a counter raises, it has not counted
            row[peer] = type(problem).__name__
            continue
        said = [_verdict(forward, case.forward)]
        if backward is not None:
            said.append(_verdict(backward, case.backward))
        row[peer] = " / ".join(said)
    return row


def _verdict(found: int, expected: int) -> str:
    if found == expected:
        return "right"
    return f"{found / expected:.4g}x" if expected else f"{found}"
