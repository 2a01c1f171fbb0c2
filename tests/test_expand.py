"""Training forms: the same in evaluation as what was expanded, trainable in every branch, one convolution again after."""

import copy
from functools import reduce

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convolith import Conv, ConvolithError, compose, correlate
from convolith.algebra import add, average_pool, batch_norm, identity, pad
from convolith.arrays import as_tensor
from convolith.folding import fold
from convolith.folding.expand.forms import FORMS, expand
from tests.strategies import convs_of_all_axes

SIZES = {1: (12,), 2: (9, 8), 3: (7, 8, 7)}
pytestmark = [
    pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths"),  # torch's own layer says so
]
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12}


def apply(x, conv):
    return torch.from_numpy(correlate(x.numpy(), as_numpy(conv), engine="reference"))


def as_numpy(conv):
    weight, bias = (np.asarray(a) if a is not None else None for a in (conv.weight, conv.bias))
    return Conv(weight, bias, **conv.options)


def near(found, expected, tolerance=1e-12):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * max(float(expected.abs().max()), 1.0)


def drawn(conv, like, **options):
    """The form, or None where it says that there is none."""
    refused = ""
    try:
        return expand(conv, like=like, **options)
    except ConvolithError as refusal:
        refused = str(refusal)
    assert "has no second branch" in refused
    assert like in ("acnet", "repvgg")
    return None


def layer_as_conv(layer, channels, axes):
    sample = torch.zeros(1, dtype=torch.float64)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return batch_norm(
            layer.running_mean, layer.running_var, layer.weight.detach(), layer.bias.detach(), eps=layer.eps, axes=axes
        )
    if isinstance(layer, nn.modules.conv._ConvNd):
        return Conv.from_module(layer)
    if isinstance(layer, nn.modules.pooling._AvgPoolNd):
        return average_pool(channels, layer.kernel_size, stride=layer.stride, axes=axes, sample=sample)
    amounts, kind = layer.padding, type(layer).__name__
    mode = {"Z": "zeros", "Refl": "reflect", "Repl": "replicate", "C": "circular"}
    mode = next(value for start, value in mode.items() if kind.startswith(start))
    pairs = [amounts[i : i + 2] for i in range(len(amounts) - 2, -1, -2)]
    return pad(channels, pairs, axes=axes, padding_mode=mode, sample=sample)


def as_one(form, conv):
    """The one convolution that a form is, by the algebra; every row of layers must be exact everywhere."""

    def joined(first, layer):
        both = compose(first, layer_as_conv(layer, first.out_channels, form.axes))
        assert both.exact == "everywhere"
        return both.conv

    start = identity(conv.in_channels, axes=form.axes, sample=torch.zeros(1, dtype=torch.float64))
    return add(*(reduce(joined, branch, start) for branch in form.branches.values()))


def assert_same_conv(found, conv):
    near(found.weight, as_tensor("weight", conv.weight))
    near(found.bias, torch.zeros(conv.out_channels) if conv.bias is None else as_tensor("bias", conv.bias))
    used = [axis for axis, taps in enumerate(conv.kernel_size) if taps > 1]
    assert [found.dilation[axis] for axis in used] == [conv.dilation[axis] for axis in used]
    assert (found.stride, found.padding, found.groups) == (conv.stride, conv.padding, conv.groups)
    assert not any(map(any, conv.padding)) or found.padding_mode == conv.padding_mode


@pytest.mark.slow
@settings(max_examples=150)
@given(convs_of_all_axes(), st.sampled_from(sorted(FORMS)), st.booleans(), st.integers(0, 9))
def test_drawn_convolutions(conv, like, calibrated, seed):
    """In evaluation what they were, borders included; one convolution again with their kernel, bias and options."""
    x = torch.randn(2, conv.in_channels, *SIZES[len(conv.kernel_size)], dtype=torch.float64)
    form = drawn(conv, like, seed=seed, calibration=x + 1 if calibrated else None)
    if form is None:
        return
    assert len(form.branches) > 1
    with torch.no_grad():
        near(form.eval()(x), apply(x, conv))
    assert_same_conv(as_one(form, conv), conv)


LAYERS = {
    "same": lambda: nn.Conv2d(4, 4, 3, padding="same"),
    "stride": lambda: nn.Conv2d(4, 6, 5, stride=2, padding=2, bias=False),
    "groups": lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, (3, 5), padding=(1, 2), groups=4),
    "dilation": lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2),
    "even": lambda: nn.Conv2d(4, 4, 4, padding="same"),
    "full": lambda: nn.Conv2d(4, 4, 3, padding=2),
    "line": lambda: nn.Conv1d(4, 4, 3, padding=1),
    "volume": lambda: nn.Conv3d(2, 2, 3, padding=1),
}
CASES = [(name, like) for name in LAYERS for like in FORMS if (name, like) != ("line", "acnet")]


@pytest.mark.parametrize(("name", "like"), CASES)
def test_a_layer_is_replaced_in_its_own_dtype(name, like):
    layer = LAYERS[name]()
    form = expand(layer, like=like).eval()
    for n in (11, 12):
        x = torch.randn(2, layer.in_channels, *[n] * form.axes)
        with torch.no_grad():
            near(form(x), layer(x), ROUNDING[torch.float32])
    assert {p.dtype for p in form.parameters()} == {torch.float32}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize(("name", "like"), [*zip(LAYERS, [*FORMS] * 2), ("groups", "dbb"), ("stride", "acnet")])
def test_a_form_folds_to_one_convolution_as_it_is_and_after_training(name, like):
    if (name, like) == ("line", "acnet"):
        like = "dbb"
    layer = LAYERS[name]().double()
    x = torch.randn(4, layer.in_channels, *[9] * (2 if name != "volume" else 3), dtype=torch.float64)
    x = x[..., 0] if name == "line" else x
    form = expand(layer, like=like, calibration=x).eval()
    conv = Conv.from_module(layer)
    for trained in (False, True):
        if trained:
            train(form, x)
        folded = fold(form, x).model
        kernels = [m for m in folded.modules() if isinstance(m, nn.modules.conv._ConvNd)]
        assert len(kernels) == 1
        assert not any("conv" in str(n.target) for n in folded.graph.nodes if n.op == "call_function")
        assert tuple(kernels[0].weight.shape) == tuple(layer.weight.shape)
        if not trained:
            near(kernels[0].weight.detach(), conv.weight)
            bias = torch.zeros(conv.out_channels) if kernels[0].bias is None else kernels[0].bias.detach()
            near(bias, torch.zeros(conv.out_channels) if conv.bias is None else conv.bias)
        for other in (x, x[:1, ..., 1:]):
            with torch.no_grad():
                near(folded(other), form(other), 1e-11)


def train(form, x, steps=3):
    form.train()
    optimiser = torch.optim.SGD(form.parameters(), lr=0.05)
    with torch.no_grad():
        before = [p.clone() for p in form.parameters()]
        target = torch.randn_like(form(x))
    for _ in range(steps):
        optimiser.zero_grad()
        (form(x) - target).square().mean().backward()
        optimiser.step()
    assert not any(torch.equal(p, old) for p, old in zip(form.parameters(), before))
    form.eval()


@pytest.mark.parametrize("like", FORMS)
def test_gradients_reach_every_branch_and_differ(like):
    x = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    form = expand(Conv(torch.randn(4, 4, 3, 3, dtype=torch.float64), padding=1), like=like)
    target = torch.randn(3, 4, 8, 8, dtype=torch.float64)
    for mode in (True, False):
        form.zero_grad()
        (form.train(mode)(x) - target).square().mean().backward()
        gradients = [p.grad for p in form.parameters()]
        assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in gradients)
        scales = [branch[-1].weight.grad for branch in form.branches.values()]
        assert all(not torch.allclose(a, b) for i, a in enumerate(scales) for b in scales[:i])


@pytest.mark.parametrize("like", FORMS)
def test_training_begins_where_evaluation_is_on_the_calibration(like):
    conv = Conv(torch.randn(4, 4, 3, 3, dtype=torch.float64), torch.randn(4, dtype=torch.float64), padding=1)
    x = 3 * torch.randn(2, 4, 8, 8, dtype=torch.float64) - 5
    form = expand(conv, like=like, calibration=x)
    near(form.train()(x).detach(), apply(x, conv))
    assert not torch.equal(form.branches["kernel"][-1].running_mean, torch.zeros(4))


@pytest.mark.parametrize("like", FORMS)
def test_training_on_noise_begins_near_evaluation_without_calibration(like):
    layer = nn.Conv2d(4, 4, 3, padding=1).double()
    x = torch.randn(16, 4, 16, 16, dtype=torch.float64)
    form = expand(layer, like=like)
    with torch.no_grad():
        assert float((form.train()(x) - layer(x)).square().mean().sqrt()) < 0.15 * float(layer(x).std())


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("like", FORMS)
def test_copies_saved_states_and_captures(like):
    layer = nn.Conv2d(4, 4, 3, padding=1)
    form, other = expand(layer, like=like).eval(), expand(layer, like=like, seed=1).eval()
    x = torch.randn(2, 4, 9, 9)
    with torch.no_grad():
        expected = form(x)
        assert torch.equal(copy.deepcopy(form)(x), expected)
        assert not torch.equal(other.branches["kernel"][0].weight, form.branches["kernel"][0].weight)
        other.load_state_dict(form.state_dict())
        assert torch.equal(other(x), expected)
        dynamic = {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO}
        exported = torch.export.export(form, (x,), dynamic_shapes=(dynamic,)).module()
        for found in (exported, torch.fx.symbolic_trace(form)):
            for size in ((2, 4, 9, 9), (3, 4, 12, 7)):
                x = torch.randn(size)
                near(found(x), form(x), ROUNDING[torch.float32])


def test_the_seed_alone_makes_the_random_weights():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    before = torch.get_rng_state()
    first, again, other = (expand(layer, like="dbb", seed=seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["branches.pointwise.0.weight"], other["branches.pointwise.0.weight"])


@pytest.mark.parametrize(
    ("conv", "like", "names"),
    [
        (nn.Conv2d(4, 4, 3, padding=1), "repvgg", ["kernel", "pointwise", "identity"]),
        (nn.Conv2d(4, 4, 3, padding=1, stride=2), "repvgg", ["kernel", "pointwise"]),
        (nn.Conv2d(4, 4, 1), "repvgg", ["kernel", "identity"]),
        (nn.Conv2d(4, 6, 1), "mobileone", ["kernel", "kernel_2", "kernel_3", "kernel_4"]),
        (nn.Conv2d(4, 4, 3), "dbb", ["kernel", "expanded", "averaged"]),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2), "dbb", ["kernel", "pointwise", "expanded"]),
        (nn.Conv2d(4, 4, 3, padding=(0, 1)), "acnet", ["kernel", "axis_0"]),
        (nn.Conv2d(4, 4, 2, padding="same"), "acnet", ["kernel", "axis_0", "axis_1"]),
    ],
)
def test_branches(conv, like, names):
    assert list(expand(conv, like=like).branches) == names


def test_forms_of_zeros_halves_and_numpy():
    for conv in (Conv(np.zeros((2, 2, 3)), padding=1), Conv(torch.randn(2, 2, 3).bfloat16(), padding=1)):
        form = expand(conv).eval()
        x = torch.randn(1, 2, 8).to(as_tensor("weight", conv.weight).dtype)
        tolerance = 1e-12 if x.dtype == torch.float64 else 0.05
        near(form(x).detach(), nn.functional.conv1d(x, as_tensor("weight", conv.weight), padding=1), tolerance)


LAYER = nn.Conv2d(4, 4, 3, padding=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expand(np.ones((1, 1, 3))), "conv is a ndarray; expected a Conv"),
        (lambda: expand(nn.Linear(2, 2)), "module is a Linear; expected a torch convolution"),
        (lambda: expand(nn.ConvTranspose2d(2, 2, 3)), "conv is transposed"),
        (lambda: expand(Conv(np.ones((1, 1, 3), int))), "conv has dtype int64; expected a real float"),
        (lambda: expand(Conv(np.ones((1, 1, 3), complex))), "conv has dtype complex128; expected a real float"),
        (lambda: expand(nn.Conv2d(1, 1, 3, device="meta")), "meta device"),
        (lambda: expand(LAYER, like="vgg"), "like is 'vgg'; expected one of acnet, dbb, mobileone, repvgg"),
        (lambda: expand(LAYER, branches=2), "branches is 2, but repvgg has one whole kernel"),
        (lambda: expand(LAYER, like="mobileone", branches=0), "branches is 0; expected 1 or more"),
        (lambda: expand(LAYER, seed=-1), "seed is -1; expected 0 or more"),
        (lambda: expand(nn.Conv2d(4, 4, 3)), "'repvgg', which has no second branch for Conv.*needs padding"),
        (lambda: expand(nn.Conv2d(4, 6, 1)), "an identity needs stride 1"),
        (lambda: expand(nn.Conv2d(4, 4, 3), like="acnet"), "needs two axes with more than one tap, and padding"),
        (lambda: expand(nn.Conv1d(4, 4, 3, padding=1), like="acnet"), "needs two axes"),
        (lambda: expand(nn.Conv2d(4, 6, 3), like="mobileone", branches=1), "branches is 1, and a 1x1"),
        (lambda: expand(LAYER, calibration=torch.ones(4, 8, 8)), r"calibration has shape \(4, 8, 8\); expected finite"),
        (lambda: expand(LAYER, calibration=torch.full((1, 4, 8, 8), np.inf)), "expected finite"),
        (
            lambda: expand(nn.Conv2d(4, 4, 3), like="dbb", calibration=torch.ones(1, 4, 2, 2)),
            "calibration .* cannot be conv",
        ),
        (
            lambda: expand(nn.Conv1d(4, 4, 7, padding=6, padding_mode="reflect"), calibration=torch.ones(1, 4, 3)),
            r"calibration of shape \(1, 4, 3\) cannot be convolved: .*Padding",
        ),
        (lambda: expand(nn.Conv1d(4, 4, 3, padding=1))(torch.ones(4, 4)), r"x has shape \(4, 4\); expected \(N,"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ConvolithError, match=message):
        call()
