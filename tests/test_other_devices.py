"""Tensors on another device without such a device: `test_cuda.py` on an emulated one, and torch's default device."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import backend_registration

import convolith as cl
from convolith import algebra

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"), reason="not in this torch"
)
def test_every_verb_on_an_emulated_device():
    """In a process of its own, since a device is registered for good."""
    options = ["-c", os.devnull, f"--rootdir={ROOT}", "--noconftest", "-p", "no:cacheprovider", "-p", "no:xdist"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {"CONVOLITH_TEST_DEVICE": "emulated", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    ended = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "pytest", "-q", *options, "-p", "tests.emulated_device", "tests/test_cuda.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    assert " passed" in ended.stdout
    assert "failed" not in ended.stdout


@pytest.fixture
def elsewhere():
    """Torch's default device is another one, as after `torch.set_default_device("cuda")`; "meta" fails wherever it is used."""
    with torch.device("meta"):
        yield


def test_the_default_device_does_not_matter(elsewhere):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 8, 8)))
    weight = torch.from_numpy(np.random.default_rng(1).normal(size=(4, 3, 3, 3)))
    conv = cl.Conv(weight, padding=1)
    scaled = algebra.add(algebra.scale(conv, [1.0, 2.0, 3.0, 4.0]), conv)
    norm = algebra.batch_norm(np.zeros(4), np.ones(4), eps=0.0)
    kept = algebra.compose(algebra.select(3, [1, 0, 2], sample=weight), conv).conv
    assert torch.equal(kept.weight, weight[:, [1, 0, 2]])
    assert torch.allclose(scaled.weight, weight * torch.tensor([2.0, 3, 4, 5], device="cpu").reshape(-1, 1, 1, 1))
    assert isinstance(norm.weight, np.ndarray)
    assert algebra.average_pool(3, 2).weight.shape == (3, 1, 2, 2)
    both = cl.compose(conv, cl.Conv(torch.from_numpy(np.ones((2, 4, 3, 3))), torch.from_numpy(np.ones(2)), padding=1))
    assert torch.allclose(both(x), cl.correlate(cl.correlate(x, both.first), both.second))


def test_a_model_is_folded_whatever_the_default_device_is():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
    model, x = nn.Sequential(*layers).eval(), torch.randn(1, 3, 9, 9)
    with torch.no_grad():
        expected = model(x)
    form = cl.expand(cl.Conv(torch.randn(4, 4, 3, 3), padding=1), like="dbb").eval()
    grown = torch.randn(1, 4, 9, 9)
    with torch.device("meta"):
        folded = cl.fold(model, x).model
        again = cl.fold(form, grown)
        fast = cl.optimize(model, x, measure=False).model
        other = fast(x[:, :, :7])  # of another size
    with torch.no_grad():
        assert torch.allclose(other, model(x[:, :, :7]), atol=1e-5)
        assert torch.allclose(folded(x), expected, atol=1e-5)
        assert torch.allclose(fast(x), expected, atol=1e-5)
        assert torch.allclose(again.model(grown), form(grown), atol=1e-4)


def test_plans_refuse_other_devices():
    x, k = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    plan = cl.plan(cl.ConvSpec.of(x, k))
    for call in (
        lambda: plan(x, k.to("meta")),
        lambda: plan.bind(k.to("meta")),
        lambda: cl.plan(plan.spec, k.to("meta")),
    ):
        with pytest.raises(cl.ConvolithError, match=r"is on meta, and a plan computes on the CPU; pass \w+\.cpu\(\)"):
            call()
    with pytest.raises(cl.ConvolithError, match="k is on cpu but x is on meta"):
        plan.bind(k)(x.to("meta"))


def test_a_mask_of_another_device_over_a_masked_array():
    image = np.ma.masked_array(np.ones((1, 4, 4)), np.zeros((1, 4, 4), bool))
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert cl.correlate(image, np.ones((1, 1, 3, 3)), nan="omit", mask=mask).shape == (1, 2, 2)


def test_fits_of_bfloat16_can_be_printed():
    x = torch.randn(1, 20, 20).bfloat16()
    found = cl.fit(x, cl.correlate(x, torch.ones(1, 1, 3, 3).bfloat16()), kernel_size=3)
    assert found.kernel.dtype is torch.bfloat16
    assert "residual rms" in str(found)
