"""After a fork, the child computes with every engine: torch's threads do not survive, and its operators wait for them."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, time
import torch
import convolith as cl
from convolith.engines import TABLE

torch.manual_seed(0)
torch.set_num_threads(2)
CASES = {
    "im2col": ((2, 64, 40, 40), (64, 64, 3, 3), {"stride": 2}),
    "pointwise": ((2, 64, 40, 40), (640, 64, 1, 1), {}),
    "depthwise": ((2, 32, 40, 40), (32, 1, 3, 3), {"groups": 32, "stride": 2}),
    "separable": ((2, 16, 40, 40), (16, 1, 9, 9), {"groups": 16}),
    "fft": ((2, 64, 40, 40), (64, 64, 5, 5), {}),
}


def made(engine):
    x_shape, k_shape, options = CASES.get(engine, ((2, 64, 40, 40), (64, 64, 3, 3), {}))
    k = torch.ones(k_shape) if engine == "separable" else torch.randn(k_shape)
    return torch.randn(x_shape), k, options


def calls(engine, x, k, options):
    with torch.no_grad():
        if engine == "phases":
            layer = cl.nn.ConvTranspose2d(64, 64, 3, bias=False)
            layer.weight.set_(k)
            yield layer(x)
            yield cl.plan(cl.ConvSpec.of(x, k, transposed=True), engine=engine)(x, k)
        elif engine == "separable":
            yield cl.plan(cl.ConvSpec.of(x, k, **options), k, engine=engine)(x, k)
            yield cl.correlate(x, k, **options)
        else:
            yield cl.correlate(x, k, engine=engine, **options)
    if engine != "phases":
        x, k = x.requires_grad_(), k.requires_grad_()
        for _ in range(2):  # the second call is one that was seen
            y = cl.correlate(x, k, **options)
            yield from torch.autograd.grad(y, (x, k), y.detach())


def child(engine, x, k, options, expected):
    try:
        for found, wanted in zip(calls(engine, x, k, options), expected, strict=True):
            size = abs(wanted.numpy()).max()
            assert abs(found.detach().numpy() - wanted.numpy()).max() < 1e-4 * size, engine
    except BaseException as error:
        print(engine, repr(error), flush=True)
        os._exit(1)
    os._exit(0)


def status(process):
    for _ in range(400):
        finished, code = os.waitpid(process, os.WNOHANG)
        if finished:
            return code
        time.sleep(0.1)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "hangs"


torch.randn(600, 600) @ torch.randn(600, 600)
torch.randn(1 << 20).add_(1)  # by now torch has threads
for engine in sys.argv[1:]:
    x, k, options = made(engine)
    expected = [y.detach().clone() for y in calls(engine, x.clone(), k.clone(), options)]
    for fresh in (False, True):  # a kernel that was prepared before the fork, and one that was not
        given = (x.detach(), k.detach()) if not fresh else (x.detach().clone(), k.detach().clone())
        process = os.fork()
        if process == 0:
            child(engine, *given, options, expected)
        print(engine, fresh, status(process), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_computes_with_every_engine():
    from convolith.engines import TABLE

    names = ["auto", *(engine.name for engine in TABLE if not engine.only_fast)]
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, *names]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)  # noqa: S603 - our own script
    assert done.stdout.splitlines() == [f"{name} {fresh} 0" for name in names for fresh in (False, True)], done.stderr
