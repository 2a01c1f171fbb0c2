"""What is kept from call to call is given back, and calls go on; the types of results are public."""

import threading

import torch
from torch import nn

import convolith as cl
from convolith.correlation import call_cache
from convolith.engines import buffers
from convolith.planner import prepared_kernels


def test_everything_that_is_kept_is_given_back():
    x, k = torch.randn(1, 16, 300, 300), torch.randn(16, 16, 3, 3)
    expected = torch.nn.functional.conv2d(x, k)
    for _ in range(3):
        y = cl.correlate(x, k)
    del y
    assert call_cache._calls
    assert prepared_kernels._kept
    assert buffers._kept
    cl.clear_caches()
    assert not call_cache._calls
    assert not prepared_kernels._kept
    assert not buffers._kept
    assert buffers._total == 0
    for _ in range(3):
        assert float((cl.correlate(x, k) - expected).abs().max()) < 1e-3


def test_caches_are_cleared_while_others_compute():
    x, k = torch.randn(1, 4, 64, 64), torch.randn(4, 4, 3, 3)
    expected, wrong, done = torch.nn.functional.conv2d(x, k), [], threading.Event()

    def compute():
        while not done.is_set():
            if float((cl.correlate(x, k) - expected).abs().max()) > 1e-3:
                wrong.append(1)

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(50):
        cl.clear_caches()
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_public_functions_return_is_public():
    spec = cl.ConvSpec(in_channels=2, out_channels=3, size=(8, 8), kernel_size=3)
    assert isinstance(cl.plan(spec).bind(torch.ones(3, 2, 3, 3)), cl.BoundPlan)
    layer = cl.cost(spec)
    assert isinstance(layer, cl.LayerCost)
    assert isinstance(layer.forward, cl.Count)
    assert isinstance(layer.scaled(in_channels=2), cl.Scaling)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)).eval()
    counted = cl.cost(model, input_shape=(1, 2, 8, 8), optimizer="sgd")
    assert isinstance(counted, cl.ModelCost)
    assert isinstance(counted.peak, cl.Peak)
    assert isinstance(counted.law("batch"), cl.Law)
    folded = cl.fold(model, torch.zeros(1, 2, 8, 8))
    assert isinstance(folded, cl.Folded)
    assert isinstance(folded.report, cl.FoldReport)
