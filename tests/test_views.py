"""No result and no gradient of ours is a view, so that the next layer may change it in place, as it does torch's."""

import copy

import pytest
import torch

import convolith as cl
from convolith import Conv, ConvolithError
from convolith.correlation.registered_operator import _correlate
from convolith.engines import TABLE

GEOMETRIES = {
    "one by one on one pixel": ((2, 8, 1, 1), (4, 8, 1, 1), {}),
    "one by one in groups": ((2, 8, 3, 2), (4, 4, 1, 1), {"groups": 2}),
    "uneven padding": ((2, 4, 6, 5), (6, 4, 3, 3), {"padding": ((1, 0), (0, 2))}),
    "depthwise": ((2, 4, 9, 8), (4, 1, 3, 3), {"padding": 1, "groups": 4}),
    "one row": ((2, 4, 1, 8), (6, 4, 1, 3), {}),
    "signal, padded by reflection": ((2, 4, 9), (6, 4, 3), {"padding": 1, "padding_mode": "reflect"}),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.int8, torch.uint64)
ENGINES = ["auto", *(engine.name for engine in TABLE)]
FAST = [engine.name for engine in TABLE if engine.only_fast]


def operands(x_shape, k_shape, dtype, *, last=False, batched=True):
    x, k = ((torch.arange(torch.Size(s).numel()) % 5).reshape(s).to(dtype) for s in (x_shape, k_shape))
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    return (x if batched else x[0]), k


def check(y: torch.Tensor) -> None:
    """Plain, and free to be changed in place."""
    assert y._base is None
    assert not y._is_view()
    if y.dtype is not torch.uint64:
        (y.mul_(2) if y.is_complex() or not y.dtype.is_floating_point else y.relu_()).sum()


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_results_are_no_views(geometry, engine):
    x_shape, k_shape, options = geometry
    for dtype in DTYPES:
        for last in (False, True)[: 1 + (len(x_shape) == 4)]:
            for batched in (True, False):
                x, k = operands(x_shape, k_shape, dtype, last=last, batched=batched)
                how = {"engine": engine, "accuracy": "fast" if engine in FAST else "default"}
                try:
                    y = cl.correlate(x, k, **how, **options)
                except ConvolithError:
                    assert engine not in ("auto", "aten", "reference")  # which compute everything
                    continue
                check(y)
                check(cl.correlate(x, k, **how, **options))  # which comes the quick way
                if dtype.is_floating_point or dtype.is_complex:
                    x, k = x.requires_grad_(), k.requires_grad_()
                    y = cl.correlate(x, k, **how, **options)
                    check(y)
                    found = torch.autograd.grad(y.abs().sum(), (x, k))
                    if batched and options.get("padding_mode") is None:
                        check(found[0])
                    check(found[1])


@pytest.mark.parametrize("geometry", list(GEOMETRIES.values())[:5], ids=list(GEOMETRIES)[:5])
def test_results_of_the_operator_are_no_views(geometry):
    x_shape, k_shape, options = geometry
    pairs = options.get("padding", 0)
    flat = [pairs] * 4 if isinstance(pairs, int) else [n for pair in pairs for n in pair]
    for last in (False, True):
        for dtype in (torch.float32, torch.float64):
            x, k = (t.requires_grad_() for t in operands(x_shape, k_shape, dtype, last=last))
            y = _correlate(x, k, None, [1, 1], flat, [1, 1], options.get("groups", 1), "zeros", "default", "auto")
            check(y)
            for gradient in torch.autograd.grad(y.sum(), (x, k)):
                check(gradient)


@pytest.mark.parametrize("engine", ["auto", "aten", "phases", "reference"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_results_of_transposed_convolutions_are_no_views(dtype, engine):
    for stride, padding in ((1, 0), (2, ((0, 1), (1, 0)))):
        conv = Conv(torch.ones(4, 3, 3, 2, dtype=dtype), transposed=True, stride=stride, padding=padding)
        for batched in (True, False):
            x, _ = operands((2, 4, 5, 6), (1,), dtype, batched=batched)
            check(cl.correlate(x, conv, engine=engine))
            y = cl.correlate(x.requires_grad_(), conv, engine=engine)
            check(y)
            y.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_results_in_memory_that_is_used_again_are_no_views(dtype):
    x, k = operands((1, 1, 1050, 1050), (1, 1, 3, 3), dtype)
    check(cl.correlate(x, k, engine="direct"))


def test_results_of_torchs_own_operators_are_no_views():
    conv = Conv(torch.ones(4, 3, 3, 2), transposed=True, padding=((0, 1), (1, 0)))
    x = torch.ones(2, 4, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for given in (x, x[0]):
            check(cl.correlate(given, conv))
            check(cl.correlate(given.clone().requires_grad_(), conv))


def test_squeeze_and_excite_trains_as_torchs_does():
    torch.manual_seed(0)
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 1),
        torch.nn.SiLU(inplace=True),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Conv2d(16, 4, 1),
        torch.nn.ReLU(inplace=True),
        torch.nn.Conv2d(4, 16, 1),
        torch.nn.Hardsigmoid(inplace=True),
    ).double()
    ours = cl.nn.convert(copy.deepcopy(theirs))
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 3, 7, 6, dtype=torch.float64).contiguous(memory_format=layout)
        found = [torch.autograd.grad(model(x).square().sum(), list(model.parameters())) for model in (ours, theirs)]
        for a, b in zip(*found, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
