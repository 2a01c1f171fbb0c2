"""Operators of a model: each has a rule, or is named as one without; padding, pooling, interpolation, quantised ones."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.networks.patterns import Of
from bench.networks.trained import row
from convolith import ConvolithError, cost


def test_parts_in_inference_mode_are_counted():
    def forward(s, x):
        with torch.inference_mode():
            y = s.a(x)
        return s.b(y.clone())

    counted = cost(Of(forward, a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(4, 4, 3)), input_shape=(1, 3, 8, 8), backward=False)
    assert not counted.unknown
    assert counted.forward.macs == 36 * 108 + 16 * 144


def test_norms_of_one_number_begin_with_a_batch_of_two():
    model = row(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8)).train()
    counted = cost(model, input_shape=(4, 3, 16, 16), optimizer="sgd")
    batch = counted.largest_batch(1e6)
    assert batch > 2
    assert counted.peak_at(batch).bytes <= 1e6 < counted.peak_at(batch + 1).bytes
    assert counted.largest_batch(10) == 0
    for memory in (None, "x", float("nan"), float("inf"), -1):
        with pytest.raises(ConvolithError, match="memory is .*; expected a finite number of bytes"):
            counted.largest_batch(memory)


def test_whole_numbers_can_be_measured():
    model = Of(lambda s, words: s.layer(s.embed(words)), embed=nn.Embedding(50, 16), layer=nn.Linear(16, 50))
    found = cost(model, input_shape=(8, 32), input_dtype="int64", optimizer="sgd", verify=True).peak
    assert found.bytes == pytest.approx(found.measured, rel=0.02)


N = 1000


OPERATORS = {
    "cumsum": (lambda x: x.cumsum(0), (0, N - 1, 0)),
    "cumprod": (lambda x: x.cumprod(0), (N - 1, 0, 0)),
    "sort": (lambda x: x.sort()[0], (0, 0, 10 * N)),
    "topk": (lambda x: x.topk(3)[0], (0, 0, 10 * N)),
    "squared error": (lambda x: F.mse_loss(x, x * 1), (N + N, 2 * N - 1, 1)),
    "errors apart": (lambda x: F.mse_loss(x, x, reduction="none"), (N, N, 0)),
    "summed error": (lambda x: F.mse_loss(x, x, reduction="sum"), (N, 2 * N - 1, 0)),
    "huber": (lambda x: F.huber_loss(x, x), (2 * N, 3 * N - 1, N + 1)),
    "cross entropy of logits": (lambda x: F.binary_cross_entropy_with_logits(x, x), (N, 4 * N - 1, 4 * N + 1)),
    "cross entropy": (lambda x: F.binary_cross_entropy(x, x, reduction="sum"), (2 * N, 4 * N - 1, 2 * N)),
    "norm": (lambda x: x.norm(), (N, N - 1, 1)),
    "norm of sizes": (lambda x: x.norm(p=1), (0, N - 1, N)),
    "largest size": (lambda x: x.norm(p=float("inf")), (0, 0, 2 * N - 1)),
    "variance": (lambda x: x.var(), (N, 3 * N - 2, 2)),
    "cube": (lambda x: x**3.0, (2 * N, 0, 0)),
    "power of tensors": (lambda x: x**x, (0, 0, N)),
    "power of a number": (lambda x: 2**x, (0, 0, N)),
    "added into places": (lambda x: x.scatter(0, torch.zeros(N, dtype=torch.int64), x, reduce="add"), (0, N, 0)),
    "put into places": (lambda x: x.scatter(0, torch.zeros(N, dtype=torch.int64), x), (0, 0, 0)),
    "a product alone": (lambda x: torch.addmm(x[None], x[:, None].T, x[:, None] * x, beta=0), (N * N + N * N, N * N - N, 0)),
}  # fmt: skip


@pytest.mark.parametrize(("function", "expected"), OPERATORS.values(), ids=OPERATORS)
def test_operators_that_bring_numbers_together(function, expected):
    found = cost(Of(lambda s, x: function(x)), input_shape=(N,), backward=False)
    assert not found.unknown
    assert (found.forward.multiplications, found.forward.additions, found.forward.others) == expected
    assert all(isinstance(n, int) for n in (found.forward.multiplications, found.forward.macs))


MODELS = {
    "GRU": (lambda: nn.GRU(8, 16, 2), (5, 2, 8)),
    "a step of an LSTM": (lambda: Of(lambda s, x: s.cell(x)[0], cell=nn.LSTMCell(8, 16)), (2, 8)),
    "LSTM in double precision": (lambda: nn.LSTM(8, 16).double(), (5, 2, 8)),
    "encoder": (lambda: nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), (2, 5, 16)),
    "generalised means": (lambda: Of(lambda s, x: x.clamp(min=1e-6).pow(s.p).mean((2, 3)), p=nn.Parameter(torch.ones(1) * 3)), (1, 3, 8, 8)),
    "gated": (lambda: row(nn.Conv2d(3, 8, 1), nn.GLU(1)), (1, 3, 8, 8)),
    "bilinear": (lambda: Of(lambda s, x: s.both(x, x), both=nn.Bilinear(4, 4, 3)), (2, 4)),
}  # fmt: skip


@pytest.mark.slow(quick=8)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)
def test_models_all_of_whose_operators_have_a_rule(make, shape, training):
    counted = cost(make().train(training), input_shape=shape)
    assert counted.unknown == {}
    assert counted.coverage == 1


@pytest.mark.filterwarnings("ignore")
def test_quantised_models_are_counted_for_an_example():
    q = torch.ao.quantization
    for layer, x in (
        (nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1), torch.randn(2, 4, 9, 9)),
        (nn.Conv1d(4, 8, 3, padding=1, dilation=2), torch.randn(2, 4, 9)),
        (nn.Conv3d(4, 8, 3), torch.randn(2, 4, 5, 5, 5)),
        (nn.Linear(8, 5), torch.randn(3, 8)),
    ):
        model = row(q.QuantStub(), layer, q.DeQuantStub()).eval()
        model.qconfig = q.get_default_qconfig(torch.backends.quantized.engine)
        made = q.prepare(model)
        made(x)
        model = q.convert(made)
        plain = cost(row(layer), example_input=x, backward=False)
        counted = cost(model, example_input=x, run=True)
        assert not counted.unknown
        assert counted.forward.macs == plain.forward.macs
        assert counted.parameters == plain.parameters
        with pytest.raises(ConvolithError, match="pass run=True with an example_input"):
            cost(model, input_shape=tuple(x.shape))


def test_marks_for_a_profiler_are_no_operators():
    def forward(s, x):
        with torch.profiler.record_function("first"), torch.autograd.profiler.record_function("second", "of two"):
            torch._check(x.shape[0] == 2)
            return s.layer(x)

    for given in ({"input_shape": (2, 3)}, {"example_input": torch.ones(2, 3), "run": True}):
        counted = cost(Of(forward, layer=nn.Linear(3, 3)), **given)
        assert counted.unknown == {}
        assert (counted.coverage, counted.forward.macs) == (1, 18)


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_pools_are_undone(axes):
    pool, unpool = getattr(nn, f"MaxPool{axes}d")(2, return_indices=True), getattr(nn, f"MaxUnpool{axes}d")(2)
    model = Of(
        lambda s, x: s.unpool(*s.pool(x * s.weight)), pool=pool, unpool=unpool, weight=nn.Parameter(torch.ones(()))
    )
    counted = cost(model, input_shape=(1, 3, *(8,) * axes), optimizer="sgd", verify=True)
    assert counted.unknown == {}
    assert counted.forward.others == 3 * 4**axes * (2**axes - 1)
    assert counted.peak.bytes == pytest.approx(counted.peak.measured, rel=0.02)


def test_scripted_parts_are_counted():
    model = row(nn.Conv2d(3, 4, 3), torch.jit.script(nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))))
    assert cost(model, input_shape=(1, 3, 8, 8)).forward.macs == 36 * (4 * 27 + 16)


EDGES = {
    "cropped": (lambda x: F.pad(x, (1,) * 4)[..., 1:-1, 1:-1], 144),
    "shifted": (lambda x: F.pad(x, (2,) * 4)[..., :-2, :-2], 9 * 36),
    "changed": (lambda x: F.pad(x, (1,) * 4).add_(1), 324),
    "turned": (lambda x: F.pad(x, (2, 0, 0, 0)).transpose(2, 3), 9 * 24),
    "twice": (lambda x: F.pad(F.pad(x, (1, 0, 1, 0)), (0, 1, 0, 1)), 256),
    "once": (lambda x: F.pad(x, (1,) * 4), 256),
}


@pytest.mark.parametrize(("around", "products"), EDGES.values(), ids=EDGES)
def test_what_is_padding_and_what_is_not(around, products):
    """Zeros are left out where they are known to be there; what was cut, changed or turned counts as numbers."""
    model = Of(lambda s, x: s.layer(around(x)), layer=nn.Conv2d(1, 1, 3, bias=False))
    assert cost(model, input_shape=(1, 1, 6, 6), convention="effective").forward.macs == products


def test_interpolation_is_no_layer():
    for mode, products in (("nearest", 0), ("bilinear", 4), ("bicubic", 16)):
        model = Of(lambda s, x, g, mode=mode: F.grid_sample(x, g, mode=mode, align_corners=False))
        counted = cost(model, input_shape=((1, 3, 8, 8), (1, 4, 4, 2)), backward=False)
        assert counted.forward.macs == 0
        assert counted.forward.multiplications == 48 * products
    assert cost(nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear")), input_shape=(1, 3, 8, 8)).forward.macs == 0
