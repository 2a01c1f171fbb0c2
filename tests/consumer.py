"""A user's program, which `mypy --strict` checks: every public function, and what is known about its result.

Where a type depends on data (a fit of arrays, or of tensors), it is Any. `test_consumer.py` runs the checker and the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch

import convolith as cl
from convolith import d2l


def arrays_and_tensors() -> None:
    image, kernel = np.ones((1, 8, 8), np.float32), np.ones((1, 1, 3, 3), np.float32)
    picture, box = np.ones((8, 8), np.float32), np.ones((3, 3), np.float32)
    x, k = torch.from_numpy(image), torch.from_numpy(kernel)
    assert_type(cl.correlate(image, kernel, padding="same"), np.ndarray)
    assert_type(cl.correlate(x, k, torch.zeros(1), stride=2, accuracy="fast"), torch.Tensor)
    assert_type(cl.correlate([[[1.0, 2.0]]], [[[3.0]]]), np.ndarray)
    assert_type(cl.convolve(image, kernel, padding=((1, 1), (0, 2))), np.ndarray)
    assert_type(cl.convolve(x, k, groups=1, dilation=(1, 2)), torch.Tensor)
    assert_type(cl.filter_image(picture, box, padding_mode="mirror", dtype=np.uint8), np.ndarray)
    assert_type(cl.filter_image(x[0], k[0, 0], axes=(0, 1)), torch.Tensor)
    assert_type(cl.deconvolve(picture, box, method="richardson_lucy", iterations=1), np.ndarray)
    assert_type(cl.deconvolve(x[0], k[0, 0], method="richardson_lucy", iterations=1), torch.Tensor)
    assert_type(d2l.corr2d(picture, box), np.ndarray)
    assert_type(d2l.corr2d_multi_in(x, k[0]), torch.Tensor)
    assert_type(d2l.corr2d_multi_in_out([[[1.0]]], [[[[1.0]]]]), np.ndarray)
    assert_type(d2l.corr2d_multi_in_out_1x1(x, k[..., :1, :1]), torch.Tensor)


def kernels() -> None:
    assert_type(cl.kernels.gaussian(1.5), np.ndarray)
    assert_type(cl.kernels.box(3), np.ndarray)
    assert_type(cl.kernels.disk(2.0), np.ndarray)
    assert_type(cl.kernels.motion(5.0, angle=30.0), np.ndarray)
    assert_type(cl.kernels.moffat(3.0), np.ndarray)
    assert_type(cl.kernels.airy(3.0), np.ndarray)
    assert_type(cl.kernels.sobel(axis=1), np.ndarray)
    assert_type(cl.kernels.laplacian_of_gaussian(1.0), np.ndarray)
    assert_type(cl.kernels.gabor(2.0, 6.0), np.ndarray)


def plans() -> None:
    x, k = torch.ones(1, 3, 8, 8), torch.ones(4, 3, 3, 3)
    spec = cl.ConvSpec(in_channels=3, out_channels=4, size=(8, 8), kernel_size=3)
    assert_type(cl.ConvSpec.of(x, k), cl.ConvSpec)
    assert_type(cl.ConvSpec.from_module(torch.nn.Conv2d(3, 4, 3), (1, 3, 8, 8)), cl.ConvSpec)
    assert_type(spec.output_shape, tuple[int, ...])
    plan = cl.plan(spec, effort="estimate")
    assert_type(plan, cl.Plan)
    assert_type(plan.explain(), str)
    assert_type(plan.engine, str)
    assert_type(plan.seconds, float | None)
    assert_type(plan(x, k), torch.Tensor)
    assert_type(plan(x.numpy(), k.numpy()), np.ndarray)
    bound = plan.bind(k)
    assert_type(bound, cl.BoundPlan)
    assert_type(bound(x), torch.Tensor)
    cl.clear_caches()


def algebra() -> None:
    image, x = np.ones((1, 9, 9)), torch.ones(1, 9, 9, dtype=torch.float64)
    conv = cl.Conv(np.ones((1, 1, 3, 3)), padding="same")
    there = cl.Conv(torch.ones(1, 1, 3, 3, dtype=torch.float64), padding=1)
    assert_type(conv(image), np.ndarray)
    assert_type(there(x, accuracy="fast"), torch.Tensor)
    assert_type(conv.options, dict[str, Any])
    assert_type(conv.kernel_size, tuple[int, ...])
    both = cl.compose(conv, conv)
    assert_type(both, cl.Composition)
    assert_type(both.conv, cl.Conv)
    assert_type(both.exact, str)
    assert_type(both(image), np.ndarray)
    parts = cl.decompose(conv, tolerance=0.1)
    assert_type(parts, cl.Decomposition)
    assert_type(parts.parts, tuple[cl.Conv, ...])
    assert_type(parts.bound, float)
    assert_type(parts(image), np.ndarray)
    form: torch.nn.Module = cl.expand(there, like="acnet")
    assert form.training


def fits() -> None:
    x = np.random.default_rng(0).normal(size=(1, 24, 24))
    y = cl.correlate(x, np.ones((1, 1, 3, 3)))
    found = cl.fit(x, y, kernel_size=3, offset=True)
    assert_type(found, cl.Fit)
    assert_type(found.residual_rms, float)
    assert_type(found.loss, tuple[float, ...])
    assert_type(found.condition, float | None)
    assert_type(found.coefficients, np.ndarray | None)
    assert_type(found.conv, cl.Conv)
    descent = cl.Descent("adam", steps=2, learning_rate=0.1)
    cl.fit(x, y, kernel_size=3, method=descent, loss=cl.Huber(1.0))
    varying = cl.fit_varying(x, y, kernel_size=3, degree=1)
    assert_type(varying, cl.VaryingFit)
    assert_type(varying.kernel, cl.VaryingKernel)
    assert_type(varying.kernel.at((0.0, 0.5)), cl.Conv)
    assert_type(varying.kernel.apply(x), np.ndarray)
    gram = cl.Gram((3, 3)).update(x, y).merge(cl.Gram((3, 3)))
    assert_type(gram, cl.Gram)
    assert_type(gram.solve(), cl.Fit)
    assert_type(cl.VaryingGram((3, 3), degree=1).update(x, y), cl.VaryingGram)


def models(folder: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU()).eval()
    x = torch.ones(1, 3, 12, 12)
    folded = cl.fold(model, x)
    assert_type(folded, cl.Folded)
    assert_type(folded.model, torch.nn.Module)
    assert_type(folded.report, cl.FoldReport)
    assert_type(folded.report.error, dict[str, float])
    fast = cl.optimize(model, x, measure=False)
    assert_type(fast, cl.Optimization)
    assert_type(fast.report, cl.NetworkReport)
    fast.save(folder / "fast.zip")
    assert isinstance(cl.network.load(folder / "fast.zip"), torch.nn.Module)
    assert_type(cl.nn.convert(model, accuracy="fast"), torch.nn.Sequential)
    assert_type(cl.nn.report(model), cl.nn.Conversion)
    assert_type(cl.nn.report(model).layers, tuple[cl.nn.Layer, ...])
    assert_type(cl.nn.freeze(model), torch.nn.Sequential)
    assert_type(cl.nn.unfreeze(model), torch.nn.Sequential)
    assert_type(cl.nn.revert(model), torch.nn.Sequential)
    assert_type(cl.nn.Conv2d(3, 4, 3).weight, torch.nn.Parameter | torch.Tensor)
    assert_type(cl.network.optimize(model, x, measure=False), cl.network.Optimization)
    assert_type(fast.report, cl.network.NetworkReport)


def layers() -> None:
    x = torch.ones(1, 2, 8)
    rows: list[torch.nn.Conv1d] = [cl.nn.Conv1d(2, 4, 3), cl.nn.LazyConv1d(4, 3)]
    images: list[torch.nn.Conv2d] = [cl.nn.Conv2d(2, 4, 3), cl.nn.LazyConv2d(4, 3)]
    volumes: list[torch.nn.Conv3d] = [cl.nn.Conv3d(2, 4, 3), cl.nn.LazyConv3d(4, 3)]
    back_to_rows: list[torch.nn.ConvTranspose1d] = [cl.nn.ConvTranspose1d(2, 4, 3), cl.nn.LazyConvTranspose1d(4, 3)]
    back_to_images: list[torch.nn.ConvTranspose2d] = [cl.nn.ConvTranspose2d(2, 4, 3), cl.nn.LazyConvTranspose2d(4, 3)]
    back_to_volumes: list[torch.nn.ConvTranspose3d] = [cl.nn.ConvTranspose3d(2, 4, 3), cl.nn.LazyConvTranspose3d(4, 3)]
    for row in (*rows, *back_to_rows):
        assert row(x).shape[1] == 4
    for image in (*images, *back_to_images):
        assert image(x[..., None].expand(1, 2, 8, 8)).shape[1] == 4
    for volume in (*volumes, *back_to_volumes):
        assert volume(x[..., None, None].expand(1, 2, 8, 8, 8)).shape[1] == 4


def costs() -> None:
    layer = cl.cost(cl.ConvSpec(in_channels=3, out_channels=4, size=(8, 8), kernel_size=3))
    assert_type(layer, cl.LayerCost)
    assert_type(layer.forward, cl.Count)
    assert_type(layer.forward.multiplications, int)
    assert_type(layer.scaled(in_channels=2), cl.Scaling)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    whole = cl.cost(model, input_shape=(1, 3, 8, 8), optimizer="sgd")
    assert_type(whole, cl.ModelCost)
    assert_type(whole.forward.macs, int)
    assert_type(whole.parameters, int)
    assert_type(whole.peak, cl.Peak | None)
    assert_type(whole.law("batch"), cl.Law)
    assert_type(whole.largest_batch(10**9), int)


def stores(folder: Path) -> None:
    np.save(folder / "scan.npy", np.ones((64, 64), np.float32))
    plan = cl.big.plan(folder / "scan.npy", np.ones((3, 3)), folder / "out.zarr", memory="200MB")
    assert_type(plan, cl.big.BigPlan)
    assert_type(plan.run(), cl.big.BigReport)
    for window in cl.big.windows((64, 64), (3, 3), (32, 32)):
        assert_type(window, cl.big.Window)
    plans: list[cl.big.FitPlan] = []
    found = cl.big.fit(folder / "scan.npy", folder / "scan.npy", kernel_size=1, on_plan=plans.append)
    assert_type(found, cl.big.BigFit)
    assert plans[0].passes == 1
    assert cl.big.correlate(folder / "scan.npy", np.ones((3, 3))).shape == (64, 64)  # Dask has no types


def figures() -> None:
    figure = cl.widget.look(np.ones((1, 4, 4)), np.ones((1, 1, 3, 3)))
    assert_type(figure.to_html(), str)
    assert_type(cl.widget.fold(np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))).to_html(), str)


def refusals() -> None:
    try:
        cl.correlate(np.ones((1, 4, 4)), np.ones((1, 2, 3, 3)))
    except cl.ConvolithError as problem:
        assert_type(problem, cl.ConvolithError)
    else:
        raise AssertionError("channels that do not match are refused")


def main(folder: Path) -> None:
    arrays_and_tensors()
    kernels()
    plans()
    algebra()
    fits()
    models(folder)
    layers()
    costs()
    stores(folder)
    figures()
    refusals()
