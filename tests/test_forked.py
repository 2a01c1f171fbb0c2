"""After a fork, the child computes with every engine: torch's threads do not survive, and its operators wait for them."""

import os
import subprocess
import sys

import pytest
import torch

from convolith.torch_private import on_own_thread

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


WHOLE = """
import io, os, signal, tempfile, threading, time, warnings
import numpy as np
import torch
import convolith as cl
from convolith import errors
from convolith.torch_private import on_own_thread

torch.manual_seed(0)
torch.set_num_threads(2)
picture = np.random.default_rng(0).normal(size=(600, 600))
blur = cl.kernels.gaussian(1.5)
blurred = cl.filter_image(picture, blur)
holes = np.where(picture > 3, np.nan, picture)
x, k = torch.randn(1, 1, 600, 600), torch.randn(1, 1, 31, 31)
counts = (10 * x).int()
model = torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 8, 1))
model, images = model.eval(), torch.randn(2, 8, 96, 96)
layers = cl.nn.convert(torch.nn.Sequential(torch.nn.Conv2d(8, 16, 3), torch.nn.ConvTranspose2d(16, 8, 4, 2)).eval())
optimized = cl.optimize(model, images, measure=False).model
first, second = cl.Conv(torch.randn(64, 64, 3, 3)), cl.Conv(torch.randn(64, 64, 3, 3))

wide, deep = cl.Conv(torch.randn(16, 16, 3, 3)), torch.nn.Sequential(torch.nn.Conv2d(64, 64, 3)).eval()
many, upwards = torch.randn(2, 64, 48, 48), cl.nn.ConvTranspose2d(64, 64, 3, bias=False)
varied = cl.fit_varying(picture, blurred, kernel_size=3, degree=1, padding="same").kernel
turned = torch.randn(3, 3, 64, 64).permute(3, 2, 0, 1)
saved = os.path.join(tempfile.mkdtemp(), "net.zip")
cl.optimize(model, images, measure=False).save(saved)


def transposed():
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        return upwards(many)


def interrupted():
    started, release = threading.Event(), threading.Event()

    def wait():
        started.set()
        release.wait(30)

    def interrupt():
        started.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    try:
        on_own_thread(wait)
    except KeyboardInterrupt:
        pass
    begin = time.time()
    y = cl.correlate(many, first.weight)
    assert time.time() - begin < 20
    release.set()
    return y


def divided():
    with np.errstate(divide="raise"):
        try:
            on_own_thread(np.divide, 1.0, np.zeros(1))
        except FloatingPointError:
            return torch.ones(1)
    raise AssertionError("the setting was lost")


def warned():
    outside = {"errors": errors, "run": on_own_thread}
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        exec(compile("run(errors.warn, 'said')", "user.py", "exec"), {"__name__": "user", **outside})
    assert [(one.filename, one.lineno) for one in found] == [("user.py", 1)], found


def dropped():
    try:
        cl.optimize(model, images, measure=False, drop_weights=True)
    except cl.ConvolithError as problem:
        assert "in a forked process" in str(problem)
    else:
        raise AssertionError("not refused")


def network(module):
    with torch.no_grad():
        return module(images)


def cast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return network(optimized)


CALLS = {
    "optimized": lambda: network(optimized),
    "autocast": cast,
    "layers": lambda: network(layers),
    "correlate": lambda: cl.correlate(picture[None], blur[None, None]),
    "whole numbers": lambda: cl.correlate(counts, k.double()),
    "double": lambda: cl.correlate(x, k, accuracy="double"),
    "holes": lambda: cl.filter_image(holes, blur, nan="omit"),
    "colours": lambda: cl.filter_image(np.stack([picture] * 3, -1), blur),
    "bind": lambda: cl.plan(cl.ConvSpec.of(x, k)).bind(k)(x),
    "fold": lambda: cl.fold(model, images),
    "optimize": lambda: cl.optimize(model, images, measure=False),
    "fit": lambda: cl.fit(picture, blurred, kernel_size=9, padding="same").kernel,
    "fit by descent": lambda: cl.fit(picture, blurred, kernel_size=3, padding="same", method="gd", steps=5).kernel,
    "varying": lambda: cl.fit_varying(picture, blurred, kernel_size=3, degree=1, padding="same"),
    "gram": lambda: cl.Gram(kernel_size=5).update(picture, blurred[2:-2, 2:-2]).solve().kernel,
    "big": lambda: cl.big.fit(picture, blurred, kernel_size=5).kernel,
    "deconvolve": lambda: cl.deconvolve(blurred, blur),
    "compose": lambda: cl.compose(first, second).conv.weight,
    "cost": lambda: cl.cost(model, example_input=images, run=True),
    "gradients": lambda: optimized(images.detach().requires_grad_()),
    "decompose": lambda: cl.decompose(wide, budget_seconds=1),
    "expand": lambda: cl.expand(deep[0], like="dbb"),
    "save": lambda: cl.optimize(model, images, measure=False).save(io.BytesIO()),
    "load": lambda: network(cl.network.load(saved)),
    "freeze": lambda: network(cl.nn.freeze(layers)),
    "freeze many": lambda: cl.nn.freeze(cl.nn.convert(deep))[0]._frozen.weight,
    "varying applied": lambda: varied.apply(picture[None]),
    "transposed": transposed,
    "turned kernel": lambda: cl.plan(cl.ConvSpec.of(many, turned))(many, turned),
}
IN_CHILD = {"interrupted": interrupted, "divided": divided, "warned": warned, "dropped": dropped}
before = {name: call() for name, call in CALLS.items()} | dict.fromkeys(IN_CHILD)
torch.randn(600, 600) @ torch.randn(600, 600)
torch.randn(1 << 20).add_(1)  # by now torch has threads
for name, call in (CALLS | IN_CHILD).items():
    process = os.fork()
    if process == 0:
        try:
            found, expected = call(), before[name]
            if isinstance(expected, (np.ndarray, torch.Tensor)):
                if isinstance(expected, torch.Tensor):
                    assert found.dtype is expected.dtype
                    found, expected = found.detach(), expected.detach()
                    if found.dtype is torch.bfloat16:
                        found, expected = found[0, 0, :8].float(), expected[0, 0, :8].float()
                found, expected = np.asarray(found), np.asarray(expected)
                assert np.nanmax(abs(found - expected)) <= 1e-3 * np.nanmax(abs(expected)) + 1e-12
        except BaseException as error:
            print(name, repr(error), flush=True)
            os._exit(1)
        os._exit(0)
    code, end = "hangs", time.time() + 60
    while code == "hangs" and time.time() < end:
        finished, status = os.waitpid(process, os.WNOHANG)
        code = status if finished else code
        time.sleep(0.02)
    if code == "hangs":
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    print(name, code, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
def test_a_forked_child_runs_every_verb():
    command = [sys.executable, "-W", "ignore", "-c", WHOLE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=2400, check=False)  # noqa: S603 - our own script
    lines = done.stdout.splitlines()
    assert len(lines) == 33, done.stderr
    assert all(line.endswith(" 0") for line in lines), done.stdout


def test_a_compiled_call_looks_at_no_thread(monkeypatch):
    monkeypatch.setattr("convolith.torch_private._forked", True)
    x = torch.linspace(-1, 1, 8)
    call = torch.compile(lambda x: on_own_thread(torch.relu, x), backend="eager", fullgraph=True)
    assert torch.equal(call(x), torch.relu(x))
