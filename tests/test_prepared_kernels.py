"""Prepared kernels that are kept: recognised by their values, bounded, the least recently used one forgotten first."""

import numpy as np
import pytest
import torch

import convolith as cl
from convolith.planner import prepared_kernels


@pytest.mark.parametrize("engine", ["direct", "winograd_4x4", "fft", "aten"])
def test_a_kernel_changed_in_place_is_noticed(engine):
    """Neither way of writing leaves a trace in the tensor's version."""
    x, k = torch.randn(1, 8, 24, 24), torch.randn(8, 8, 3, 3)
    for write in (
        lambda: k.data.mul_(2),
        lambda: np.negative(k.numpy(), out=k.numpy()),
        lambda: k.detach().numpy().fill(1.0),
    ):
        cl.correlate(x, k, engine=engine)
        write()
        torch.testing.assert_close(
            cl.correlate(x, k, engine=engine), torch.nn.functional.conv2d(x, k), rtol=1e-4, atol=1e-4
        )


def test_kept_kernels_are_bounded(monkeypatch):
    monkeypatch.setattr(prepared_kernels, "MOST_KEPT", 3)
    x = torch.randn(1, 1, 300, 300)
    kernels = [torch.randn(1, 1, 5, 5) for _ in range(9)]
    for k in kernels:
        cl.correlate(x, k)
    assert len(prepared_kernels._kept) <= 3


def test_the_longest_unused_kernel_goes_first(monkeypatch):
    prepared_kernels.forget()
    monkeypatch.setattr(prepared_kernels, "MOST_KEPT", 2)
    x = torch.randn(1, 1, 300, 300)
    often, *others = (torch.randn(1, 1, 5, 5) for _ in range(4))
    for k in others:
        for used in (often, often, k):
            cl.correlate(x, used)
    assert often.data_ptr() in {key[1] for key in prepared_kernels._kept}
