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
    assert often.numpy().tobytes() in {key[1] for key in prepared_kernels._kept}


def test_kernels_at_a_new_address_in_every_call_are_found():
    """Lists, flipped kernels and kernels in another dtype are copied anew."""
    prepared_kernels.forget()
    signal, taps = np.random.default_rng(0).normal(size=(1, 4000)), np.random.default_rng(1).normal(size=(1, 1, 500))
    image, kernel = np.ones((64, 64), np.float32), np.random.default_rng(2).normal(size=(31, 31))
    copies = []
    for _ in range(4):
        cl.convolve(signal, taps, padding="same", engine="fft")
        cl.filter_image(image, kernel.tolist(), engine="fft")
        copies.append(taps.copy())  # keeps memory, so that the next copy lies elsewhere
    kept = [entry for entry in prepared_kernels._kept.values() if isinstance(entry, prepared_kernels.PreparedKernel)]
    assert len(kept) == 2


def test_kernels_that_differ_only_where_none_looks():
    """Both are looked up under the same bytes; each result is that of its own kernel."""
    x, a = torch.randn(1, 1, 80, 80), torch.zeros(1, 1, 33, 33)
    b = a.clone()
    a[0, 0, 5, 7], b[0, 0, 9, 3] = 1, 2
    for _ in range(3):
        for k in (a, b):
            expected = torch.nn.functional.conv2d(x, k)
            torch.testing.assert_close(cl.correlate(x, k, engine="fft"), expected, rtol=1e-4, atol=1e-4)
