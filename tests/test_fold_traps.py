"""Models whose code hides something from a capture: sizes, writing in place, dtypes, frozen weights, hooks."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import convolith as cl
from bench.networks.randomise import randomised
from convolith import ConvolithError
from convolith.folding.capture import checked_graph
from convolith.folding.example_inputs import outputs


def net(*layers):
    return randomised(nn.Sequential(*layers))


class Given(nn.Module):
    """A function of a convolution, a norm and x, as a model."""

    def __init__(self, function):
        super().__init__()
        self.c, self.b, self.d = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
        self.q = nn.Parameter(torch.randn(1, 4, 16, 16))
        self.act = nn.ReLU(inplace=True)
        self.function = function

    def forward(self, x):
        return self.function(self, x)


def given(function):
    return randomised(Given(function))


def check_same(model, folded, x, limit=1e-5):
    with torch.no_grad():
        for expected, found in zip(outputs(model, (x,)), outputs(folded, (x,)), strict=True):
            assert found.shape == expected.shape
            assert (found - expected).abs().max() <= limit * expected.abs().max()


def by_width(m, x):
    return m.b(m.c(x)) if x.shape[3] > 10 else m.c(x) * 2


def by_parity(m, x):
    return m.b(m.c(functional.pad(x, (0, x.shape[3] % 2)) if x.shape[3] % 2 else x))


def by_batch(m, x):
    return m.b(m.c(x)) if x.shape[0] > 4 else m.c(x) * 2


def to_a_number(m, x):
    return functional.interpolate(m.b(m.c(x)), size=(x.shape[2], int(x.shape[3] * 1.0)))


@pytest.fixture
def every_size(monkeypatch):
    """As many inputs are compared as there are, however long that takes on this machine."""
    monkeypatch.setattr(checked_graph, "LIMITS", ((1.0, (600.0, 600.0)),) * 3)


@pytest.mark.usefixtures("every_size")
@pytest.mark.parametrize("function", [by_width, by_parity, by_batch, to_a_number])
def test_a_branch_on_the_size_is_never_settled_in_silence(function):
    """Branches on a size that was tried are refused; a size that becomes a number is followed."""
    model = given(function)
    if function is not to_a_number:
        with pytest.raises(ConvolithError, match="cannot be captured: its code depends on whether a size"):
            cl.fold(model, torch.randn(1, 4, 16, 16))
        return
    folded = cl.fold(model, torch.randn(1, 4, 16, 16)).model
    for shape in [(1, 4, 16, 16), (1, 4, 16, 8), (6, 4, 9, 7), (2, 4, 31, 17)]:
        check_same(model, folded, torch.randn(shape))


SOUND = {
    "a constant convolved": lambda m, x: functional.relu(m.c(m.q)) + m.b(m.d(x)),
    "a parameter read twice": lambda m, x: m.b(m.c(x)) * m.q.mean((0, 2, 3)).view(1, 4, 1, 1) + m.q.sum(),
    "casts": lambda m, x: m.b(m.c(x.float()).to(torch.float32)),
    "whole numbers": lambda m, x: m.b(m.c(x)) + ((x > 0).long() * 2 + 1),
    "truths": lambda m, x: m.b(m.c(x)) + ((x > 0) * 2 + 1),
    "complex numbers": lambda m, x: m.b(m.c(x)) + (torch.fft.rfft2(x) * 2 + 1).abs().sum(),
    "a scale with alpha": lambda m, x: torch.add(m.b(m.c(x)), m.d(x), alpha=-2),
    "written and read": lambda m, x: m.act(m.b(m.c(x))) + m.d(x),
    "several written": lambda m, x: m.d(m.c(x).mul_(2).add_(1)).relu_() + m.c(x),
    "padded with a value": lambda m, x: m.c(torch.constant_pad_nd(m.b(x), (1, 1, 1, 1), 0.5)),
    "padded with zeros": lambda m, x: m.c(torch.constant_pad_nd(x, (1, 1, 1, 1), 0.0)),
    "cropped": lambda m, x: m.c(functional.pad(m.d(x), (-1, 0, 0, -1))),
    "a norm of a norm": lambda m, x: m.b(m.b(m.b(x))),
    "a difference of the same": lambda m, x: m.c(x) - m.c(x) + m.d(x),
    "an average of ones": lambda m, x: m.c(functional.avg_pool2d(m.b(x), 2, 1, 1)),
    "the largest": lambda m, x: m.c(functional.max_pool2d(m.b(m.d(x)), 3, 1, 1)),
}


@pytest.mark.slow(quick=11)
@pytest.mark.parametrize("name", SOUND)
def test_what_stands_between_convolutions(name):
    model = given(SOUND[name])
    x = torch.randn(1, 4, 16, 16)
    folded = cl.fold(model, x).model
    check_same(model, folded, x)
    check_same(model, folded, torch.randn(3, 4, 16, 16))


def test_the_example_is_not_written_over():
    for model in (
        net(nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
        given(lambda m, x: m.c(x.sub_(1))),
    ):
        x = torch.randn(1, 4, 16, 16)
        kept = x.clone()
        folded = cl.fold(model, x).model
        assert torch.equal(x, kept)
        check_same(model, folded, torch.randn(2, 4, 9, 9))


def test_an_example_of_one_pixel_says_nothing_of_others():
    model = given(lambda m, x: m.d(functional.adaptive_avg_pool2d(x, 1)) + x)
    folded = cl.fold(model, torch.randn(1, 4, 1, 1)).model
    check_same(model, folded, torch.randn(2, 4, 5, 5))


def test_buffers_stay_buffers_and_frozen_weights_frozen():
    model = net(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    model[4].requires_grad_(False)
    model[5].requires_grad_(False)
    folded = cl.fold(model, torch.randn(1, 4, 9, 9)).model
    assert {name for name, _ in folded.named_buffers()} >= {"2.running_mean", "2.running_var"}
    learning = {name: p.requires_grad for name, p in folded.named_parameters()}
    assert learning == {
        "0.weight": True,
        "0.bias": True,
        "2.weight": True,
        "2.bias": True,
        "4.weight": False,
        "4.bias": False,
    }
    folded.train()
    folded(torch.randn(2, 4, 9, 9)).sum().backward()
    assert all(p.grad is not None for p in folded.parameters() if p.requires_grad)


class Counting(nn.Module):
    """Counts its calls in a buffer."""

    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls.add_(1.0)
        return self.b(self.c(x))


def test_a_buffer_that_the_model_writes_is_written_still():
    folded = cl.fold(randomised(Counting()), torch.randn(1, 4, 9, 9)).model
    before = float(folded.calls)
    folded(torch.randn(1, 4, 9, 9)).sum().backward()
    assert float(folded.calls) == before + 1


def with_hook(function):
    model = given(function)
    model.d.register_forward_hook(lambda module, args, output: None)
    return model


HOOKED = {
    "a module that writes": lambda m, x: m.d(m.act(m.b(m.c(x)))),
    "a module that writes what is read": lambda m, x: _act(m, m.b(m.c(x))),
    "a method that writes": lambda m, x: m.d(m.b(m.c(x)).relu_()),
    "an operator that writes": lambda m, x: _doubled(m, m.c(x)),
    "a function that writes": lambda m, x: m.d(functional.relu(m.b(m.c(x)), inplace=True)),
    "sizes": lambda m, x: m.d(m.b(m.c(x)))[:, :, : x.shape[2] // 2 + 1 + 0 * x.size(3)],
    "a row": lambda m, x: torch.cat([m.b(m.c(x)), m.d(x) - 0.5], 1),
}


def _act(m, y):
    m.act(y)
    return m.d(y) + m.c(y)


def _doubled(m, y):
    y *= 2
    return m.d(y) + m.b(y)


@pytest.mark.parametrize("name", HOOKED)
def test_hooks_beside_what_writes_in_place(name):
    """A module with a hook is kept as one call, whatever it writes in place."""
    model = with_hook(HOOKED[name])
    folded = cl.fold(model, torch.randn(1, 4, 16, 16)).model
    check_same(model, folded, torch.randn(2, 4, 12, 9))


def test_hooks_of_the_model_itself_with_keywords():
    model = net(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4))
    model.register_forward_hook(lambda module, args, kwargs, output: output * 2, with_kwargs=True)
    model.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    folded = cl.fold(model, torch.randn(1, 4, 9, 9))
    assert len(folded.report.rewrites) == 1
    check_same(model, folded.model, torch.randn(2, 4, 8, 8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_answers_that_are_whole_numbers(dtype):
    model = given(lambda m, x: m.b(m.c(x)).argmax(1)).to(dtype)
    folded = cl.fold(model, torch.randn(1, 4, 9, 9).to(dtype)).model
    x = torch.randn(1, 4, 9, 9).to(dtype)
    assert (folded(x) == model(x)).double().mean() > 0.9


def test_a_model_that_is_itself_inexact_is_no_reason_to_refuse():
    model = given(lambda m, x: m.d(x) * 1e4 + m.b(m.c(x)) - m.d(x) * 1e4)
    folded = cl.fold(model, torch.randn(1, 4, 9, 9))
    assert folded.report.error["float64"] <= 1e-11


def test_a_small_bias_is_no_rounding():
    model = net(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, eps=1e-30))
    with torch.no_grad():
        model[0].bias.fill_(1.0)
        model[1].running_mean.fill_(1 - 2.0**-24)
        model[1].bias.zero_()
    (rewrite,) = cl.fold(model, torch.randn(1, 4, 9, 9)).report.rewrites
    assert "bias" in rewrite.conv


def test_what_is_written_over_still_counts():
    def function(m, x):
        y = m.b(m.c(x))
        y[:, 0] = 0
        return m.d(y)

    report = cl.fold(given(function), torch.randn(1, 4, 16, 16)).report
    assert report.convolutions_after == 2
    assert report.multiplications_after >= 256 * (9 * 16 + 16)


def test_long_rows_are_left_without_composing_them_all():
    rows = net(*(nn.Conv2d(48, 48, 3) for _ in range(9)))
    report = cl.fold(rows, torch.randn(1, 48, 32, 32)).report
    assert report.rewrites == ()
    assert any("weights" in entry.reason for entry in report.skipped)


class Growing(nn.Module):
    """Multiplies by a number that it raises at each call."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x):
        return self.b(self.a(x)) * self.calls.add_(1)


def test_a_buffer_that_is_written_is_no_constant():
    model = randomised(Growing())
    model.calls.zero_()
    folded = cl.fold(model, torch.randn(1, 3, 8, 8)).model
    assert float(model.calls) == float(folded.calls) == 0
    x = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        assert torch.allclose(folded(x), model(x), atol=1e-4)


def test_an_expanded_buffer_is_left_alone():
    model = given(lambda m, x: m.b(m.c(x)) + m.shift)
    model.register_buffer("shift", torch.randn(1, 1, 1, 1).expand(1, 4, 16, 16))
    folded = cl.fold(model, torch.randn(1, 4, 16, 16)).model
    check_same(model, folded, torch.randn(2, 4, 16, 16))


class Optional(nn.Module):
    """Takes a second tensor, or none."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x, mask=None):
        y = self.b(self.a(x))
        return y if mask is None else y * mask


def test_arguments_that_the_example_leaves_out_are_named():
    model = randomised(Optional())
    x, mask = torch.randn(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    (entry,) = cl.fold(model, x).report.skipped
    assert (entry.kind, "mask" in entry.reason) == ("settled", True)
    both = cl.fold(model, (x, mask))
    assert both.report.skipped == ()
    assert torch.allclose(both.model(x, mask), model(x, mask), atol=1e-5)


@pytest.mark.parametrize(
    "function",
    [lambda m, x: (x - 0.5) * 2 / 3, lambda m, x: functional.relu(x)[:, :2] * 2, lambda m, x: m.b(m.b(x))],
)
def test_what_holds_no_convolution_is_left(function):
    assert cl.fold(given(function), torch.randn(1, 4, 16, 16)).report.rewrites == ()


def test_an_image_without_a_batch_is_named():
    model = net(nn.Conv2d(4, 8, 1), nn.Conv2d(8, 4, 3))
    report = cl.fold(model, torch.randn(4, 9, 9)).report
    assert any("without a batch axis" in entry.reason for entry in report.skipped)


def test_operators_that_are_not_read_are_counted():
    model = net(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    report = cl.fold(model, torch.randn(1, 4, 9, 9)).report
    assert report.others == {"ReLU": 2, "GroupNorm": 1}
    assert "GroupNorm" in str(report)


class Frames(nn.Module):
    """Frames of a signal and their heads, as speech models have them; most lengths near 8000 give the same number of frames."""

    def __init__(self):
        super().__init__()
        self.frames, self.linear = nn.Conv1d(1, 24, 400, stride=320), nn.Linear(24, 24)
        self.norm, self.mix = nn.BatchNorm1d(24), nn.Conv1d(24, 24, 3, padding=1)

    def forward(self, x):
        y = self.linear(functional.gelu(self.frames(x[:, None])).transpose(1, 2)) * 0.5
        heads = y.view(*y.shape[:-1], -1, 6).transpose(1, 2)
        return self.norm(self.mix(heads.transpose(1, 2).flatten(2).transpose(1, 2)))


@pytest.mark.usefixtures("every_size")
def test_a_length_that_changes_with_few_inputs_is_no_constant():
    model = randomised(Frames())
    folded = cl.fold(model, torch.randn(1, 8000))
    assert len(folded.report.rewrites) == 1
    for shape in ((2, 6000), (1, 12345), (3, 8000)):
        check_same(model, folded.model, torch.randn(shape))
