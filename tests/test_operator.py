"""Torch's machinery around planned engines: the registered operator, gradients in turn, converted models."""

import copy

import pytest
import torch
from torch.nn import functional

import convolith as cl
from convolith import ConvolithError
from convolith.correlation.registered_operator import _backward, _correlate
from convolith.planner import prepared_kernels

GEOMETRY = ([1, 1], [1, 1, 1, 1], [1, 1], 1, "zeros", "default", "auto")


@pytest.mark.slow
@pytest.mark.parametrize("bias", [True, False])
def test_the_operator_passes_torchs_own_checks(bias):
    wide = {"dtype": torch.float64}  # a kernel that comes again may be computed by another engine, with other last bits
    x, k = torch.randn(2, 4, 9, 8, requires_grad=True, **wide), torch.randn(6, 4, 3, 3, requires_grad=True, **wide)
    b = torch.randn(6, requires_grad=True, **wide) if bias else None
    torch.library.opcheck(_correlate, (x, k, b, *GEOMETRY))
    last = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(_correlate, (last, k, b, *GEOMETRY))
    grad = torch.randn(2, 6, 9, 8, **wide)
    bare = None if b is None else b.detach()
    for given in (x.detach(), last.detach()):
        torch.library.opcheck(_backward, (grad, given, k.detach(), bare, *GEOMETRY, [True, True, bias]))


@pytest.mark.slow
def test_compiled_and_exported_models_see_one_operator():
    model = torch.nn.Sequential(cl.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), cl.nn.Conv2d(8, 2, 5, stride=2))
    x = torch.randn(1, 3, 20, 20)
    exported = torch.export.export(model, (x,))
    called = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
    assert sum("convolith.correlate" in name for name in called) == 2
    torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-4, atol=1e-5)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-5)
    compiled(x).sum().backward()
    found = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model(x).sum().backward()
    for a, p in zip(found, model.parameters()):
        torch.testing.assert_close(a, p.grad, rtol=1e-4, atol=1e-4)


LAYERS = {
    "winograd both ways": {"x": (2, 32, 40, 40), "k": (48, 32, 3, 3), "padding": 1},
    "one channel, large kernel": {"x": (1, 1, 200, 180), "k": (1, 1, 41, 41), "padding": 20},
    "depthwise": {"x": (2, 24, 40, 41), "k": (24, 1, 5, 5), "padding": 2, "groups": 24},
    "grouped": {"x": (2, 12, 30, 31), "k": (18, 4, 3, 3), "padding": 1, "groups": 3},
    "strided": {"x": (2, 8, 33, 31), "k": (8, 8, 3, 3), "stride": 2, "padding": 1},
    "dilated": {"x": (2, 8, 33, 31), "k": (8, 8, 3, 3), "dilation": 2, "padding": 2},
    "more padding than the kernel reaches": {"x": (1, 2, 12, 12), "k": (3, 2, 3, 3), "padding": 4},
    "signal": {"x": (2, 3, 500), "k": (4, 3, 9), "padding": 4},
    "volume": {"x": (1, 3, 14, 15, 16), "k": (4, 3, 3, 3, 3), "padding": 1},
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_planned_gradients_are_torchs(layer):
    options = {name: value for name, value in layer.items() if name not in ("x", "k")}
    x, k = (torch.randn(layer[name]).requires_grad_() for name in ("x", "k"))
    b = torch.randn(layer["k"][0]).requires_grad_()
    y = cl.correlate(x, k, b, **options)
    weights = torch.randn(y.shape)
    ours = torch.autograd.grad((y * weights).sum(), (x, k, b))
    run = {3: functional.conv1d, 4: functional.conv2d, 5: functional.conv3d}[x.ndim]
    wide = [t.detach().double().requires_grad_() for t in (x, k, b)]
    theirs = torch.autograd.grad((run(*wide, **options) * weights.double()).sum(), wide)
    sizes = [t.detach().abs().requires_grad_() for t in wide]
    summed = torch.autograd.grad((run(*sizes, **options) * weights.double().abs()).sum(), sizes)
    for a, c, size in zip(ours, theirs, summed):  # a sum may cancel to nothing: its terms say what rounding may cost
        assert float(((a - c).abs() / size).max()) < 2e-6


def test_exact_gradients_are_direct_sums_and_nothing_of_them_is_kept():
    """A NaN in the incoming gradient reaches what the direct sum lets it reach, and no further."""
    x, k = torch.randn(1, 16, 40, 40, requires_grad=True), torch.randn(16, 16, 3, 3)
    y = cl.correlate(x, k, padding=1, accuracy="exact")
    before = len(prepared_kernels._kept)
    grad = torch.randn(y.shape)
    grad[0, 3, 20, 20] = torch.nan
    (by_x,) = torch.autograd.grad(y, x, grad)
    hit = torch.zeros(x.shape, dtype=torch.bool)
    hit[:, :, 19:22, 19:22] = True
    assert torch.equal(by_x.isnan(), hit)
    assert len(prepared_kernels._kept) == before


def test_vmap_of_a_compiled_call():
    xs, k = torch.randn(3, 1, 2, 8, 8), torch.randn(4, 2, 3, 3)
    expected = torch.stack([functional.conv2d(x, k) for x in xs])
    torch.testing.assert_close(torch.vmap(lambda x: cl.correlate(x, k))(xs), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.vmap(lambda x: _correlate(x, k, None, [1, 1], [0] * 4, [1, 1], 1, "zeros", "default", "auto"))(xs),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


class Scaled(torch.nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)


def network() -> torch.nn.Module:
    shared = torch.nn.Conv2d(8, 8, 3, padding=1)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding="same", padding_mode="reflect"),
        shared,
        torch.nn.Sequential(torch.nn.BatchNorm2d(8), shared),
        Scaled(8, 4, 1),
        torch.nn.ConvTranspose2d(4, 4, 2, stride=2),
    )


def test_convert_and_revert_change_nothing_but_the_engine():
    theirs = network().eval()
    x = torch.randn(2, 3, 20, 20)
    expected = theirs(x)
    ours = copy.deepcopy(theirs)
    names, parameters = list(ours.state_dict()), list(ours.parameters())
    called = []
    ours[1].register_forward_hook(lambda *a: called.append(1))
    assert cl.nn.convert(ours) is ours
    assert [type(m).__module__ for m in (ours[0], ours[1], ours[3], ours[4])] == [
        "convolith.nn",
        "convolith.nn",
        "tests.test_operator",
        "convolith.nn",
    ]
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    assert len(called) == 2
    assert list(ours.state_dict()) == names
    assert all(a is b for a, b in zip(ours.parameters(), parameters))
    theirs.load_state_dict(ours.state_dict())
    assert type(cl.nn.revert(ours)[0]) is torch.nn.Conv2d
    assert torch.equal(ours(x), expected)


def test_what_cannot_be_converted():
    with pytest.raises(ConvolithError, match="model is a list; expected a torch.nn.Module"):
        cl.nn.convert([torch.nn.Conv2d(1, 1, 1)])


class Watching(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["zeros", "circular"])
def test_dispatch_modes_see_one_operator_with_the_same_result(mode):
    layer = cl.nn.Conv2d(3, 8, 5, padding=2, padding_mode=mode)
    x = torch.randn(2, 3, 20, 20, requires_grad=True)
    expected = layer(x)
    wanted = torch.autograd.grad(expected.square().sum(), [x, *layer.parameters()])
    with Watching() as watching:
        y = layer(x)
        found = torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])
    torch.testing.assert_close(y, expected)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    assert watching.seen.count("convolith.correlate.default") == 1
    assert watching.seen.count("convolith.correlate_backward.default") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{"padding": 1}, {"stride": 2, "padding": (0, 1)}, {"padding": 2, "padding_mode": "reflect"}]
)
def test_second_derivatives_where_dispatch_is_watched(options):
    x, k = torch.randn(1, 2, 6, 5, dtype=torch.float64), torch.randn(3, 2, 3, 3, dtype=torch.float64)
    operands = x.requires_grad_(), k.requires_grad_(), torch.randn(3, dtype=torch.float64).requires_grad_()
    with Watching():
        assert torch.autograd.gradgradcheck(lambda *given: cl.correlate(*given, **options), operands)


def test_torchs_own_counter_counts_converted_models():
    from torch.utils.flop_counter import FlopCounterMode

    layer = cl.nn.Conv2d(4, 8, 3, padding=1, groups=2)
    products = 8 * 2 * 9 * 100
    for shape in ((2, 4, 10, 10), (4, 10, 10)):
        with FlopCounterMode(display=False) as counter:
            layer(torch.randn(shape)).sum().backward()
        assert counter.get_total_flops() == 2 * 2 * products * (shape[0] if len(shape) == 4 else 1)
