"""Laws that every engine keeps: linearity, shift, impulse, adjoint, groups."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

import convolith as cl
from convolith import Conv
from convolith.engines import TABLE
from convolith.planner import plan
from tests.strategies import arrays_for, specs, specs_taken_by

LAW = settings(max_examples=60)


@pytest.mark.parametrize("engine", [row for row in TABLE if row.name != "separable"], ids=lambda e: e.name)
def test_linear_in_x_and_in_the_kernel(engine):
    @LAW
    @given(specs_taken_by(engine, dtypes=("float64",)))
    def law(spec):
        (x1, k1, _), (x2, k2, _) = arrays_for(spec, 1), arrays_for(spec, 2)
        run = plan(spec, engine=engine.name)
        torch.testing.assert_close(run(2 * x1 - x2, k1), 2 * run(x1, k1) - run(x2, k1), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(run(x1, 2 * k1 - k2), 2 * run(x1, k1) - run(x1, k2), rtol=1e-10, atol=1e-10)

    law()


@pytest.mark.parametrize("engine", ["direct", "aten", "reference"])
def test_an_impulse_gives_the_kernel_back_reversed(engine):
    k = np.random.default_rng(0).normal(size=(1, 1, 3, 4))
    x = np.zeros((1, 1, 9, 9))
    x[0, 0, 4, 4] = 1
    y = cl.correlate(x, k, padding="full", engine=engine)
    np.testing.assert_allclose(y[0, 0, 4:7, 4:8], k[0, 0, ::-1, ::-1], atol=1e-14)
    assert np.count_nonzero(np.abs(y) > 1e-14) == k.size


@LAW
@given(specs(dtypes=("float64",), transposed=False))
def test_shifting_x_shifts_y(spec):
    x, k, _ = arrays_for(spec)
    options = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups}
    x = torch.cat([x, x], dim=2)
    if any(n < e for n, e in zip(x.shape[2:], spec.extent)):
        return
    y = cl.correlate(x, k, **options)
    moved = (
        cl.correlate(x[:, :, spec.stride[0] :], k, **options) if x.shape[2] - spec.stride[0] >= spec.extent[0] else None
    )
    if moved is not None:
        torch.testing.assert_close(moved, y[:, :, 1:], rtol=1e-11, atol=1e-11)


@LAW
@given(specs(dtypes=("float64",), transposed=False))
def test_the_transposed_convolution_is_the_adjoint(spec):
    """<correlate(x, k), y> = <x, correlate(y, transposed k)>: the dot-product test."""
    if spec.padding_mode != "zeros" or not spec.batch:
        return
    x, k, _ = arrays_for(spec)
    options = {"stride": spec.stride, "dilation": spec.dilation, "groups": spec.groups, "padding": spec.padding}
    y = cl.correlate(x, k, **options)
    z = torch.randn(y.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pads = zip(spec.size, spec.output_size, spec.stride, spec.extent, spec.padding)
    unread = tuple(n - ((m - 1) * s + e - sum(pair)) for n, m, s, e, pair in pads)  # input past the last window
    if any(extra < 0 or (extra >= max(s, d) > 0 and extra) for extra, s, d in zip(unread, spec.stride, spec.dilation)):
        return
    back = cl.correlate(z, Conv(k, transposed=True, output_padding=unread, **options))
    assert (y * z).sum().item() == pytest.approx((x * back).sum().item(), rel=1e-9, abs=1e-9)


@LAW
@given(specs(dtypes=("float64",), transposed=False))
def test_groups_are_separate_convolutions(spec):
    x, k, _ = arrays_for(spec)
    options = {name: getattr(spec, name) for name in ("stride", "dilation", "padding", "padding_mode")}
    whole = cl.correlate(x, k, groups=spec.groups, **options)
    parts = [
        cl.correlate(a, b, **options) for a, b in zip(x.chunk(spec.groups, 1), k.chunk(spec.groups, 0), strict=True)
    ]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-11, atol=1e-11)
