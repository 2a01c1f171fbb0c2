"""`fold`: every network of the table to its deployed form, whatever else a model does, and what is refused."""

import copy
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import convolith as cl
from bench.networks import NETWORKS
from bench.networks.depth import reassembled
from bench.networks.mobilenet import mobilenet_v2
from bench.networks.randomise import randomised
from bench.networks.vae import Upsample
from bench.networks.widened import widened
from convolith import ConvolithError
from convolith.folding.example_inputs import outputs
from tests.strategies import image_models

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-11}


def check_same(model, folded, x):
    with torch.no_grad():
        pairs = list(zip(outputs(model, (x,)), outputs(folded, (x,)), strict=True))
    for expected, found in pairs:
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= LIMIT[x.dtype] * expected.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_folds_to_its_deployed_form(name):
    network = NETWORKS[name]
    if network.requires:
        pytest.importorskip(network.requires)
    model = network.factory()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    folded = cl.fold(model, torch.randn(network.input_shape))
    report = folded.report
    assert report.convolutions_after <= network.deployed_convolutions
    assert report.convolutions_before >= report.convolutions_after
    assert report.multiplications_after <= report.multiplications_before
    assert report.bytes_after < report.bytes_before
    assert report.error["float64"] <= LIMIT[torch.float64]
    assert report.error["float32"] <= LIMIT[torch.float32]
    corrected = any(rewrite.kind != "exact" for rewrite in report.rewrites)
    assert corrected is (not network.exact_borders and name != "vae_decoder_quantised")
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    _, channels, height, width = network.input_shape
    for batch, taller, wider in [(3, 32, 0), (2, 0, 64)]:
        check_same(model, folded.model, torch.randn(batch, channels, height + taller, width + wider))


def layers(kind, *sizes):
    """Rows of modules with random statistics, in evaluation."""
    return randomised(nn.Sequential(*kind), seed=len(kind) + len(sizes))


class Twice(nn.Module):
    """One convolution and one norm, called in two places each."""

    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.b(self.c(functional.relu(self.c(x)))) + self.b(x)


class Functional(nn.Module):
    """Calls of functions on parameters, padding by name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Parameter(torch.randn(3, 6, 1, 1))
        self.gain = nn.Parameter(torch.randn(3, 1, 1))

    def forward(self, x):
        return functional.conv2d(functional.conv2d(x, self.a, padding="same"), self.b) * self.gain - 0.5


class Subclass(nn.Conv2d):
    """A convolution with standardised weights, and not what its class says."""

    def forward(self, x):
        weight = (self.weight - self.weight.mean((1, 2, 3), keepdim=True)) * 2
        return functional.conv2d(x, weight, self.bias, padding=1)


class Overwritten(nn.Module):
    """A tensor that is read before and after it is written over, and a view of it."""

    def __init__(self):
        super().__init__()
        self.c, self.b, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        h = self.c(x)
        k = self.b(h)
        h += 1
        h[:, :2] *= 2
        return self.d(h) + k


class Activated(Overwritten):
    """A tensor that an activation writes over, and that is read before and after."""

    def forward(self, x):
        h = self.c(x)
        k = self.b(h)
        h.relu_()
        return self.d(h) + k + self.d(k)


class Joined(nn.Module):
    """Equal kernels side by side, put one after the other, then a norm."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.n = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(10)

    def forward(self, x):
        return self.n(torch.cat([self.a(x), self.b(x)], 1))


class Sliced(nn.Module):
    """Some of a convolution's channels into the next."""

    def __init__(self):
        super().__init__()
        self.c, self.d = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.d(self.c(x)[:, 2:6])


CASES = {
    # model, shape of the example, convolutions before and after, kinds of the rewrites
    "twice": (Twice, (1, 4, 9, 9), 2, 2, ["exact"]),
    "functional": (Functional, (1, 4, 9, 9), 2, 1, ["exact"]),
    "subclass": (lambda: nn.Sequential(Subclass(4, 4, 3), nn.BatchNorm2d(4)), (1, 4, 9, 9), 1, 1, ["exact"]),
    "overwritten": (Overwritten, (1, 4, 9, 9), 2, 2, []),
    "activated": (Activated, (1, 4, 9, 9), 3, 3, []),
    "joined": (Joined, (1, 4, 9, 9), 2, 1, ["exact"]),
    "sliced": (Sliced, (1, 4, 9, 9), 2, 1, ["exact"]),
    "1-d": (
        lambda: nn.Sequential(nn.Conv1d(3, 8, 5, padding=2), nn.BatchNorm1d(8), nn.Conv1d(8, 2, 1)),
        (2, 3, 20),
        2,
        1,
        ["exact"],
    ),
    "3-d": (
        lambda: nn.Sequential(nn.Conv3d(2, 32, 1), nn.Conv3d(32, 2, 3, padding=1)),
        (1, 2, 6, 7, 8),
        2,
        1,
        ["exact with border correction"],
    ),
    "linear": (
        lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(), nn.ReLU(), nn.Linear(6, 3)),
        (5, 8),
        0,
        0,
        ["exact"],
    ),
    "reflected": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.Conv2d(8, 2, 3, padding=1, padding_mode="reflect")),
        (1, 2, 9, 9),
        2,
        1,
        ["exact"],
    ),
    "uneven": (lambda: nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 8, 3)), (1, 2, 9, 9), 1, 1, ["exact"]),
    "uneven circular": (
        lambda: nn.Sequential(nn.CircularPad2d((1, 2, 0, 1)), nn.Conv2d(2, 8, 3)),
        (1, 2, 9, 9),
        1,
        1,
        ["exact"],
    ),
    "parametrised": (
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6)),
        (1, 4, 9, 9),
        1,
        1,
        ["exact"],
    ),
    "spectral": (
        lambda: nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 6, 3)), nn.BatchNorm2d(6)),
        (1, 4, 9, 9),
        1,
        1,
        ["exact"],
    ),
}


@pytest.mark.slow(quick=9)
@pytest.mark.parametrize("name", CASES)
def test_cases(name):
    factory, shape, before, after, kinds = CASES[name]
    model = randomised(factory())
    folded = cl.fold(model, torch.randn(shape))
    assert (folded.report.convolutions_before, folded.report.convolutions_after) == (before, after)
    assert sorted({rewrite.kind for rewrite in folded.report.rewrites}) == sorted(kinds)
    x = torch.randn(3, *shape[1:-1], shape[-1] + (4 if len(shape) > 2 else 0))
    check_same(model, folded.model, x)
    assert "largest relative error" in str(folded.report)


@pytest.mark.slow
@settings(max_examples=40)
@given(image_models(), st.booleans(), st.tuples(st.integers(5, 12), st.integers(5, 12)))
def test_drawn_models(model, everything, size):
    x = torch.randn(1, 2, *size, dtype=torch.float64)
    other = torch.randn(2, 2, size[0] + 3, size[1] + 1, dtype=torch.float64)
    try:
        with torch.no_grad():
            model(x), model(other)
    except RuntimeError:  # smaller than a kernel, or than what a padding mode needs
        reject()
    folded = cl.fold(model, x, force=everything)
    for given_input in (x, other):
        check_same(model, folded.model, given_input)


def reasons(report, kind):
    return [entry.reason for entry in report.skipped if entry.kind == kind]


@pytest.mark.slow
def test_the_gate_refuses_the_bottlenecks_of_mobilenet():
    report = cl.fold(mobilenet_v2(), torch.randn(1, 3, 64, 64)).report
    assert report.convolutions_after == 52
    declined = reasons(report, "does not pay")
    assert len(declined) == 2  # where a linear bottleneck is no residual, so that only the next 1x1 reads it
    assert all("multiplications instead of" in reason for reason in declined)


def test_the_gate_of_the_depth_neck_and_of_enlargement():
    neck = randomised(reassembled(48, 24, 32, 4))
    report = cl.fold(neck, torch.randn(1, 48, 6, 8)).report
    assert [rewrite.modules for rewrite in report.rewrites] == [("1", "2")]
    assert report.rewrites[0].kind == "exact with border correction"
    assert len(reasons(report, "does not pay")) == 1  # the 1x1 into both
    plain = cl.fold(randomised(reassembled(48, 40, 32, 1)), torch.randn(1, 48, 6, 8)).report
    assert plain.rewrites == ()
    assert "instead of" in reasons(plain, "does not pay")[0]
    upsampled = cl.fold(randomised(Upsample(16)), torch.randn(1, 16, 8, 8)).report
    (rewrite,) = upsampled.rewrites
    assert "transposed" in rewrite.conv
    assert rewrite.multiplications_before == pytest.approx(9 / 4 * rewrite.multiplications_after)


@pytest.mark.slow
def test_two_padded_3x3_with_a_wide_middle_are_one_away_from_the_border():
    model, x = widened(8, 64), torch.randn(1, 8, 48, 64)
    folded = cl.fold(model, x)
    (rewrite,) = folded.report.rewrites
    assert rewrite.kind == "exact with border correction"
    assert rewrite.modules == ("0", "1", "2", "3")
    assert rewrite.multiplications_after > 25 * 8 * 8 * 48 * 64  # the strips count
    assert folded.report.convolutions_after == 2
    for size in [(1, 1), (1, 7), (2, 2), (5, 3), (31, 64)]:
        check_same(model, folded.model, torch.randn(2, 8, *size))
    again = cl.fold(folded.model, x)
    check_same(model, again.model, torch.randn(2, 8, 9, 5))
    narrow = cl.fold(widened(8, 12), x).report
    assert [rewrite.modules for rewrite in narrow.rewrites] == [("0", "1"), ("2", "3")]
    assert "instead of" in reasons(narrow, "does not pay")[0]
    small = cl.fold(model, torch.randn(1, 8, 6, 6)).report
    assert "more time for the border correction than it saves" in reasons(small, "does not pay")[0]


def test_everything_is_folded_whether_it_pays_or_not():
    model = randomised(reassembled(48, 40, 32, 1))
    x = torch.randn(1, 48, 6, 8)
    folded = cl.fold(model, x, force=True)
    assert folded.report.convolutions_after == 1
    check_same(model, folded.model, torch.randn(2, 48, 9, 5))


def test_the_former_name_of_force_goes_on_working():
    model, x = randomised(reassembled(48, 40, 32, 1)), torch.randn(1, 48, 6, 8)
    with pytest.warns(DeprecationWarning, match="everything= is called force= now") as caught:
        assert cl.fold(model, x, everything=True).report.convolutions_after == 1
    assert caught[0].filename == __file__


@pytest.mark.slow
def test_a_measured_gate_gives_seconds_and_keeps_what_is_faster():
    report = cl.fold(NETWORKS["repvgg_grouped"].factory(), torch.randn(1, 3, 64, 64), measure=True).report
    assert report.rewrites
    assert all(r.seconds_after < r.seconds_before for r in report.rewrites)
    everything = cl.fold(Joined().eval(), torch.randn(1, 4, 9, 9), measure=True, force=True).report
    assert everything.convolutions_after == 1
    assert all(r.seconds_after is not None for r in everything.rewrites)


def test_int8_is_warned_of_where_channels_differ():
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)).eval()
    assert not any(r.warning for r in cl.fold(model, torch.randn(1, 4, 9, 9)).report.rewrites)
    with torch.no_grad():
        model[1].weight[3] = 1e-2
    (rewrite,) = cl.fold(model, torch.randn(1, 4, 9, 9)).report.rewrites
    assert "one per channel gives it" in rewrite.warning
    assert rewrite.least_range < 0.02 * rewrite.largest_range


PLAIN_CASES = {
    **{name: NETWORKS[name] for name in ("repvgg_grouped", "ecbsr_zeros_between", "depth_neck")},
    "recomputed border": SimpleNamespace(factory=lambda: widened(8, 64), input_shape=(1, 8, 48, 64)),
}


@pytest.mark.slow
@pytest.mark.parametrize("network", PLAIN_CASES.values(), ids=PLAIN_CASES)
def test_a_folded_model_is_a_plain_torch_module(network, tmp_path):
    """It pickles and runs without this package, copies, exports at any size, and learns."""
    model, x = network.factory(), torch.randn(network.input_shape)
    folded = cl.fold(model, x).model
    torch.save(folded, tmp_path / "folded.pt")
    torch.save((x, outputs(folded, (x,))[0].detach()), tmp_path / "pair.pt")
    code = (
        "import sys; sys.modules['convolith'] = None; import torch; folder = sys.argv[1]; "
        "model = torch.load(folder + '/folded.pt', weights_only=False); x, y = torch.load(folder + '/pair.pt'); "
        "assert torch.equal(model(x), y)"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=True)  # noqa: S603 - our own text
    check_same(model, copy.deepcopy(folded), x)
    sizes = dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(folded, (torch.cat([x, x]),), dynamic_shapes=(sizes,)).module()
    other = torch.randn(3, x.shape[1], x.shape[2] + 32, x.shape[3])
    check_same(model, program, other)
    folded.train()
    folded(x).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in folded.parameters())


def test_gradients_are_those_of_the_original():
    model = randomised(nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 4, 3, padding=1), nn.ReLU())).double()
    folded = cl.fold(model, torch.randn(1, 3, 8, 8, dtype=torch.float64)).model
    x = torch.randn(2, 3, 9, 7, dtype=torch.float64)
    given_gradients = []
    for which in (model, folded):
        own = x.clone().requires_grad_()
        which(own).pow(3).sum().backward()
        given_gradients.append(own.grad)
    assert (given_gradients[0] - given_gradients[1]).abs().max() <= 1e-11 * given_gradients[0].abs().max()


def test_several_inputs_and_results_of_any_structure():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x, y):
            return {"u": self.b(self.a(x)), "v": [self.b(self.a(y)), y]}

    model = randomised(Two())
    x, y = torch.randn(1, 4, 5, 5), torch.randn(2, 4, 6, 6)
    folded = cl.fold(model, (x, y))
    assert folded.report.convolutions_after == 2
    found, expected = folded.model(x, y), model(x, y)
    assert list(found) == ["u", "v"]
    assert torch.allclose(found["u"], expected["u"], atol=1e-5)
    assert torch.allclose(found["v"][0], expected["v"][0], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(dtype):
    model = randomised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())).to(dtype)
    folded = cl.fold(model, torch.randn(1, 3, 9, 9).to(dtype))
    assert {p.dtype for p in folded.model.parameters()} == {dtype}
    assert folded.report.error["float64"] <= 1e-11


class Dependent(nn.Module):
    """Its own code asks what the numbers are; its parts can be folded all the same."""

    def __init__(self):
        super().__init__()
        self.a = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.b = nn.Sequential(nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.inner = nn.Identity()

    def forward(self, x):
        h = self.a(x)
        if h.mean() > 0:
            h = self.b(h)
        return self.inner(h)


class Doubled(nn.Module):
    """Asks what the numbers are, and has nothing to fold."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x * 3


def test_control_flow_that_depends_on_the_data_is_named_and_what_lies_around_it_folded():
    model = randomised(Dependent())
    folded = cl.fold(model, torch.randn(1, 3, 9, 9))
    assert [rewrite.modules for rewrite in folded.report.rewrites] == [("a.0", "a.1"), ("b.0", "b.1")]
    assert folded.report.others == {"ReLU": 1}
    (reason,) = reasons(folded.report, "kept")
    assert "if h.mean() > 0:" in reason
    assert __file__ in reason
    for x in (torch.randn(2, 3, 12, 9), -torch.randn(1, 3, 7, 7).abs()):
        check_same(model, folded.model, x)
    around = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Doubled(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    folded = cl.fold(randomised(around), torch.randn(1, 3, 9, 9))
    assert len(folded.report.rewrites) == 2
    assert [entry.module for entry in folded.report.skipped if entry.kind == "kept"] == ["2"]
    check_same(around, folded.model, torch.randn(2, 3, 8, 9))
    with pytest.raises(ConvolithError, match=r"cannot be captured.*x \* 2 if x\.sum\(\) > 0"):
        cl.fold(Doubled().eval(), torch.randn(1, 3, 4, 4))


def test_modules_with_hooks_are_kept_and_named():
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    seen = []
    model[1].register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    folded = cl.fold(model, torch.randn(1, 3, 9, 9))
    assert [(e.module, e.kind) for e in folded.report.skipped] == [("1", "kept")]
    assert "hooks" in folded.report.skipped[0].reason
    seen.clear()
    folded.model(torch.randn(2, 3, 9, 9))
    assert seen == [(2, 4, 7, 7)]
    plain = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    plain.register_forward_hook(lambda module, args, output: output + 1)
    folded = cl.fold(plain, torch.randn(1, 3, 9, 9))
    assert len(folded.report.rewrites) == 1
    check_same(plain, folded.model, torch.randn(2, 3, 8, 8))


def test_the_users_model_stays_as_it_was():
    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    before = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    folded = cl.fold(model, torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))).model
    assert torch.equal(torch.get_rng_state(), random)
    with torch.no_grad():
        for parameter in folded.parameters():
            parameter.zero_()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model[0]._forward_hooks


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.nn.quantized.Conv2d(3, 4, 3).eval()


def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()


def partly_training():
    model = net()
    model[1].train()
    return model


X = torch.zeros(1, 3, 9, 9)
REFUSALS = {
    "training": (lambda: net().train(), X, r"training mode \(the model\).*model\.eval\(\)"),
    "partly training": (partly_training, X, r"training mode \(1\)"),
    "channels": (net, torch.zeros(1, 4, 9, 9), r"does not take example_input of shape \(1, 4, 9, 9\)"),
    "size": (net, torch.zeros(1, 3, 2, 2), r"does not take example_input of shape \(1, 3, 2, 2\)"),
    "integers": (net, torch.zeros(1, 3, 9, 9, dtype=torch.int64), "expected a float tensor"),
    "text": (net, "image", "expected a float tensor"),
    "nothing": (net, (), "expected a float tensor"),
    "a function": (lambda: net, X, r"is a function; expected a torch\.nn\.Module"),
    "quantised": (quantised, X, "quantised module"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    factory, x, message = REFUSALS[name]
    with pytest.raises(ConvolithError, match=message):
        cl.fold(factory(), x)


def test_norms_of_batch_statistics_are_refused_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    folded = cl.fold(model, torch.randn(1, 3, 9, 9))
    assert folded.report.rewrites == ()
    assert "statistics from the batch" in reasons(folded.report, "refused")[0]
    check_same(model, folded.model, torch.randn(4, 3, 8, 8))
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 1, 1, count_include_pad=False)).eval()
    assert "border" in reasons(cl.fold(pooled, torch.randn(1, 3, 9, 9)).report, "refused")[0]


def test_a_norm_gives_a_bias_even_if_its_shift_is_zero():
    # as torch.nn.utils.fusion.fuse_conv_bn_eval does: tools that load a state dict expect the key
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)).eval()
    assert list(cl.fold(plain, torch.randn(1, 3, 8, 8)).model.state_dict()) == ["0.weight", "0.bias"]
    line = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)).eval()
    assert list(cl.fold(line, torch.randn(2, 3)).model.state_dict()) == ["0.weight", "0.bias"]
    without = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1, bias=False)).eval()
    assert list(cl.fold(without, torch.randn(1, 3, 8, 8)).model.state_dict()) == ["folded.weight"]
