"""Models as people write them: in place, with sizes in their code, with hooks, tensors of their own, and other tools."""

import copy
import math
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional

import convolith as cl
from bench.networks.randomise import randomised
from convolith import ConvolithError
from convolith.folding import submodules
from convolith.folding.capture import checked_graph
from convolith.folding.example_inputs import outputs

X = (1, 4, 16, 16)


class Given(nn.Module):
    """A function of some layers and x, as a model."""

    def __init__(self, function):
        super().__init__()
        self.c, self.b, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.c2, self.b2 = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.c3, self.b3 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def given(function):
    return randomised(Given(function))


def check_same(model, folded, *shapes):
    for shape in shapes:
        x = torch.randn(shape)
        with torch.no_grad():
            for expected, found in zip(outputs(model, (x,)), outputs(folded, (x,)), strict=True):
                assert found.shape == expected.shape
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


def norm_count(model):
    return sum(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


# Sizes in the code.


class Audio(nn.Module):
    """Divides by the number of samples, which stand on the axis of channels."""

    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv1d(1, 4, 3, bias=False), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.b(self.c(x[:, None])).sum(-1) / x.shape[1]


def test_a_length_on_the_axis_of_channels():
    model = randomised(Audio())
    folded = cl.fold(model, torch.randn(1, 100))
    assert folded.report.norms_after == 0
    check_same(model, folded.model, (1, 50), (3, 200), (2, 101))


SIZES = {
    "parity": lambda m, x: m.b(m.c(x)) * (2 if x.shape[2] % 2 == 0 else 1),
    "a number of its own": lambda m, x: m.b(m.c(x)) * int(x.shape[3]),
    "a root": lambda m, x: m.b(m.c(x)) * math.sqrt(x.shape[3]),
    "a float": lambda m, x: m.b(m.c(x)) / float(x.shape[2]),
    "the batch": lambda m, x: m.b(m.c(x)) if x.size(0) < 4 else m.c(x),
    "the number of elements": lambda m, x: m.b(m.c(x)) / x.numel(),
    "the length": lambda m, x: m.b(m.c(x)) * len(x),
    "a range": lambda m, x: sum(m.b(m.c(x))[..., i] for i in range(x.shape[3])),
    "a text": lambda m, x: m.b(m.c(x)) * len(str(x.shape[3])),
    "one pixel": lambda m, x: m.b(m.c(x)) if x.shape[2] > 1 else m.c(x),
}


@pytest.fixture
def every_size(monkeypatch):
    """As many inputs are compared as there are, however long that takes on this machine."""
    monkeypatch.setattr(checked_graph, "LIMITS", ((1.0, (600.0, 600.0)),) * 3)


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_never_settled_in_silence(name):
    """The folded model is right at other sizes, or refuses them, or the model is refused."""
    model = given(SIZES[name])
    if name in ("parity", "a root", "a float", "a range", "a text", "the batch", "one pixel"):
        with pytest.raises(ConvolithError, match="cannot be captured"):
            cl.fold(model, torch.randn(X))
        return
    folded = cl.fold(model, torch.randn(X)).model
    for shape in [X, (6, 4, 16, 16), (1, 4, 9, 16), (2, 4, 16, 8), (1, 4, 31, 33), (1, 4, 1, 7), (2, 4, 8, 160)]:
        try:
            check_same(model, folded, shape)
        except AssertionError as refusal:
            assert "folded for sizes" in str(refusal)  # noqa: PT017 - as above


def test_a_threshold_far_away_is_refused_by_the_folded_model():
    model = given(lambda m, x: m.b(m.c(x)) if x.shape[3] < 1000 else m.c(x))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    check_same(model, folded.model, (2, 4, 9, 40))
    with pytest.raises(AssertionError, match="folded for sizes at which the code at .*test_fold_everyone"):
        folded.model(torch.randn(1, 4, 3, 1000))


class SamePadding(nn.Module):
    """Padding by the size, as TensorFlow has it."""

    def __init__(self, stride):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, stride, bias=False), nn.BatchNorm2d(4)

    def forward(self, x):
        amounts = []
        for size, k, s in zip(x.shape[:1:-1], self.conv.kernel_size, self.conv.stride, strict=True):
            total = max((math.ceil(size / s) - 1) * s + k - size, 0)
            amounts += [total // 2, total - total // 2]
        return functional.silu(self.norm(self.conv(functional.pad(x, amounts))), inplace=True)


def test_padding_computed_from_the_size():
    model = randomised(nn.Sequential(*(SamePadding(2 - i % 2) for i in range(5))))
    folded = cl.fold(model, torch.randn(1, 4, 64, 64))
    assert (folded.report.norms_before, folded.report.norms_after) == (5, 0)
    check_same(model, folded.model, (2, 4, 65, 40), (1, 4, 33, 31))


class ParityPadding(nn.Module):
    """Padding chosen by a number that is no size any more."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        height, width = int(x.shape[-2]), int(x.shape[-1])
        x = functional.pad(x, (0, 1 + width % self.conv.stride[1], 0, 1 + height % self.conv.stride[0]))
        x = self.conv(x)
        x = self.norm(x)
        return self.act(self.drop(x))


def test_a_convolution_and_its_norm_fold_inside_a_module_that_stays():
    model = randomised(nn.Sequential(*(ParityPadding() for _ in range(3))))
    folded = cl.fold(model, torch.randn(1, 4, 64, 64))
    report = folded.report
    assert (report.convolutions_before, report.norms_before, report.norms_after) == (3, 3, 0)
    assert [rewrite.name for rewrite in report.rewrites] == ["0.conv", "1.conv", "2.conv"]
    assert {entry.kind for entry in report.skipped} == {"kept"}
    check_same(model, folded.model, (2, 4, 65, 40), (1, 4, 33, 31))
    assert norm_count(model) == 3


class Odd(nn.Module):
    """A branch on an odd size around layers in a row."""

    def __init__(self):
        super().__init__()
        self.c, self.b, self.d, self.a = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(), nn.ReLU()

    def forward(self, x):
        if x.shape[2] % 2:
            x = functional.pad(x, (0, 0, 0, 1))
        return self.a(self.d(self.b(self.c(x))))


def test_a_branch_on_an_odd_size_is_named_with_its_line():
    model = randomised(nn.Sequential(Odd(), Odd()))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    assert [entry.module for entry in folded.report.skipped] == ["0", "1"] or len(folded.report.skipped) == 2
    reason = folded.report.skipped[0].reason
    assert "which were only tried" in reason
    assert "test_fold_everyone.py" in reason
    assert "if x.shape[2] % 2:" in reason
    check_same(model, folded.model, (2, 4, 17, 9), (1, 4, 8, 8))


class FixedSize(nn.Module):
    """Resizes whatever has another size than its own, as blocks that mix along the axes do."""

    def __init__(self, size):
        super().__init__()
        self.size, self.c, self.b = size, nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.place = nn.Parameter(torch.randn(size, size))

    def forward(self, x):
        shape = x.shape[2:]
        if shape[0] != self.size:
            x = functional.interpolate(x, (self.size, self.size))
        y = self.b(self.c(x)).relu() * self.place
        if shape[0] != self.size:
            y = functional.interpolate(y, shape)
        return y


@pytest.mark.slow
def test_more_kept_modules_of_a_class_than_attempts():
    model = given(lambda m, x: m.b(m.c(m.blocks(x))))
    model.blocks = randomised(nn.Sequential(*(FixedSize(16) for _ in range(checked_graph.MOST_ATTEMPTS + 2))))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    check_same(model, folded.model, X, (2, 4, 9, 7), (1, 4, 32, 20))


class Weighed(nn.Module):
    """Computes the weights of a layer in each call and assigns them to its parameters."""

    def __init__(self, given):
        super().__init__()
        self.first, self.second, self.both = nn.Conv2d(4, 6, 1), nn.Conv2d(6, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.b, self.given = nn.BatchNorm2d(4), given

    def forward(self, x):
        w = torch.einsum("hc,ohyx->ocyx", self.first.weight.data[:, :, 0, 0], self.second.weight.data)
        if self.given == "input":
            w = w * x.mean()
        if self.given == "itself":
            w = w + self.both.weight
        self.both.weight.data = w.contiguous()
        return self.b(self.both(x))


def test_weights_that_are_computed_in_each_call_are_constants():
    model = randomised(nn.Sequential(Weighed("others"), nn.ReLU(), Weighed("others")))
    folded = cl.fold(model, torch.randn(X))
    assert (folded.report.convolutions_after, folded.report.norms_after) == (2, 0)
    check_same(model, folded.model, (2, 4, 17, 9), (1, 4, 8, 8))
    assert not [m for m in cl.nn.convert(folded.model).modules() if type(m) is nn.Conv2d]


@pytest.mark.parametrize("given", ["input", "itself"])
def test_weights_that_are_computed_from_the_input_or_the_last_call_stay_as_they_are(given):
    model = randomised(nn.Sequential(Weighed(given), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    with torch.no_grad():
        for _ in range(2):
            model(torch.randn(X))
    if given == "itself":
        with pytest.raises(ConvolithError):  # another output in each call
            cl.fold(model, torch.randn(X))
        return
    folded = cl.fold(model, torch.randn(X))
    assert "assigns to the attribute data" in str(folded.report)
    assert folded.report.norms_after == 1
    check_same(model, folded.model, (2, 4, 17, 9), (1, 4, 8, 8))


class Sized(nn.Module):
    """Goes on with the sizes that a module gives whose own code depends on them."""

    def __init__(self, given, *, shared):
        super().__init__()
        odd = Odd()
        if shared:  # one module of two names
            self.odd = odd
        self.given, self.c, self.b = given, nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.inner = Inner(odd, given)

    def forward(self, x):
        y, (height, width) = self.inner(x) if self.given is not dict else self.inner(x).values()
        tokens = y.flatten(2).transpose(1, 2)
        return self.b(self.c(tokens.transpose(1, 2).reshape(x.shape[0], -1, height, width))) / (height * width)


class Inner(nn.Module):
    def __init__(self, odd, given):
        super().__init__()
        self.odd, self.given = odd, given

    def forward(self, x):
        y = self.odd(x) if x.shape[2] % 2 else self.odd(x) + 0
        sizes = {tuple: (y.shape[2], y.shape[3]), list: [*y.shape[2:]], dict: y.shape[2:]}[self.given]
        return {"y": y, "size": sizes} if self.given is dict else (y, sizes)


@pytest.mark.slow(quick=4)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("given", [tuple, list, dict])
def test_sizes_that_a_kept_module_gives_are_those_of_each_call(given, shared):
    model = randomised(Sized(given, shared=shared))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    check_same(model, folded.model, (2, 4, 17, 9), (1, 4, 8, 8), (3, 4, 5, 30))


class Reused(Odd):
    """A convolution that another way through the code uses without its norm."""

    def forward(self, x):
        if x.shape[2] % 2:
            return self.a(self.c(x))
        x = self.c(x)
        x = self.b(x)
        return self.a(self.d(x))


def test_a_convolution_that_is_used_elsewhere_does_not_fold_inside():
    model = randomised(nn.Sequential(Reused(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 1
    assert [entry.module for entry in folded.report.skipped if entry.kind == "norm"] == ["0.b"]
    check_same(model, folded.model, (2, 4, 17, 9), (1, 4, 8, 8))


# Writing in place.


def three_added(m, x):
    out = m.b(m.c(x))
    out += m.b2(m.c2(x))
    out += m.b3(m.c3(x))
    return out


def added_to_zero(m, x):
    out = 0
    for c, b in ((m.c, m.b), (m.c2, m.b2), (m.c3, m.b3)):
        out += b(c(x))
    return out


@pytest.mark.parametrize("function", [three_added, added_to_zero])
def test_branches_that_are_added_in_place(function):
    model = given(function)
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.convolutions_after == 1
    check_same(model, folded.model, (2, 4, 9, 7))


ACTIVATIONS = {
    "relu_": lambda y: y.relu_(),
    "relu": lambda y: functional.relu(y, inplace=True),
    "silu": lambda y: functional.silu(y, True),
    "leaky": lambda y: functional.leaky_relu_(y, 0.1),
    "elu": lambda y: functional.elu(y, inplace=True),
    "hardswish": lambda y: functional.hardswish(y, inplace=True),
    "relu6": lambda y: functional.relu6(y, inplace=True),
    "hardsigmoid": lambda y: functional.hardsigmoid(y, inplace=True),
    "mish": lambda y: functional.mish(y, inplace=True),
    "gelu": functional.gelu,
    "clamp": lambda y: y.clamp_(-1, 1),
    "sigmoid": lambda y: torch.sigmoid_(y),
    "module": lambda y: nn.ReLU6(inplace=True)(y),
    "operator": lambda y: torch.ops.aten.silu_(y),
}
READERS = {
    "added": lambda y, x: y.add_(x),
    "iadd": lambda y, x: y.__iadd__(x),
    "chunk": lambda y, x: torch.cat(y.chunk(2, 1)[::-1], 1),
    "slice": lambda y, x: y[:, 1:3] * 2,
    "flatten": lambda y, x: y.flatten(1),
    "shuffle": lambda y, x: y.view(y.shape[0], 2, 2, *y.shape[2:]).transpose(1, 2).reshape(y.shape),
    "dropout": lambda y, x: functional.dropout(y, 0.5, False, True),
    "gate": lambda y, x: y.mul_(y.mean((2, 3), keepdim=True)),
    "gated and added": lambda y, x: y.__imul__(x.sigmoid()).__iadd__(x),
    "a view before": lambda y, x: (y.view(y.size(0), -1), y.mul_(2))[0],
    "a view before two writes": lambda y, x: (y.flatten(1), y.mul_(2), y.add_(1), y.relu_())[0],
    "a view of a view": lambda y, x: (y[:, 1:].flatten(2), y.mul_(2), y.sub_(1))[0],
    "a module that writes": lambda y, x: (y.flatten(1), nn.ReLU(inplace=True)(y), y.mul_(3))[0],
    "half written": lambda y, x: (y.chunk(2, 1)[0].mul_(2), y)[1],
}


@pytest.mark.slow(quick=9)
@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_in_place(activation, reader):
    """Whatever follows reads what was written, and the norm folds."""
    model = given(lambda m, x: READERS[reader](ACTIVATIONS[activation](m.b(m.c(x))), x))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    check_same(model, folded.model, X, (2, 4, 9, 7))


def test_what_is_written_through_a_view_is_named_or_folds_before():
    def function(m, x):
        y = m.b(m.c(x))
        y[:, :2] += m.b2(m.c2(x))[:, :2]
        return m.b3(m.c3(y))

    model = given(function)
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 1
    (entry,) = [entry for entry in folded.report.skipped if entry.kind == "norm"]
    assert entry.module == "b3"
    assert "written in place" in entry.reason
    assert "test_fold_everyone.py" in entry.line
    check_same(model, folded.model, X, (2, 4, 9, 7))


class Block(nn.Module):
    """A residual block in the manner of torchvision."""

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.fc1, self.fc2 = nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out = out * self.fc2(self.relu(self.fc1(functional.adaptive_avg_pool2d(out, 1)))).sigmoid()
        out += x
        return self.relu(out)


def test_layers_keep_their_names_and_convert():
    model = randomised(nn.Sequential(nn.Conv2d(3, 8, 3), Block(), Block()))
    folded = cl.fold(model, torch.randn(1, 3, 16, 16))
    assert folded.report.norms_after == 0
    names = {name for name, module in folded.model.named_modules() if isinstance(module, nn.Conv2d)}
    assert names == {name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)}
    assert folded.model.get_submodule("1.relu").inplace is False  # one of its calls reads what is needed again
    state = folded.model.state_dict()
    assert torch.equal(state["1.fc1.weight"], model.state_dict()["1.fc1.weight"])
    assert not any(node.op == "get_attr" for node in folded.model.graph.nodes)
    check_same(model, folded.model, (2, 3, 17, 9))
    converted = cl.nn.convert(copy.deepcopy(folded.model))
    assert not any(type(module) is nn.Conv2d for module in converted.modules())
    check_same(model, converted, (2, 3, 17, 9))


def test_a_model_without_norms_keeps_its_layers_too():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 8, 3), nn.PReLU(), nn.ConvTranspose2d(8, 3, 2)
    ).eval()
    folded = cl.fold(model, torch.randn(1, 3, 16, 16)).model
    assert list(folded.state_dict()) == list(model.state_dict())
    assert [type(module) for module in folded.children()] == [type(module) for module in model.children()]


class Standardised(nn.Conv2d):
    """A convolution whose weight is standardised and scaled by a parameter of its own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gain = nn.Parameter(torch.rand(args[1], 1, 1, 1))

    def forward(self, x):
        weight = functional.batch_norm(self.weight.reshape(1, len(self.weight), -1), None, None, training=True)
        return functional.conv2d(x, weight.reshape_as(self.weight) * self.gain, self.bias, self.stride)


def test_a_computed_weight_takes_the_place_of_what_it_is_computed_from():
    model = randomised(nn.Sequential(Standardised(4, 6, 3), nn.GELU(), Standardised(6, 4, 3, 2), nn.BatchNorm2d(4)))
    folded = cl.fold(model, torch.randn(X)).model
    assert list(folded.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    check_same(model, folded, (2, 4, 9, 7))


class Functional(nn.Module):
    """Calls of functions on parameters, one of which is computed."""

    def __init__(self):
        super().__init__()
        self.c = nn.Conv2d(4, 6, 3)
        self.q = nn.Parameter(torch.randn(3, 6, 1, 1))

    def forward(self, x):
        y = functional.conv2d(x, self.c.weight - self.c.weight.mean((1, 2, 3), keepdim=True), self.c.bias, stride=2)
        return functional.conv2d(functional.gelu(y), self.q, padding="same")


def test_functions_on_weights_become_layers():
    model = Functional().eval()
    folded = cl.fold(model, torch.randn(X)).model
    layers = {name: module for name, module in folded.named_modules() if isinstance(module, nn.Conv2d)}
    assert len(layers) == 2
    check_same(model, folded, (2, 4, 9, 7))
    converted = cl.nn.convert(folded)
    assert not any(type(module) is nn.Conv2d for module in converted.modules())


# Tensors, dtypes and weights of the model's own.


class Makes(nn.Module):
    """Makes tensors in its code, casts, and keeps a stride in a buffer."""

    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.register_buffer("stride", torch.tensor(2))

    def forward(self, x):
        box = torch.ones(4, 1, 3, 3) / 9
        y = functional.conv2d(self.b(self.c(x.to(torch.float32))), box, stride=int(self.stride), groups=4)
        grid = torch.linspace(0, 1, y.shape[3])
        y = y + grid + torch.zeros(y.shape[2], 1)
        return functional.prelu(y, torch.full((1,), 0.2))


def test_tensors_that_the_model_makes():
    model = randomised(Makes())
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    assert folded.report.error["float64"] <= 1e-11
    check_same(model, folded.model, (2, 4, 9, 7))
    for dtype, limit in ((torch.float64, 1e-5), (torch.bfloat16, 5e-2)):
        x = torch.randn(X)
        other = copy.deepcopy(folded.model).to(dtype)(x.to(dtype))
        assert other.dtype == dtype
        assert (other.double() - model(x).double()).abs().max() <= limit * model(x).abs().max()


def test_a_cast_between_a_convolution_and_its_norm():
    model = given(lambda m, x: m.b(m.c(x).float()).to(x.dtype))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    assert folded.model.double()(torch.randn(X).double()).dtype == torch.float64


def test_code_that_stays_and_makes_tensors_is_compared_in_its_own_dtype():
    class Stays(nn.Module):
        def forward(self, x):
            if x.mean() > 100:
                return x
            return functional.conv2d(x, torch.ones(4, 1, 3, 3) / 9, groups=4)

    model = randomised(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), Stays()))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    assert any("does not run in float64" in entry.reason for entry in folded.report.skipped)
    check_same(model, folded.model, (2, 4, 9, 7))


@pytest.mark.parametrize(
    "norm", [nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm]
)
def test_weights_that_are_computed_from_others_are_computed_once(norm):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = randomised(
            nn.Sequential(norm(nn.Conv2d(4, 4, 3)), nn.ReLU(), norm(nn.Conv2d(4, 4, 3)), nn.BatchNorm2d(4))
        )
    expected = model(torch.ones(X))
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    assert [type(module) for module in folded.model.children()] == [nn.Conv2d, nn.ReLU, nn.Conv2d]
    assert set(folded.model.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    check_same(model, folded.model, (2, 4, 9, 7))
    assert torch.equal(model(torch.ones(X)), expected)
    assert model[0].weight.shape == (4, 4, 3, 3)


# What folds.


def border(m, x):
    y = functional.pad(m.d(x), (1, 1, 1, 1), "constant", 0)
    bias = m.d.bias.view(1, -1, 1, 1)
    y[:, :, 0:1, :], y[:, :, -1:, :] = bias, bias
    y[:, :, :, 0:1], y[:, :, :, -1:] = bias, bias
    return functional.conv2d(y, m.c.weight, m.c.bias)


def border_of_a_layer(m, x):
    y = nn.ZeroPad2d(1)(m.d(x))
    bias = m.d.bias.view(-1, 1, 1)
    for part in (slice(0, 1), slice(-1, None)):
        y[:, :, part] = bias
        y[:, :, :, part] = bias
    return functional.conv2d(y, m.c.weight, m.c.bias)


def tokens(m, x):
    y = functional.linear(x.flatten(2).transpose(1, 2), m.d.weight.flatten(1))
    return functional.batch_norm(y.flatten(0, 1), m.b.running_mean, m.b.running_var, m.b.weight, m.b.bias).reshape_as(y)


FOLDS = {
    # convolutions after; every norm goes
    "a padded border set to the bias": (border, 1),
    "the border of a layer": (border_of_a_layer, 1),
    "a sum with its own product": (lambda m, x: (lambda a: m.d(a) + a)(m.c(x)), 1),
    "a sum with its own norm": (lambda m, x: (lambda a: a + m.b(a))(m.c(x)), 1),
    "beside its own norm": (
        lambda m, x: (lambda a: functional.conv2d(torch.cat([a, m.b(a)], 1), m.d.weight.repeat(1, 2, 1, 1)))(m.c(x)),
        1,
    ),
    "a norm of two side by side": (
        lambda m, x: functional.batch_norm(
            torch.cat([m.c(x), m.d(x)], 1), m.b.running_mean.repeat(2), m.b.running_var.repeat(2)
        ),
        1,
    ),
    "a norm of two and one": (
        lambda m, x: functional.batch_norm(
            torch.cat([torch.cat([m.c(x), m.d(x)], 1), m.c2(x)], 1),
            m.b.running_mean.repeat(3),
            m.b.running_var.repeat(3),
        ),
        1,
    ),
    "a norm of a part": (
        lambda m, x: torch.cat(
            [
                (p := m.c(x).split(2, 1))[0].tanh(),
                functional.batch_norm(p[1], m.b.running_mean[:2], m.b.running_var[:2]),
            ],
            1,
        ),
        1,
    ),
    "a slope of one": (lambda m, x: m.b(functional.leaky_relu(m.c(x), 1.0)), 1),
    "dropout between": (lambda m, x: m.b(functional.dropout2d(m.c(x), 0.5, False)), 1),
    "a stack of norms": (lambda m, x: m.b2(m.b(m.c(x))), 1),
    "tokens": (tokens, 0),
    "a size of what folds": (lambda m, x: functional.interpolate(x, m.b(m.c(x)).shape[2:]) + m.b(m.c(x)), 1),
}


@pytest.mark.slow(quick=7)
@pytest.mark.parametrize("name", FOLDS)
def test_what_folds_and_folds_no_further(name):
    function, convolutions = FOLDS[name]
    model = given(function)
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.convolutions_after == convolutions
    assert folded.report.norms_after == 0
    assert not any(entry.kind == "does not pay" for entry in folded.report.skipped)
    check_same(model, folded.model, X, (2, 4, 9, 7))
    again = cl.fold(folded.model, torch.randn(X))
    assert again.report.convolutions_after == convolutions
    assert [
        rewrite
        for rewrite in again.report.rewrites
        if rewrite.multiplications_after < 0.9 * rewrite.multiplications_before
    ] == []
    check_same(model, again.model, (2, 4, 9, 7))


def dense(m, x):
    """Two concatenations that grow, each with its norm."""
    a = m.c(x)
    b = torch.cat([a, m.c2(m.b(a).relu())], 1)
    c = functional.conv2d(functional.batch_norm(b, m.b.running_mean.repeat(2), m.b.running_var.repeat(2)).relu(), WIDE)
    return functional.batch_norm(torch.cat([b, c], 1), m.b2.running_mean.repeat(3), m.b2.running_var.repeat(3)).relu()


WIDE = torch.randn(4, 8, 1, 1, generator=torch.Generator().manual_seed(0))


LEFT = {
    "two norms": (lambda m, x: (lambda a: m.b(a) * m.b2(a))(m.c(x)), {"b", "b2"}, "also read by"),
    "concatenations that grow": (dense, {"b", "the model"}, "also read"),
    "a group norm": (lambda m, x: nn.GroupNorm(2, 4)(m.c(x)), set(), None),
    "read elsewhere": (lambda m, x: (lambda a: m.b(a) * a.mean())(m.c(x)), {"b"}, "also read by mean"),
}


@pytest.mark.parametrize("name", LEFT)
def test_every_norm_that_stays_has_its_reason(name):
    function, modules, words = LEFT[name]
    report = cl.fold(given(function), torch.randn(X)).report
    left = [entry for entry in report.skipped if entry.kind == "norm"]
    assert {entry.module for entry in left} == modules
    assert all(words in entry.reason and "test_fold_everyone.py" in entry.line for entry in left)
    assert report.norms_after == len(left)
    assert "batch norms" in str(report)


# Hooks and other tools.


def test_models_with_hooks_of_their_own_package_fold_alike_before_and_after_a_call():
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    model, x = randomised(transformers.ResNetModel(config)), torch.randn(1, 3, 32, 32)
    before = cl.fold(model, x).report
    with torch.no_grad():
        model(x)
    after = cl.fold(model, x).report
    assert before.norms_after == after.norms_after == 0
    assert before.rewrites == after.rewrites


def test_a_hook_of_the_users_runs_in_the_folded_model():
    model, seen = randomised(nn.Sequential(Block(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))), []
    model[0].register_forward_hook(lambda module, args, output: seen.append(tuple(output.shape)))
    folded = cl.fold(model, torch.randn(1, 8, 9, 9))
    assert folded.report.norms_after == 0
    seen.clear()
    folded.model(torch.randn(2, 8, 7, 7))
    assert seen == [(2, 8, 7, 7)]


def other_tools():
    net = randomised(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "scripted", torch.jit.script(net), "fold the torch module, then call torch.jit.script"
        yield "traced", torch.jit.trace(net, torch.randn(X)), "TorchScript"
        yield "exported", torch.export.export(net, (torch.randn(X),)).module(), "then export folded.model"
        yield "compiled", torch.compile(net), r"fold model\._orig_mod"


def test_models_of_other_tools_are_refused_with_the_way_out():
    for _, model, words in other_tools():
        with pytest.raises(ConvolithError, match=words):
            cl.fold(model, torch.randn(X))


def test_a_scripted_part_stays_and_what_lies_around_it_folds():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        part = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()).eval())
    model = randomised(
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), part, nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    )
    folded = cl.fold(model, torch.randn(X))
    assert folded.report.norms_after == 0
    check_same(model, folded.model, (2, 4, 9, 7))


def test_a_converted_model_folds_like_its_original():
    model = randomised(nn.Sequential(Block(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)))
    converted = cl.nn.convert(copy.deepcopy(model))
    x = torch.randn(1, 8, 9, 9)
    ours, theirs = cl.fold(converted, x), cl.fold(model, x)
    assert [(r.name, r.conv) for r in ours.report.rewrites] == [(r.name, r.conv) for r in theirs.report.rewrites]
    assert type(converted[1]) is cl.nn.Conv2d


def test_a_model_that_another_thread_uses():
    model, x = randomised(nn.Sequential(*(Block() for _ in range(3)))), torch.randn(1, 8, 16, 16)
    wrong, done = [], threading.Event()
    with torch.no_grad():
        expected = model(x)

    def use():
        with torch.no_grad():
            while not done.is_set():
                if not torch.allclose(model(x), expected, atol=1e-6):
                    wrong.append(True)

    user = threading.Thread(target=use)
    user.start()
    try:
        folded = cl.fold(model, x)
    finally:
        done.set()
        user.join()
    assert not wrong
    assert folded.report.norms_after == 0


# Random numbers in evaluation.

NOISY = {
    "like the output": lambda m, x: torch.relu(m.b(m.c(x)) + 0.1 * torch.randn_like(m.c2(x))),
    "of a size": lambda m, x: torch.relu(m.b(m.c(x)) + 0.1 * torch.randn(x.shape[0], 1, x.shape[2], x.shape[3])),
    "dropout that stays on": lambda m, x: functional.dropout(m.b(m.c(x)), 0.5, training=True),
    "in place": lambda m, x: torch.relu_(m.b(m.c(x)).add_(torch.rand(1))),
    "sampled between": lambda m, x: m.b2(m.c2(m.b(m.c(x)) * torch.bernoulli(torch.full((1, 4, 1, 1), 0.5)))),
    "into a new tensor": lambda m, x: m.b(m.c(x)) + torch.zeros(1, 4, 1, 1).normal_(0, 0.1),
    "into one like x": lambda m, x: m.b(m.c(x)) + torch.empty_like(x).uniform_(),
    "by a generator": lambda m, x: m.b(m.c(x)) + torch.normal(torch.zeros(4, 1, 1), torch.ones(4, 1, 1)),
    "a permutation": lambda m, x: m.b(m.c(x))[:, torch.randperm(4)],
    "a mask written in place": lambda m, x: m.b(
        functional.conv2d(x, m.c.weight * torch.ones_like(m.c.bias).bernoulli_(0.5)[:, None, None, None], padding=1)
    ),
    "a weight dropped in place": lambda m, x: m.b(
        functional.conv2d(x, functional.dropout(m.c.weight * 1, 0.5, True, True), padding=1)
    ),
    "a draw that nothing reads": lambda m, x: [functional.dropout(x, 0.5, True), m.b(m.c(x)) + torch.randn_like(x)][1],
    "like a weight": lambda m, x: m.b(functional.conv2d(x, m.c.weight + 0.1 * torch.randn_like(m.c.weight), padding=1)),
}


@pytest.mark.parametrize("name", NOISY)
def test_a_model_that_draws_random_numbers_folds_and_draws_them_again(name):
    model, x = given(NOISY[name]), torch.randn(X)
    state = torch.get_rng_state()
    folded = cl.fold(model, x)
    assert torch.equal(state, torch.get_rng_state())  # the caller's own numbers are as if nothing had been folded
    assert norm_count(folded.model) == ("weight" in name or "mask" in name)
    results = []
    for network in (model, folded.model):
        torch.manual_seed(5)
        with torch.no_grad():
            results.append([network(x), network(x)])
    (first, second), found = results
    assert not torch.equal(first, second)
    for ours, theirs in zip(found, (first, second), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_folding_leaves_the_random_numbers_of_other_threads_alone():
    """Only a model that draws has torch's state set; folding another one never sets it."""
    states = []
    original, torch.set_rng_state = torch.set_rng_state, lambda state: states.append(state)
    try:
        cl.fold(given(lambda m, x: m.b(m.c(x))), torch.randn(X))
    finally:
        torch.set_rng_state = original
    assert not states


def test_modules_that_are_kept_inside_a_kept_module(monkeypatch):
    """Both are on the list if the inner one failed first; the outer one's fold has the inner one's already."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            return torch.relu(self.norm(self.conv(x)))

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(Block(), Block())

        def forward(self, x):
            y = self.inner(x)
            return y + 1 if x.shape[2] % 2 == 0 else y

    model = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), Outer())).eval()
    whole = submodules.capture

    def with_the_inner_one(model, inputs, known):
        captured = whole(model, inputs, known)
        if "2" in captured.calls:
            captured.kept["2.inner.0"] = captured.kept["2"]
            captured.calls["2.inner.0"] = captured.calls["2"]
        return captured

    monkeypatch.setattr(submodules, "capture", with_the_inner_one)
    x = torch.randn(1, 3, 8, 8)
    folded = cl.fold(model, x)
    assert folded.report.norms_after == 0
    for size in (8, 9, 12):
        x = torch.randn(2, 3, size, size)
        torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_kept_module_whose_result_nothing_reads():
    class Parity(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)

        def forward(self, x):
            y = self.norm(self.conv(x))
            return y + 1 if x.shape[2] % 2 == 0 else y

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.norm, self.unread = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Parity()

        def forward(self, x):
            y = self.norm(self.stem(x))
            self.unread(y)
            return y

    model = randomised(Model()).eval()
    x = torch.randn(1, 3, 10, 10)
    folded = cl.fold(model, x)
    torch.testing.assert_close(folded.model(x), model(x), rtol=1e-4, atol=1e-4)


def test_networks_whose_outputs_are_denormal():
    layers = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)]
    model = nn.Sequential(*layers).eval()
    with torch.no_grad():
        layers[2].weight *= 1e-39
        layers[2].bias *= 0
    folded = cl.fold(model, torch.randn(1, 3, 9, 9), force=True)
    assert folded.report.rewrites


def test_dicts_and_lists_of_the_model_are_left_as_they_are():
    class Remembers(nn.Module):
        """Registers a hook at its first call, as transformers does, and keeps a table and a list."""

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.ready, self.seen, self.table = False, [], {}

        def forward(self, x):
            if not self.ready:
                self.ready = True
                self.a.register_forward_hook(lambda *_: self.seen.append(1))
            self.table[x.shape] = len(self.table)
            return self.b(self.a(x))

    model = Remembers().eval()
    cl.fold(model, torch.randn(1, 3, 9, 9))
    assert (model.ready, model.seen, model.table, len(model.a._forward_hooks)) == (False, [], {}, 0)
