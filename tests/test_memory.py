"""The memory of large results: kept while anyone refers to it, used again afterwards, bounded."""

import gc
import os

import pytest
import torch

import convolith as cl
from convolith.engines import buffers

SHAPE = (1, 1, 700, 800)


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    gc.collect()
    monkeypatch.setattr(buffers, "_kept", type(buffers._kept)())
    monkeypatch.setattr(buffers, "_total", 0)


def test_memory_comes_back_when_nobody_refers_to_it():
    y = buffers.empty(SHAPE, torch.float32)
    address, view, array = y.data_ptr(), y[0, 0, 3:], y.numpy()
    y.fill_(1.0)
    del y
    assert buffers._total == 0
    other = buffers.empty(SHAPE, torch.float32)
    assert other.data_ptr() != address
    other.fill_(2.0)
    assert (view == 1).all()
    del view
    assert (array == 1).all()
    del array
    assert buffers._total > 0
    assert buffers.empty(SHAPE, torch.float32).data_ptr() == address


def test_results_do_not_share_memory():
    x = torch.randn(1, 1, 600, 600)
    results = [cl.correlate(x, torch.full((1, 1, 3, 3), float(n)), padding=1) for n in range(4)]
    box = cl.correlate(x, torch.ones(1, 1, 3, 3), padding=1)
    for n, y in enumerate(results):
        torch.testing.assert_close(y, n * box, rtol=1e-4, atol=1e-4)


def test_what_is_kept_is_bounded(monkeypatch):
    monkeypatch.setattr(buffers, "KEPT_BYTES", 8 << 20)
    tensors = [buffers.empty((n, 1 << 18), torch.float32) for n in (1, 2, 3, 4, 5)]
    del tensors
    assert 0 < buffers._total <= 8 << 20
    assert buffers._total == sum(block.size for blocks in buffers._kept.values() for block in blocks)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint64])
@pytest.mark.parametrize("shape", [(3, 0, 5), (2, 3), (1, 1, 1023, 1025)])
def test_any_shape_and_dtype(dtype, shape):
    made = buffers.empty(shape, dtype)
    assert made.shape == shape
    assert made.dtype is dtype
    assert made.is_contiguous()
    assert made.data_ptr() % 64 == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_child_writes_to_memory_of_its_own():
    y = buffers.empty(SHAPE, torch.float32)
    y.numpy()[:] = 1.0
    child = os.fork()
    if child == 0:
        y.numpy()[:] = 2.0
        os._exit(0)
    os.waitpid(child, 0)
    assert float(y.numpy().max()) == 1.0
