"""`optimize` on models in other people's styles: hooks, scripted parts, masks, tensors of sizes, recurrent layers, files."""

import collections
import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn import functional

import convolith as cl
from convolith.network.saved import save


class Function(nn.Module):
    """A convolution to 8 channels, other layers, and a function of this module and the input."""

    def __init__(self, function, **layers):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.function = nn.Conv2d(3, 8, 3, padding=1), function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, *inputs):
        return self.function(self, *inputs)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


X, OTHER = random(1, 3, 10, 12), random(2, 3, 9, 14, seed=1)


def leaves(tree):
    return torch.utils._pytree.tree_leaves(tree)


def same(actual, expected, tolerance=2e-5):
    assert type(actual) is type(expected)
    for a, b in zip(leaves(actual), leaves(expected), strict=True):
        if isinstance(b, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def check(model, *others, example=X, measure=False):
    """Optimise, and compare calls on the example and others, each made twice; return the optimisation."""
    found = cl.optimize(model.eval(), example, measure=measure)
    for x in (example, *(others or (OTHER,))):
        for _ in range(2):
            with torch.no_grad():
                same(found.model(x), model(x))
    return found


# Hooks of the outermost module.


def hooked():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model.register_forward_pre_hook(lambda m, given: (given[0] / 2,))
    model.register_forward_hook(lambda m, given, y: {"y": y + given[0].mean()})
    return model


def test_hooks_of_the_whole_model_run_in_every_call(tmp_path):
    model = hooked()
    found = check(model)
    assert found.report.reason is None
    with torch.no_grad():
        same(copy.deepcopy(found.model)(X), model(X))
        found.save(tmp_path / "net.zip")
        loaded = cl.network.load(tmp_path / "net.zip")
        for x in (X, OTHER, X):
            same(loaded(x), model(x))


# Results of several types, beside which other things stand.


Named = collections.namedtuple("Named", "p q")
RESULTS = {
    "masks, indices and a size": lambda m, x: (m.conv(x) > 0, m.conv(x).argmax(1), m.conv(x).shape[2], None, "text"),
    "a named tuple": lambda m, x: Named(m.conv(x), {"z": [functional.relu(m.conv(x))]}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_with_other_things_than_tensors(name):
    with torch.no_grad():
        found = cl.optimize(Function(RESULTS[name]).eval(), X, measure=False)
        for x in (X, OTHER, OTHER):
            expected, actual = found.model.plain(x), found.model(x)
            if name == "a named tuple":
                assert type(actual.q) is dict
                assert type(actual.q["z"]) is list
                torch.testing.assert_close(actual.q["z"][0], expected.q["z"][0])
            else:
                assert actual[2:] == expected[2:]
                assert torch.equal(actual[0], expected[0])


# What stopped the whole model from being a program, although a step or an island can compute it.


def masked(m, x):
    y = m.conv(x)
    y[y > 1] = 1
    y.masked_fill_(y < -1, -1.0)
    y[:, 0] = y[:, 1].double()
    return m.last(y)


def of_sizes(m, x):
    h, w = x.shape[2:]
    return m.conv(x / torch.tensor([[w - 1], [h], [2]]).view(1, 3, 1, 1)) + torch.tensor([0.5] * 8)[:, None, None]


def turned(m, x):
    y = m.conv(x) * 2
    y = y.flatten(2)
    y = functional.relu(y * 1).transpose_(1, 2)
    return y.add(1).unsqueeze_(0)


def spectrum(m, x):
    waves = torch.stft(x[:, 0].flatten(1), 32, 8, window=torch.hann_window(32), return_complex=True)
    return m.conv(waves.abs()[:, None].expand(-1, 3, -1, -1))


def recurrent(m, x):
    z, last = m.gru(m.conv(x).mean(2).transpose(1, 2))
    return m.lstm(z)[0][:, -1], last


MODELS = {
    "masks": (masked, {"last": nn.Conv2d(8, 4, 1)}),
    "tensors of sizes": (of_sizes, {}),
    "axes turned in place": (turned, {}),
    "a spectrum": (spectrum, {}),
    "recurrent layers": (
        recurrent,
        {"gru": nn.GRU(8, 8, batch_first=True, bidirectional=True), "lstm": nn.LSTM(16, 6, batch_first=True)},
    ),
    "noise of another operator": (lambda m, x: functional.rrelu(m.conv(x)), {}),
}


@pytest.mark.slow(quick=len(MODELS))
@pytest.mark.parametrize("own_code", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_what_one_operator_does_does_not_stop_the_rest(name, own_code):
    function, layers = MODELS[name]

    def different_at_sizes(m, x):
        return function(m, x if x.shape[2] % 2 else x + 1)

    model = Function(different_at_sizes if own_code else function, **copy.deepcopy(layers))
    found = check(model)
    with torch.inference_mode():
        larger = random(3, 3, 11, 9)
        for _ in range(2):
            same(found.model(larger), model(larger))
    if not own_code:
        assert found.report.reason is None, found.report.reason
        assert any(step.kind == "convolve" for step in found.report.steps)


@torch.jit.script
def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    return x * torch.sigmoid(1.702 * x)


def test_a_scripted_part_stays_with_torch():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()).eval())
    check(Function(lambda m, x: m.last(m.part(m.conv(x))), part=scripted, last=nn.Conv2d(8, 4, 1)))
    found = check(Function(lambda m, x: quick_gelu(m.part(m.conv(x))), part=scripted))
    assert all(not p.requires_grad for p in found.model.plain.parameters())


def test_layouts_that_torchs_code_relies_on(tmp_path):
    """A recurrent layer gives its result time first in memory, and the next one does not ask whether its input is so."""
    function, layers = MODELS["recurrent layers"]
    model = Function(function, **copy.deepcopy(layers)).eval()
    cl.optimize(model, X, measure=False).save(tmp_path / "net.zip")
    loaded, x = cl.network.load(tmp_path / "net.zip"), random(2, 3, 10, 12)
    with torch.no_grad():
        for _ in range(2):
            same(loaded(x), model(x))


def test_an_example_is_not_written_to():
    def doubled(m, x):
        return m.conv(x.mul_(2))

    x = X.clone()
    cl.optimize(Function(doubled).eval(), x, measure=True, budget_seconds=0.1)
    assert torch.equal(x, X)


# Interpolation and means of unequal windows.


RESIZED = {
    "nearest, smaller": {"mode": "nearest", "size": (7, 5)},
    "nearest, by a factor": {"mode": "nearest", "scale_factor": 1.3},
    "nearest, exactly": {"mode": "nearest-exact", "scale_factor": 2},
    "nearest, exactly, by a factor": {"mode": "nearest-exact", "scale_factor": 0.7},
    "means": {"mode": "area", "size": (7, 5)},
    "without aliases": {"mode": "bilinear", "size": (6, 7), "antialias": True},
    "cubic, without aliases": {"mode": "bicubic", "size": (6, 7), "antialias": True},
}


@pytest.mark.slow(quick=len(RESIZED))
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", RESIZED)
def test_sampling_is_generated_code(name, batch):
    found = check(
        Function(lambda m, x: functional.interpolate(m.conv(x), **RESIZED[name]) + 1),
        random(2, 3, 11, 9),
        example=random(batch, 3, 10, 12),
    )
    assert found.report.islands == {}


def test_sampling_of_signals_and_pyramids_is_generated_code():
    signals = nn.Sequential(nn.Conv1d(3, 4, 1), nn.Upsample(scale_factor=0.7), nn.ReLU())
    assert check(signals, random(2, 3, 21), example=random(1, 3, 20)).report.islands == {}
    pyramid = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d((3, 6)), nn.ReLU())
    assert check(pyramid, example=random(1, 3, 10, 14)).report.islands == {}


# Files and pickles.


def test_a_model_with_written_parts_is_pickled():
    def written(m, x):
        y = functional.max_pool2d(m.conv(x), 2)
        y[:, : len(x)] *= 2
        return y

    fast = cl.optimize(Function(written).eval(), X, measure=False).model
    assert isinstance(fast.plain, torch.fx.GraphModule)
    other = pickle.loads(pickle.dumps(fast))  # noqa: S301 - our own
    with torch.no_grad():
        for x in (OTHER, X, OTHER):
            same(other(x), fast(x))


def test_a_file_is_of_the_example_s_size_and_says_so(tmp_path):
    def padded(m, x):
        return m.conv(functional.pad(x, (0, 4 - x.shape[3] % 4)) if x.shape[3] % 4 else x)

    model = Function(padded).eval()
    found = cl.optimize(model, X, measure=False)
    with torch.no_grad():
        found.model(OTHER), found.model(OTHER), found.model(X)  # the example is not the least recently used
        found.save(tmp_path / "net.zip")
        same(cl.network.load(tmp_path / "net.zip")(X), model(X))


def test_sizes_that_an_export_takes_for_constants_are_refused_in_words(tmp_path):
    def with_places(m, x):
        places = torch.linspace(-1, 1, x.shape[3]).type_as(x).view(1, 1, 1, -1)
        return m.conv(x + places)

    model = Function(with_places).eval()
    cl.optimize(model, X, measure=False).save(tmp_path / "net.zip")
    save(cl.network.load(tmp_path / "net.zip"), tmp_path / "again.zip")
    loaded = cl.network.load(tmp_path / "again.zip")
    with torch.no_grad():
        for x in (X, random(3, 3, 11, 12)):
            try:
                same(loaded(x), model(x))
            except cl.ConvolithError as refusal:
                assert x is not X
                assert "(any, 3, " in str(refusal)  # noqa: PT017
        with pytest.raises(cl.ConvolithError, match=r"saved for \(.*12\) alone"):
            loaded(OTHER)


def test_a_model_that_torch_computes_is_saved_too(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval()
    found = cl.optimize(model, X, measure=False)
    found.model.give_up()
    found.save(tmp_path / "net.zip")
    assert cl.network.load(tmp_path / "net.zip").is_plain
    found = cl.optimize(model, X, measure=False)
    found.model.remember((X,), None)
    found.save(tmp_path / "net.zip")
    loaded = cl.network.load(tmp_path / "net.zip")
    with torch.no_grad():
        same(loaded(X), model(X))
    assert loaded.program((X,)) is None


def test_any_number_of_arguments_is_saved(tmp_path):
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, *images):
            return sum(self.conv(x) for x in images)

    model, given = Sum().eval(), (X, X + 1)
    found = cl.optimize(model, given, measure=False)
    found.save(tmp_path / "net.zip")
    with torch.no_grad():
        same(cl.network.load(tmp_path / "net.zip")(*given), model(*given))
