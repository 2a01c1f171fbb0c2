"""A tensor on a GPU through every verb: torch convolves there; folding, fitting and counting are as on a CPU.

Skipped where there is no GPU. It needs no more than torch, NumPy, pytest and Convolith's own dependencies:

    python -m pytest -c /dev/null --rootdir=. --noconftest -p no:cacheprovider tests/test_cuda.py

`CONVOLITH_TEST_DEVICE` names another device; without a GPU, `test_other_devices.py` runs this file on an emulated one. A result
there is compared with the result of the same call on the CPU.
"""

import os
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import convolith as cl
from convolith import algebra

DEVICE = torch.device(os.environ.get("CONVOLITH_TEST_DEVICE", "cuda"))
TOLERANCE = {
    torch.float64: 1e-10,
    torch.complex128: 1e-10,
    torch.float32: 1e-4,
    torch.complex64: 1e-4,
    torch.float16: 1e-2,
    torch.bfloat16: 8e-2,
}
TF32 = 1e-2
"""Tolerance for float32 where torch rounds the operands of convolutions to TF32, which is its default on a GPU."""
LAYERS = {
    "signal": ((2, 3, 50), (4, 3, 5), {"stride": 2, "padding": 2}),
    "one signal": ((3, 50), (4, 3, 5), {"padding": "same", "padding_mode": "reflect"}),
    "image": ((2, 3, 20, 17), (4, 3, 3, 3), {"padding": "same"}),
    "uneven": ((1, 4, 15, 16), (4, 1, 3, 5), {"padding": ((0, 1), (2, 3)), "groups": 4, "dilation": (2, 1)}),
    "circular": ((2, 2, 9, 12), (3, 2, 3, 4), {"padding": ((1, 1), (2, 1)), "padding_mode": "circular"}),
    "symmetric": ((1, 1, 9, 12), (1, 1, 5, 5), {"padding": 2, "padding_mode": "symmetric"}),
    "constant": ((1, 1, 9, 12), (1, 1, 3, 3), {"padding": 1, "padding_mode": "constant", "padding_value": 2.5}),
    "full": ((1, 2, 9, 9), (2, 2, 3, 3), {"padding": "full", "flip": True}),
    "volume": ((1, 2, 7, 8, 9), (3, 2, 3, 3, 3), {"padding": 1, "stride": (1, 2, 1)}),
}

pytestmark = pytest.mark.skipif(DEVICE.type == "cuda" and not torch.cuda.is_available(), reason="no GPU")
needs_memory = pytest.mark.skipif(DEVICE.type == "emulated", reason="the emulated device has no memory of its own")


@pytest.fixture(autouse=True)
def without_tf32():
    """Let float32 be float32, except in the test that looks at TF32."""
    before = torch.backends.cudnn.allow_tf32
    set_tf32(allowed=False)
    torch.manual_seed(0)
    yield
    set_tf32(allowed=before)


def set_tf32(*, allowed):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer versions of torch recommend another name
        torch.backends.cudnn.allow_tf32 = allowed


def drawn(shape, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point or dtype.is_complex:
        wide = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(shape, generator=generator, dtype=wide).to(dtype)
    limits = torch.iinfo(dtype)
    return torch.randint(max(limits.min, -(2**62)), min(limits.max, 2**62), shape, generator=generator).to(dtype)


def check(found, expected, tolerance=None):
    """Compare a result on the device with the one of the CPU."""
    assert found.device.type == DEVICE.type
    assert found.dtype is expected.dtype
    assert found.shape == expected.shape
    found, expected = found.detach().cpu(), expected.detach()
    if not (expected.is_floating_point() or expected.is_complex()):
        assert torch.equal(found, expected)
        return
    wide = torch.complex128 if expected.is_complex() else torch.float64
    found, expected = found.to(wide), expected.to(wide)
    assert torch.equal(found.isnan(), expected.isnan())
    error = (found - expected).nan_to_num().abs().max() / expected.nan_to_num().abs().max().clamp_min(1e-30)
    assert error <= (TOLERANCE.get(expected.dtype) if tolerance is None else tolerance)


def own(dtype):
    return TOLERANCE[dtype]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_correlate(name, dtype):
    shape, kernel, options = LAYERS[name]
    x, k, bias = drawn(shape, dtype), drawn(kernel, dtype, 1), drawn(kernel[:1], dtype, 2)
    expected = cl.correlate(x, k, bias, **options)
    check(cl.correlate(x.to(DEVICE), k.to(DEVICE), bias.to(DEVICE), **options), expected, own(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64, torch.complex128], ids=str)
def test_other_floats(dtype):
    x, k = drawn((2, 3, 20, 17), dtype), drawn((4, 3, 3, 3), dtype, 1)
    expected = cl.correlate(x, k, padding=1)
    check(cl.correlate(x.to(DEVICE), k.to(DEVICE), padding=1), expected, own(dtype))


@pytest.mark.parametrize(
    ("x_dtype", "k_dtype"),
    [(torch.uint8, torch.int8), (torch.int16, torch.int16), (torch.int64, torch.int64), (torch.int32, torch.float32)],
    ids=str,
)
def test_whole_numbers_are_exact(x_dtype, k_dtype):
    x, k = drawn((2, 3, 12, 11), x_dtype), drawn((4, 3, 3, 3), k_dtype, 1)
    bias = None if k_dtype.is_floating_point else torch.arange(4)
    expected = cl.correlate(x, k, bias, padding=1)
    assert expected.dtype is (torch.float32 if k_dtype.is_floating_point else torch.int64)
    check(
        cl.correlate(x.to(DEVICE), k.to(DEVICE), None if bias is None else bias.to(DEVICE), padding=1), expected, 1e-4
    )


def test_gradients():
    operands = [drawn(shape, torch.float64, seed) for seed, shape in enumerate([(2, 4, 9, 10), (6, 2, 3, 3), (6,)])]
    options = {"stride": 2, "padding": 2, "groups": 2, "padding_mode": "replicate"}
    gradients = []
    for device in ("cpu", DEVICE):
        leaves = [t.to(device).requires_grad_() for t in operands]
        first = torch.autograd.grad(cl.correlate(*leaves, **options).pow(3).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(first[1].pow(2).sum(), leaves[:2])
        gradients.append([*first, *second])
    for expected, found in zip(*gradients, strict=True):
        check(found, expected, 1e-10)


@needs_memory
def test_half_precision_under_autocast():
    layer, x = cl.nn.Conv2d(3, 8, 3).to(DEVICE), drawn((2, 3, 12, 12)).to(DEVICE)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype is torch.bfloat16
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        expected = functional.conv2d(x, layer.weight, layer.bias)
    check(y, expected.cpu(), 8e-2)


def test_float32_may_be_tf32():
    x, k = drawn((2, 32, 24, 24)), drawn((16, 32, 3, 3), seed=1)
    set_tf32(allowed=True)
    check(cl.correlate(x.to(DEVICE), k.to(DEVICE)), cl.correlate(x, k), TF32)


def test_accuracies_and_engines():
    x, k = drawn((1, 8, 20, 20)), drawn((8, 8, 3, 3), seed=1)
    there = x.to(DEVICE), k.to(DEVICE)
    check(cl.correlate(*there, accuracy="double"), cl.correlate(x, k, accuracy="double"), 1e-6)
    check(cl.correlate(*there, accuracy="fast", engine="aten"), cl.correlate(x, k), 1e-4)
    with pytest.raises(cl.ConvolithError, match=r"accuracy is 'exact', but x is on .*; use accuracy='double' there"):
        cl.correlate(*there, accuracy="exact")
    with pytest.raises(cl.ConvolithError, match="devices other than the CPU are left to torch's own convolution"):
        cl.correlate(*there, engine="direct")
    with pytest.raises(cl.ConvolithError, match="another device than the CPU"):
        cl.correlate(*there, out=torch.empty(1, 8, 18, 18, device=DEVICE))
    whole = drawn((1, 3, 9, 9), torch.uint8)
    kernel = drawn((2, 3, 3, 3), torch.int8, 1)
    check(cl.correlate(whole.to(DEVICE), kernel.to(DEVICE), accuracy="exact"), cl.correlate(whole, kernel))


def test_devices_are_not_mixed():
    x, k = drawn((1, 3, 8, 8)), drawn((2, 3, 3, 3))
    with pytest.raises(cl.ConvolithError, match="x is on .* but k is on cpu; move one of them"):
        cl.correlate(x.to(DEVICE), k)
    with pytest.raises(cl.ConvolithError, match="pass both of one kind"):
        cl.correlate(x.to(DEVICE), k.numpy())
    check(cl.correlate(x.to(DEVICE), k.tolist()), cl.correlate(x, k), 1e-4)  # lists take the kind of x


@pytest.mark.parametrize("nan", ["propagate", "omit", "interpolate"])
def test_missing_elements(nan):
    x, k = drawn((1, 2, 12, 13), torch.float64), drawn((3, 2, 3, 3), torch.float64, 1).abs()
    x[0, 1, 4:6, 7] = float("nan")
    mask = torch.zeros(12, 13, dtype=torch.bool)
    mask[0, :3] = True
    expected = cl.correlate(x, k, padding=1, nan=nan, mask=mask)
    check(cl.correlate(x.to(DEVICE), k.to(DEVICE), padding=1, nan=nan, mask=mask.to(DEVICE)), expected, 1e-10)


def test_result_dtypes():
    x, k = drawn((1, 1, 12, 13)) * 100, torch.ones(1, 1, 3, 3)
    with pytest.warns(RuntimeWarning, match="clipped"):
        expected = cl.correlate(x, k, dtype=torch.int8, padding=1)
    with pytest.warns(RuntimeWarning, match="clipped"):
        found = cl.correlate(x.to(DEVICE), k.to(DEVICE), dtype=torch.int8, padding=1)
    assert found.device.type == DEVICE.type
    assert (found.cpu().int() - expected.int()).abs().max() <= 1  # sums that lie at one half


def test_filter_image():
    picture = drawn((21, 18, 3), torch.uint8)
    kernel = np.full((3, 5), 1 / 15, np.float32)
    check(cl.filter_image(picture.to(DEVICE), kernel), cl.filter_image(picture, kernel), 1e-4)
    sobel = torch.tensor([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    check(cl.filter_image(picture.to(DEVICE), sobel.to(DEVICE)), cl.filter_image(picture, sobel))
    gray = drawn((2, 21, 18), torch.float64)
    options = {"axes": (1, 2), "padding_mode": "mirror", "flip": True, "origin": (0, 1)}
    expected = cl.filter_image(gray, sobel, **options)
    check(cl.filter_image(gray.to(DEVICE), sobel, **options), expected, 1e-10)


@needs_memory
def test_filter_image_into_memory_of_the_caller():
    gray, box = drawn((2, 21, 18), torch.float64), np.ones((3, 3))
    target = torch.empty_like(gray, device=DEVICE)
    assert cl.filter_image(gray.to(DEVICE), box, axes=(1, 2), out=target) is target
    check(target, cl.filter_image(gray, box, axes=(1, 2)), 1e-10)


def test_convolve_and_conv():
    x, k, bias = (
        drawn((1, 2, 12, 13), torch.float64),
        drawn((3, 2, 3, 3), torch.float64, 1),
        drawn((3,), torch.float64, 2),
    )
    check(cl.convolve(x.to(DEVICE), k.to(DEVICE), padding="same"), cl.convolve(x, k, padding="same"), 1e-10)
    conv, there = (cl.Conv(k.to(d), bias.to(d), padding=1, stride=2) for d in ("cpu", DEVICE))
    check(there(x.to(DEVICE)), conv(x), 1e-10)
    assert there.weight.device.type == DEVICE.type
    up, up_there = (cl.Conv(k.to(d), transposed=True, stride=2, output_padding=1) for d in ("cpu", DEVICE))
    x = drawn((1, 3, 6, 7), torch.float64)
    check(cl.correlate(x.to(DEVICE), up_there), cl.correlate(x, up), 1e-10)


def test_d2l():
    X, K = drawn((3, 9, 8), torch.float64), drawn((2, 3, 2, 2), torch.float64, 1)
    there = X.to(DEVICE), K.to(DEVICE)
    check(cl.d2l.corr2d_multi_in_out(*there), cl.d2l.corr2d_multi_in_out(X, K), 1e-10)
    check(cl.d2l.corr2d(there[0][0], there[1][0, 0]), cl.d2l.corr2d(X[0], K[0, 0]), 1e-10)
    check(cl.d2l.corr2d_multi_in(there[0], there[1][0]), cl.d2l.corr2d_multi_in(X, K[0]), 1e-10)
    one, one_there = K[..., :1, :1], there[1][..., :1, :1]
    check(cl.d2l.corr2d_multi_in_out_1x1(there[0], one_there), cl.d2l.corr2d_multi_in_out_1x1(X, one), 1e-10)


def test_plans_are_for_the_cpu():
    x, k = drawn((1, 3, 12, 12)), drawn((4, 3, 3, 3))
    there = x.to(DEVICE), k.to(DEVICE)
    spec = cl.ConvSpec.of(*there)
    assert spec == cl.ConvSpec.of(x, k)
    plan = cl.plan(spec)
    assert "chosen" in plan.explain()
    for call in (
        lambda: plan(*there),
        lambda: plan.bind(there[1]),
        lambda: cl.plan(spec, there[1]),
        lambda: plan.bind(k)(there[0]),
    ):
        with pytest.raises(cl.ConvolithError, match=r"is on "):
            call()
    check(plan(x, k).to(DEVICE), cl.correlate(x, k), 1e-5)


def network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8)]
    layers += [
        nn.ConvTranspose2d(8, 4, 4, stride=2, padding=1),
        nn.Conv2d(4, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    ]
    model = nn.Sequential(*layers, nn.Linear(5, 3))
    with torch.no_grad():
        model(drawn((4, 3, 16, 16)))  # running statistics
    return model.eval()


def test_layers_and_convert():
    x, model = drawn((2, 3, 16, 16)), network()
    expected = model(x)
    there = cl.nn.convert(network().to(DEVICE))
    check(there(x.to(DEVICE)), expected, 1e-4)
    assert all("where torch computes it" in layer.reason for layer in cl.nn.report(there).converted)
    moved = cl.nn.convert(network())
    moved(x)  # caches of the CPU
    check(moved.to(DEVICE)(x.to(DEVICE)), expected, 1e-4)
    frozen = cl.nn.freeze(there)
    with torch.no_grad():
        check(frozen(x.to(DEVICE)), expected, 1e-4)
    assert type(cl.nn.revert(there)[0]) is nn.Conv2d


@needs_memory
def test_training_step():
    x, losses = drawn((4, 3, 16, 16)), []
    for device in ("cpu", DEVICE):
        model = cl.nn.convert(network().train()).to(device).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            loss = model(x.to(device).double()).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-8)


class Block(nn.Module):
    """RepVGG's block, with code of its own that makes a tensor on the device of x."""

    def __init__(self):
        super().__init__()
        self.wide, self.wide_norm = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.point, self.point_norm = nn.Conv2d(6, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.norm = nn.BatchNorm2d(6)

    def forward(self, x):
        y = self.wide_norm(self.wide(x)) + self.point_norm(self.point(x)) + self.norm(x)
        return y.relu() * torch.linspace(1, 2, x.shape[-1], dtype=x.dtype, device=x.device)


def block():
    torch.manual_seed(0)
    model = nn.Sequential(Block(), nn.Conv2d(6, 4, 3, padding=1), nn.BatchNorm2d(4))
    with torch.no_grad():
        model(drawn((4, 6, 12, 12)))
    return model.eval()


def test_fold():
    x, model = drawn((2, 6, 12, 12)), block()
    at_home = cl.fold(model, x)
    there = cl.fold(block().to(DEVICE), x.to(DEVICE))
    report, expected = there.report, at_home.report
    assert (report.convolutions_before, report.convolutions_after) == (3, 2)
    assert [r.nodes for r in report.rewrites] == [r.nodes for r in expected.rewrites]
    assert report.error == pytest.approx(expected.error, rel=1)
    assert {t.device.type for t in (*there.model.parameters(), *there.model.buffers())} == {DEVICE.type}
    with torch.no_grad():
        check(there.model(x.to(DEVICE)), model(x), 1e-4)
        check(there.model(x[:1, :, :7].to(DEVICE)), model(x[:1, :, :7]), 1e-4)


def test_fold_refuses_what_it_cannot_do_there():
    model, x = block().to(DEVICE), drawn((2, 6, 12, 12))
    with pytest.raises(cl.ConvolithError, match="fold measures on the CPU"):
        cl.fold(model, x.to(DEVICE), measure=True)
    with pytest.raises(cl.ConvolithError, match="expected one device"):
        cl.fold(model, x)
    with pytest.raises(cl.ConvolithError, match="training mode"):
        cl.fold(block().train().to(DEVICE), x.to(DEVICE))


def test_expand():
    conv = cl.Conv(drawn((6, 6, 3, 3)).to(DEVICE), padding=1)
    form = cl.expand(conv, like="repvgg").eval()
    x = drawn((1, 6, 10, 10)).to(DEVICE)
    assert next(form.parameters()).device.type == DEVICE.type
    with torch.no_grad():
        check(form(x), conv(x).cpu(), 1e-4)
        check(cl.fold(form, x).model(x), conv(x).cpu(), 1e-4)


def test_optimize_is_for_the_cpu():
    x, model = drawn((2, 3, 16, 16)), network()
    with pytest.raises(cl.ConvolithError, match=r"optimize writes programs for the CPU; move model .* with .cpu\(\)"):
        cl.optimize(network().to(DEVICE), x.to(DEVICE))
    fast = cl.optimize(model, x, measure=False).model
    check(fast.to(DEVICE)(x.to(DEVICE)), model(x), 1e-4)  # torch computes it there


def test_fit():
    x, k = drawn((2, 40, 41), torch.float64), drawn((3, 2, 3, 5), torch.float64, 1)
    y = cl.correlate(x, k)
    expected = cl.fit(x, y, kernel_size=(3, 5), offset=True)
    found = cl.fit(x.to(DEVICE), y.to(DEVICE), kernel_size=(3, 5), offset=True)
    for name in ("kernel", "stderr", "sum_stderr"):
        assert getattr(found, name).device.type == DEVICE.type
    check(found.kernel, k, 1e-9)
    check(cl.correlate(x.to(DEVICE), found.conv), y, 1e-9)
    assert found.residual_rms == pytest.approx(expected.residual_rms, abs=1e-9)
    assert str(found.kernel.shape) in repr(found)
    assert "residual rms" in str(found)
    descended = cl.fit(x.to(DEVICE), y.to(DEVICE), kernel_size=(3, 5), method="lbfgs")
    check(descended.kernel, k, 1e-4)
    gram = cl.Gram((3, 5), 2, 3).update(
        x.to(DEVICE), y.to(DEVICE), mask=torch.zeros(38, 37, dtype=torch.bool).to(DEVICE)
    )
    assert np.abs(gram.solve().kernel - k.numpy()).max() < 1e-9


def test_fit_varying():
    x = drawn((1, 40, 41), torch.float64)
    y = x[:, 1:-1, 1:-1] * torch.linspace(0, 1, 41, dtype=torch.float64)[1:-1]
    options = {"kernel_size": 3, "degree": 1, "background_degree": 1}
    expected, found = cl.fit_varying(x, y, **options), cl.fit_varying(x.to(DEVICE), y.to(DEVICE), **options)
    check(found.kernel.weights, expected.kernel.weights, 1e-9)
    check(found.kernel.apply(x.to(DEVICE)), expected.kernel.apply(x), 1e-9)
    check(found.kernel.at((0.5, -1)).weight, expected.kernel.at((0.5, -1)).weight, 1e-9)


def test_deconvolve():
    picture = drawn((24, 25), torch.float64).abs()
    blur = torch.from_numpy(cl.kernels.gaussian(1.0))
    expected = cl.deconvolve(picture, blur, method="richardson_lucy", iterations=3)
    found = cl.deconvolve(picture.to(DEVICE), blur.to(DEVICE), method="richardson_lucy", iterations=3)
    check(found, expected, 1e-9)


def test_compose_and_branches():
    first, second = drawn((4, 3, 3, 3), torch.float64), drawn((2, 4, 3, 3), torch.float64, 1)
    convs = [[cl.Conv(k.to(d), padding=1) for k in (first, second)] for d in ("cpu", DEVICE)]
    at_home, there = (cl.compose(*pair) for pair in convs)
    check(there.conv.weight, at_home.conv.weight, 1e-12)
    assert (there.exact, there.reason) == (at_home.exact, at_home.reason)
    x = drawn((1, 3, 11, 12), torch.float64)
    check(there(x.to(DEVICE)), at_home(x), 1e-10)
    sums = [algebra.add(algebra.scale(conv, [1.0, 2.0, 3.0, 4.0]), conv) for conv in (convs[0][0], convs[1][0])]
    check(sums[1].weight, sums[0].weight, 1e-12)
    kept = [algebra.compose(algebra.select(3, [2, 0, 1], sample=c.weight), c).conv for c in (convs[0][0], convs[1][0])]
    check(kept[1].weight, kept[0].weight, 1e-12)
    whole = [cl.compose(*(cl.Conv(drawn((2, 2, 3), torch.int16, n).to(d)) for n in (0, 1))) for d in ("cpu", DEVICE)]
    check(whole[1].conv.weight, whole[0].conv.weight)


def test_composition_is_differentiable():
    weights = [drawn((2, 2, 3, 3), torch.float64, n).to(DEVICE).requires_grad_() for n in (0, 1)]
    composed = cl.compose(cl.Conv(weights[0]), cl.Conv(weights[1])).conv.weight
    gradients = torch.autograd.grad(composed.pow(2).sum(), weights)
    assert all(gradient.device.type == DEVICE.type and bool(gradient.any()) for gradient in gradients)


def test_decompose():
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=torch.float64)
    kernel = torch.outer(line, line)[None, None] / 256
    expected, found = (cl.decompose(cl.Conv(kernel.to(d), padding="same")) for d in ("cpu", DEVICE))
    assert (found.method, found.multiplications_after) == (expected.method, expected.multiplications_after)
    x = drawn((1, 1, 20, 20), torch.float64)
    check(found(x.to(DEVICE)), expected(x), 1e-10)
    assert found.tables()
    assert "separable" in repr(found)


@needs_memory
def test_cost_counts_as_on_the_cpu():
    counted = [cl.cost(network().train().to(d), input_shape=(2, 3, 16, 16)) for d in ("cpu", DEVICE)]
    assert counted[1].forward == counted[0].forward
    assert counted[1].backward.macs == counted[0].backward.macs
    assert counted[1].memory.forward == counted[0].memory.forward
    assert counted[1].parameters == counted[0].parameters
    assert counted[1].law("batch")
    layers = [cl.cost(nn.Conv2d(3, 8, 3).to(d), input_shape=(2, 3, 16, 16)) for d in ("cpu", DEVICE)]
    assert layers[1].forward == layers[0].forward


@needs_memory
def test_cost_of_a_real_run_and_of_a_step():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.Flatten(), nn.Linear(4 * 36, 2)).to(DEVICE)
    state = torch.get_rng_state()
    counted = cl.cost(model, example_input=drawn((2, 3, 8, 8)).to(DEVICE), run=True)
    assert counted.forward.macs == 2 * (4 * 36 * 27 + 2 * 4 * 36)
    assert torch.equal(state, torch.get_rng_state())
    assert cl.cost(model, input_shape=(2, 3, 8, 8), optimizer="sgd").peak.bytes > 0
    with pytest.raises(cl.ConvolithError, match="verify measures a step on the CPU"):
        cl.cost(model, input_shape=(2, 3, 8, 8), optimizer="sgd", verify=True)


@needs_memory
def test_a_buffer_with_a_size_is_read():
    class Strided(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 3)
            self.register_buffer("stride", torch.tensor(2))

        def forward(self, x):
            return functional.conv2d(x, self.conv.weight, stride=int(self.stride))

    assert cl.cost(Strided().to(DEVICE), input_shape=(1, 1, 9, 9)).output_shapes == ((1, 1, 4, 4),)
