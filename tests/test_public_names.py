"""Every public name does what `docs/names.md` says of it, in one small example each; none is missing."""

import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import convolith as cl

RNG = np.random.default_rng(0)
X, K = RNG.normal(size=(1, 2, 9, 8)), RNG.normal(size=(3, 2, 3, 3))
SPEC = cl.ConvSpec.of(X, K)
PLAIN = nn.functional.conv2d(torch.from_numpy(X), torch.from_numpy(K)).numpy()
NETWORK = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
IMAGES = torch.ones(1, 3, 8, 8)


def close(found, expected):
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=1e-9, atol=1e-9)


def bound_plan():
    bound = cl.plan(SPEC).bind(K)
    assert isinstance(bound, cl.BoundPlan)
    close(bound(X), PLAIN)


def plan():
    chosen = cl.plan(SPEC)
    assert isinstance(chosen, cl.Plan)
    assert chosen.engine in chosen.explain()
    close(chosen(X, K), PLAIN)


def spec():
    assert (SPEC.axes, SPEC.taps, SPEC.extent, SPEC.output_shape, SPEC.out_dtype) == (
        2,
        9,
        (3, 3),
        (1, 3, 7, 6),
        "float64",
    )
    row = cl.ConvSpec(in_channels=1, out_channels=1, size=(1, 50), kernel_size=(1, 5), dilation=(1, 2))
    assert (row.squeezed().size, row.squeezed().extent, row.squeezed().kernel_size) == ((50,), (9,), (5,))


def conv():
    close(cl.Conv(K)(X), PLAIN)
    assert cl.Conv.from_module(nn.Conv2d(2, 3, 3, stride=2)).stride == (2, 2)


def composition():
    both = cl.compose(cl.Conv(K), cl.Conv(RNG.normal(size=(1, 3, 2, 2))))
    assert isinstance(both, cl.Composition)
    assert both.exact == "everywhere"
    close(both(X), both.conv(X))


def decomposition():
    column, row = RNG.normal(size=(1, 1, 5, 1)), RNG.normal(size=(1, 1, 1, 5))
    parts = cl.decompose(cl.Conv(column * row))
    assert isinstance(parts, cl.Decomposition)
    assert [part.kernel_size for part in parts.parts] == [(5, 1), (1, 5)]
    close(parts(X[:, :1]), cl.correlate(X[:, :1], column * row))


def fit_and_gram():
    found = cl.fit(X, PLAIN, kernel_size=3)
    assert isinstance(found, cl.Fit)
    close(found.kernel, K)
    close(found.conv(X), PLAIN)
    close(cl.Gram(3, 2, 3).update(X, PLAIN).solve().kernel, K)


def candidate():
    image = RNG.normal(size=(1, 48, 48))
    blurred = cl.correlate(image, np.ones((1, 1, 3, 3)), padding="same") + 0.01 * RNG.normal(size=(1, 48, 48))
    best = min(
        cl.fit(image, blurred, kernel_size="auto", max_size=5, padding="same").selection, key=lambda one: one.rms
    )
    assert best.excess_mse == 0
    with pytest.warns(DeprecationWarning, match="worse is called excess_mse now"):
        assert best.worse == best.excess_mse
    with pytest.warns(DeprecationWarning, match="spread is called excess_mse_stderr now"):
        assert best.spread == best.excess_mse_stderr


def descent():
    learned = cl.fit(X, PLAIN, kernel_size=3, method=cl.Descent("lbfgs", steps=60))
    np.testing.assert_allclose(learned.kernel, K, atol=1e-4)


def huber():
    spoiled = PLAIN.copy()
    spoiled[0, 0, 0, 0] += 1e3
    robust = cl.fit(X, spoiled, kernel_size=3, method="lbfgs", loss=cl.Huber(0.01), steps=100)
    np.testing.assert_allclose(robust.kernel, K, atol=0.05)


def varying():
    x = RNG.normal(size=(1, 30, 30))
    found = cl.fit_varying(x, 2 * x, kernel_size=1, degree=1, background_degree=0)
    assert isinstance(found, cl.VaryingFit)
    assert isinstance(found.kernel, cl.VaryingKernel)
    close(found.kernel.weight_at((0.3, -0.5)), [[[[2.0]]]])
    close(found.kernel.background_at((0.0, 0.0)), [0.0])
    close(found.kernel.at((0.0, 0.0))(x), 2 * x)
    gram = cl.VaryingGram(1, degree=1).update(x, 2 * x)
    close(gram.solve(background_degree=0).kernel.weights, found.kernel.weights)


def fold():
    folded = cl.fold(NETWORK, IMAGES)
    assert isinstance(folded, cl.Folded)
    assert isinstance(folded.report, cl.FoldReport)
    assert (folded.report.norms_before, folded.report.norms_after) == (1, 0)
    torch.testing.assert_close(folded.model(IMAGES), NETWORK(IMAGES))


def optimized():
    found = cl.optimize(NETWORK, IMAGES, measure=False)
    assert isinstance(found, cl.Optimization)
    assert isinstance(found.report, cl.NetworkReport)
    assert isinstance(found, cl.network.Optimization)
    assert [step.kind for step in found.report.steps] == ["convolve"]
    torch.testing.assert_close(found.model(IMAGES), NETWORK(IMAGES))


def expand():
    form = cl.expand(cl.Conv(torch.from_numpy(K), padding=1), like="repvgg").eval()
    np.testing.assert_allclose(form(torch.from_numpy(X)).detach(), cl.correlate(X, K, padding=1), atol=1e-6)


def costs():
    layer = cl.cost(SPEC)
    assert isinstance(layer, cl.LayerCost)
    assert layer.forward.multiplications == PLAIN.size * 18
    model = cl.cost(NETWORK, input_shape=(1, 3, 8, 8), optimizer="sgd")
    assert isinstance(model, cl.ModelCost)
    assert isinstance(model.forward, cl.Count)
    assert isinstance(model.peak, cl.Peak)
    assert model.peak.phase in ("forward", "backward", "optimizer")
    assert model.peak.operator in str(model.sections()["peak"].rows)
    assert set(model.sections()) == {"operations", "memory", "peak", "modules"}
    twice = model.scaled(batch=2)
    assert isinstance(twice, cl.Scaling)
    assert twice.factors["forward macs"] == 2
    law = cl.cost(NETWORK, input_shape=(1, 3, 8, 8)).law("batch")
    assert isinstance(law, cl.Law)
    assert law.at(5)["forward macs"] == 5 * model.forward.macs


def filters():
    picture = RNG.integers(0, 255, (12, 10), dtype=np.uint8)
    kernel = np.ones((3, 3)) / 9
    assert cl.filter_image(picture, kernel).shape == (12, 10)
    close(cl.convolve(X, K), cl.correlate(X, K[..., ::-1, ::-1].copy()))


def undone():
    picture, kernel = np.kron(RNG.random((4, 4)), np.ones((8, 8))), cl.kernels.gaussian(1.2)
    blurred = cl.filter_image(picture, kernel, padding_mode="symmetric")
    found = cl.deconvolve(blurred, kernel, method="richardson_lucy", iterations=100)
    assert np.abs(found - picture).mean() < 0.8 * np.abs(blurred - picture).mean()


def errors():
    assert issubclass(cl.ConvolithError, ValueError)
    with pytest.raises(cl.ConvolithError, match="x has 2 channels"):
        cl.correlate(X, K[:, :1])


def caches():
    before = cl.correlate(X, K)
    cl.clear_caches()
    close(cl.correlate(X, K), before)


def chapter():
    x, k = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [6.0, 7.0, 8.0]], [[0.0, 1.0], [2.0, 3.0]]
    close(cl.d2l.corr2d(x, k), [[19, 25], [37, 43]])
    close(cl.d2l.corr2d_multi_in([x, x], [k, k]), [[38, 50], [74, 86]])
    close(cl.d2l.corr2d_multi_in_out([x], [[k], [k]])[1], [[19, 25], [37, 43]])
    close(cl.d2l.corr2d_multi_in_out_1x1([x], [[[[2.0]]]])[0], 2 * np.array(x))


def stores():
    window = next(cl.big.windows((9, 8), (3, 3), (4, 8)))
    close(window.padded(window.read(X[0, 0])), np.pad(X[0, 0], 1)[:6])
    plans = []
    y = cl.filter_image(X[0, 0], K[0, 0])
    found = cl.big.fit(X[0, 0], y, kernel_size=3, progress=False, on_plan=plans.append)
    assert isinstance(found, cl.big.BigFit)
    assert isinstance(plans[0], cl.big.FitPlan)
    close(found.kernel[0, 0], K[0, 0])
    planned = cl.big.plan(X[0, 0], K[0, 0], memory="100MB")
    assert isinstance(planned, cl.big.BigPlan)
    assert planned.layout.blocks == 1
    close(cl.big.correlate(X[0, 0], K[0, 0]), cl.filter_image(X[0, 0], K[0, 0]))


def figures():
    pytest.importorskip("anywidget")
    assert "view=look" in cl.widget.look(X[0, :, :5, :5], K).address
    assert "view=fold" in cl.widget.fold(K[:, :, :, :], cl.Conv(np.ones((1, 3, 1, 1)))).address


CHECKS = {
    stores: ["big"], figures: ["widget"],
    bound_plan: ["BoundPlan"], plan: ["Plan", "plan"], spec: ["ConvSpec"], conv: ["Conv", "correlate"],
    composition: ["Composition", "compose"], decomposition: ["Decomposition", "decompose"],
    fit_and_gram: ["Fit", "Gram", "fit"], candidate: [], descent: ["Descent"], huber: ["Huber"],
    varying: ["VaryingFit", "VaryingGram", "VaryingKernel", "fit_varying"], fold: ["FoldReport", "Folded", "fold"],
    optimized: ["NetworkReport", "Optimization", "network", "optimize"], expand: ["expand"], costs: ["Count", "Law", "LayerCost", "ModelCost", "Peak", "Scaling", "cost"],
    filters: ["convolve", "filter_image"], undone: ["deconvolve", "kernels"], errors: ["ConvolithError"], caches: ["clear_caches"], chapter: ["d2l"],
}  # fmt: skip


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_public_name_does_what_it_says(check):
    check()


def test_every_public_name_is_checked_listed_and_documented():
    assert sorted([*(name for names in CHECKS.values() for name in names), "nn"]) == sorted(cl.__all__)
    page = (Path(__file__).parent.parent / "docs" / "names.md").read_text()
    assert set(re.findall(r"^\| `cl\.(\w+)", page, re.MULTILINE)) == set(cl.__all__)
    for name in cl.__all__:
        assert len(inspect.getdoc(getattr(cl, name))) > 20, name


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose", "LazyConv", "LazyConvTranspose"])
def test_a_public_layer_is_torchs_to_the_last_key(kind, axes):
    name = f"{kind}{axes}d"
    sizes = (4, 3) if kind.startswith("Lazy") else (2, 4, 3)
    ours, theirs = getattr(cl.nn, name)(*sizes), getattr(nn, name)(*sizes)
    x = torch.randn(2, 2, *[7] * axes)
    theirs(x), ours(x)
    ours.load_state_dict(theirs.state_dict())
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-5)
    assert isinstance(ours, getattr(nn, name.removeprefix("Lazy")))


def test_conversions_report_revert_and_freeze():
    model = cl.nn.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    assert isinstance(model[0], cl.nn.Conv2d)
    listed = cl.nn.report(model)
    assert isinstance(listed, cl.nn.Conversion)
    assert [(layer.name, layer.converted) for layer in listed.layers] == [("0", True)]
    assert isinstance(listed.layers[0], cl.nn.Layer)
    expected = model(IMAGES)
    frozen = cl.nn.freeze(model)
    torch.testing.assert_close(frozen(IMAGES), expected)
    cl.nn.unfreeze(frozen)
    assert type(cl.nn.revert(model)[0]) is nn.Conv2d
