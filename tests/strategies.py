"""Every hypothesis strategy of the tests: specs over all options, arrays for them, pairs of convolutions."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import assume
from hypothesis import strategies as st

from convolith import Conv, ConvolithError, ConvSpec
from convolith.geometry import CONV_MODES, PADDING_NAMES, TORCH_MODES

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


DEPTHWISE_SPEC = ConvSpec(in_channels=64, out_channels=64, groups=64, size=8, kernel_size=3)
ONE_TAP = ConvSpec(in_channels=1, out_channels=1, size=9, kernel_size=1)
THREE_TAPS = ConvSpec(in_channels=1, out_channels=1, size=9, kernel_size=3)
TRANSPOSED_SPEC = ConvSpec(in_channels=1, out_channels=1, size=9, kernel_size=3, transposed=True)


@st.composite
def options(draw, axes: int, transposed: bool = False) -> dict:
    """Keywords of correlate (and of a transposed Conv) on a number of axes."""
    per_axis = lambda low, high: st.tuples(*[st.integers(low, high)] * axes)
    pairs = st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * axes)
    names = ("valid",) if transposed else PADDING_NAMES
    chosen = {
        "stride": draw(st.one_of(st.just(1), per_axis(1, 3))),
        "dilation": draw(st.one_of(st.just(1), per_axis(1, 3))),
        "padding": draw(st.one_of(pairs, st.integers(0, 2), st.sampled_from(names))),
    }
    if not transposed:
        chosen["padding_mode"] = draw(st.sampled_from(("zeros", "zeros", *CONV_MODES)))
    return chosen


@st.composite
def specs(
    draw,
    dtypes=FLOATS,
    transposed: bool | None = None,
    max_axes: int = 3,
    single_tap: bool = False,
    plain: bool = False,
    deep: bool = False,
) -> ConvSpec:
    """Specs over every option, small enough for the oracle.

    `single_tap` is what pointwise takes, `plain` what Winograd takes, `deep` what the depthwise engine takes.
    """
    axes = 2 if plain else draw(st.integers(1, 2 if deep else max_axes))
    adjoint = draw(st.booleans()) if transposed is None else transposed
    adjoint = adjoint and not single_tap
    groups = 1 if plain else draw(st.integers(8, 40) if deep else st.sampled_from((1, 1, 2, 3)))
    largest = 40 if plain else {1: 20, 2: 9, 3: 5}[axes]
    chosen = draw(options(axes, adjoint))
    if plain:
        chosen |= {"stride": 1, "dilation": 1}
    if single_tap:
        chosen["padding"] = 0
    if adjoint:
        limits = [max(pair) for pair in zip(*[_numbers(chosen[name], axes) for name in ("stride", "dilation")])]
        chosen["output_padding"] = tuple(draw(st.integers(0, limit - 1)) for limit in limits)
    try:
        return ConvSpec(
            batch=draw(st.integers(0, 3)),
            in_channels=groups if deep else groups * draw(st.integers(1, 20 if plain else 3)),
            out_channels=groups if deep else groups * draw(st.integers(1, 20 if plain else 3)),
            size=draw(st.tuples(*[st.integers(1, largest)] * axes)),
            kernel_size=3 if plain else draw(st.tuples(*[st.integers(1, 1 if single_tap else 4)] * axes)),
            groups=groups,
            transposed=adjoint,
            dtype=draw(st.sampled_from(dtypes)),
            bias=draw(st.booleans()),
            **chosen,
        )
    except ConvolithError:
        assume(False)
        raise


def specs_taken_by(engine, **options):
    """Specs that an engine does not refuse."""
    forward = engine.refuse(TRANSPOSED_SPEC) is not None
    single = engine.refuse(THREE_TAPS) is not None and engine.refuse(ONE_TAP) is None
    deep = engine.refuse(THREE_TAPS) is not None and engine.refuse(DEPTHWISE_SPEC) is None and not single
    plain = engine.refuse(THREE_TAPS) is not None and not single and not deep
    drawn = specs(transposed=False if forward else None, single_tap=single, plain=plain, deep=deep, **options)
    return drawn.filter(lambda spec: engine.refuse(spec) is None)


def _numbers(value, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else value


def arrays_for(spec: ConvSpec, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Random x, kernel and bias for a spec: normal floats, or integers over the whole range of their dtype."""
    rng = np.random.default_rng(seed)
    bias = random_array(rng, (spec.out_channels,), spec.out_dtype) if spec.bias else None
    return (
        random_array(rng, spec.input_shape, spec.dtype),
        random_array(rng, spec.kernel_shape, spec.kernel_dtype),
        bias,
    )


def random_array(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
    if dtype in INTEGERS:
        limits = np.iinfo(dtype)
        return torch.from_numpy(rng.integers(limits.min, limits.max, shape, dtype=dtype, endpoint=True))
    values = torch.from_numpy(rng.normal(size=shape))
    if dtype.startswith("complex"):
        values = torch.complex(values, torch.from_numpy(rng.normal(size=shape)))
    return values.to(getattr(torch, dtype))


@st.composite
def convs(draw, in_channels: int, out_channels: int, axes: int, modes=CONV_MODES) -> Conv:
    """Convolutions with random weights, some of them symmetric, over all plain options."""
    groups = draw(st.sampled_from([g for g in (1, 2, 4) if in_channels % g == 0 and out_channels % g == 0]))
    kernel_size = draw(st.tuples(*[st.integers(1, 3)] * axes))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.normal(size=(out_channels, in_channels // groups, *kernel_size))
    for axis in range(2, 2 + axes):
        if draw(st.booleans()):
            weight = weight + np.flip(weight, axis)
    bias = draw(st.sampled_from((None, None, "random", "zero")))
    bias = {None: None, "random": rng.normal(size=out_channels), "zero": np.zeros(out_channels)}[bias]
    if draw(st.booleans()):  # as long an output as its input, which padding modes like
        pads = [(k - 1) // 2 for k in kernel_size]
        chosen = {"padding": tuple((p, k - 1 - p) for p, k in zip(pads, kernel_size))}
    else:
        chosen = draw(options(axes))
        assume(chosen["padding"] != "same" or max(_numbers(chosen["stride"], axes)) == 1)
    chosen["padding_mode"] = draw(st.sampled_from(("zeros", "zeros", *modes)))
    return Conv(weight, bias, groups=groups, **chosen)


@st.composite
def convs_of_all_axes(draw) -> Conv:
    """Convolutions on one to three axes, of few channels, padded as torch's layers pad."""
    ends = st.sampled_from((1, 2, 4))
    return draw(convs(draw(ends), draw(ends), draw(st.integers(1, 3)), TORCH_MODES))


@st.composite
def pairs_of_convs(draw, modes=CONV_MODES) -> tuple[Conv, Conv]:
    """Two convolutions, the second of which takes what the first gives."""
    axes, hidden = draw(st.integers(1, 2)), draw(st.sampled_from((1, 2, 4)))
    first = draw(convs(draw(st.sampled_from((1, 2, 4))), hidden, axes, modes))
    return first, draw(convs(hidden, draw(st.sampled_from((1, 2, 4))), axes, modes))


@st.composite
def transposed_convs(draw, in_channels: int, out_channels: int, axes: int) -> Conv:
    """Transposed convolutions with random weights, some of them without bias or cropping."""
    groups = draw(st.sampled_from([g for g in (1, 2) if in_channels % g == 0 and out_channels % g == 0]))
    numbers = lambda low, high: draw(st.tuples(*[st.integers(low, high)] * axes))
    kernel_size, stride, dilation = numbers(1, 4), numbers(1, 3), numbers(1, 2)
    padding = draw(st.sampled_from(((0,) * axes, numbers(0, 2))))
    output_padding = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weight = rng.normal(size=(in_channels, out_channels // groups, *kernel_size))
    bias = draw(st.sampled_from((None, None, rng.normal(size=out_channels), np.zeros(out_channels))))
    return Conv(
        weight,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        output_padding=output_padding,
        transposed=True,
    )


@st.composite
def pairs_with_transposed(draw) -> tuple[Conv, Conv]:
    """Two convolutions in a row, at least one of them transposed."""
    axes, hidden, ends = (
        draw(st.integers(1, 2)),
        draw(st.sampled_from((1, 2))),
        draw(st.tuples(*[st.integers(1, 2)] * 2)),
    )
    first_transposed = draw(st.booleans())
    if first_transposed:
        first = draw(transposed_convs(ends[0], hidden, axes))
    else:
        bias = draw(st.sampled_from((None, np.zeros(hidden))))
        first = Conv(np.random.default_rng(0).normal(size=(hidden, ends[0], *(1,) * axes)), bias)
    if first_transposed and draw(st.booleans()):
        second = draw(convs(hidden, ends[1], axes))
        return first, Conv(second.weight, second.bias, **{**second.options, "stride": 1})
    return first, draw(transposed_convs(hidden, ends[1], axes))


@st.composite
def branches(draw) -> list[Conv]:
    """Convolutions of one input whose outputs are of one size: strides shared, padding that makes up for the kernel."""
    axes, ends = draw(st.integers(1, 2)), draw(st.tuples(*[st.sampled_from((2, 4))] * 2))
    stride = draw(st.tuples(*[st.integers(1, 3)] * axes))
    grown = draw(st.tuples(*[st.integers(-3, 2)] * axes))
    mode = draw(st.sampled_from(CONV_MODES))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    found = []
    for _ in range(draw(st.integers(1, 4))):
        kernel_size, dilation, padding = [], [], []
        for more in grown:
            step, taps = draw(st.integers(1, 3)), draw(st.integers(1, 4))
            taps = max(taps, 1 + -(-max(-more, 0) // step))  # what is cropped must be within the kernel's reach
            total = more + step * (taps - 1)
            before = draw(st.integers(0, total))
            kernel_size.append(taps)
            dilation.append(step)
            padding.append((before, total - before))
        groups = draw(st.sampled_from((1, 2)))
        bias = draw(st.sampled_from((None, rng.normal(size=ends[1]))))
        found.append(
            Conv(
                rng.normal(size=(ends[1], ends[0] // groups, *kernel_size)),
                bias,
                stride=stride,
                padding=padding,
                dilation=dilation,
                groups=groups,
                padding_mode=mode,
            )
        )
    return found


@st.composite
def decomposable_convs(draw) -> Conv:
    """Convolutions that are several smaller ones by construction, over all plain options."""
    kind = draw(st.sampled_from(("one axis", "separable", "low rank", "reducible", "depthwise", "few channels")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    if kind == "one axis":
        taps = draw(st.integers(1, 24))
        shape = draw(st.sampled_from(((taps,), (taps, 1), (1, taps))))
        blocks = rng.normal(size=(groups, 1, 1, *shape))
    elif kind in ("separable", "low rank"):
        rank = 1 if kind == "separable" else 2
        n, m = draw(st.tuples(*[st.integers(3 + 2 * rank, 9)] * 2))
        blocks = (rng.normal(size=(groups, n, rank)) @ rng.normal(size=(groups, rank, m)))[:, None, None]
    elif kind == "reducible":
        blocks = np.stack([_product(rng.normal(size=(3, 3)), rng.normal(size=(3, 3))) for _ in range(groups)])
        blocks = blocks[:, None, None]
    elif kind == "depthwise":
        blocks = rng.normal(size=(groups, 5, 4, 1, 1)) * rng.normal(size=(groups, 1, 4, 3, 2))
    else:
        blocks = np.einsum("gop,gpqt,gqi->goit", *(rng.normal(size=(groups, *s)) for s in ((6, 2), (2, 2, 3), (2, 5))))
    axes = blocks.ndim - 3
    chosen = draw(options(axes))
    if kind in ("low rank", "reducible"):  # their first part would run before the stride, which costs what they save
        chosen["stride"] = 1
    assume(chosen["padding"] != "same" or max(_numbers(chosen["stride"], axes)) == 1)
    weight = blocks.reshape(-1, *blocks.shape[2:])
    bias = rng.normal(size=len(weight)) if draw(st.booleans()) else None
    return Conv(weight, bias, groups=groups, **chosen)


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The full convolution of two kernels."""
    full = np.zeros([n + m - 1 for n, m in zip(a.shape, b.shape)])
    for (i, j), value in np.ndenumerate(a):
        full[i : i + b.shape[0], j : j + b.shape[1]] += value * b
    return full


class Branches(torch.nn.ModuleList):
    """Modules that read the same tensor, their results added or put one after the other."""

    def __init__(self, modules, *, added: bool) -> None:
        super().__init__(modules)
        self.added = added

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        results = [module(x) for module in self]
        return sum(results[1:], results[0]) if self.added else torch.cat(results, 1)


def _norm(channels: int) -> torch.nn.Module:
    norm = torch.nn.BatchNorm2d(channels)
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    return norm


@st.composite
def layers(draw, channels: int) -> tuple[torch.nn.Module, int]:
    """A layer of images, and how many channels it gives."""
    nn, wanted = torch.nn, draw(st.sampled_from((2, 4)))
    kind = draw(
        st.sampled_from(("conv", "conv", "conv", "transposed", "norm", "pool", "pad", "up", "relu", "branches"))
    )
    bias = draw(st.booleans())
    k, padding, stride = draw(st.integers(1, 3)), draw(st.integers(0, 2)), draw(st.sampled_from((1, 1, 2)))
    if kind == "conv":
        groups, dilation = draw(st.sampled_from((1, 1, 2))), draw(st.integers(1, 2))
        mode = draw(st.sampled_from(("zeros", "zeros", "zeros", "circular", "replicate")))
        return nn.Conv2d(channels, wanted, k, stride, padding, dilation, groups, bias, mode), wanted
    if kind == "transposed":
        padding = min(padding, k - 1)
        return nn.ConvTranspose2d(channels, wanted, k, stride, padding, bias=bias), wanted
    if kind == "branches":
        added, width = draw(st.booleans()), draw(st.sampled_from((1, 3, 5)))
        parts = [
            nn.Sequential(nn.Conv2d(channels, channels, width, padding=width // 2, bias=bias), _norm(channels)),
            nn.Sequential(nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1, bias=bias)),
            draw(st.sampled_from((nn.Identity(), _norm(channels), nn.AvgPool2d(3, 1, 1)))),
        ][: draw(st.integers(2, 3))]
        return Branches(parts, added=added), channels if added else channels * len(parts)
    others = {
        "norm": _norm(channels),
        "pool": nn.AvgPool2d(k, stride, padding=k // 2),
        "pad": nn.ZeroPad2d((padding, 1, 0, padding)),
        "up": nn.Upsample(scale_factor=2),
        "relu": nn.ReLU(),
    }
    return others[kind], channels


@st.composite
def image_models(draw) -> torch.nn.Module:
    """A model of images of two channels in evaluation, in float64: a row of layers, most of which fold."""
    torch.manual_seed(draw(st.integers(0, 99)))
    channels, row = 2, []
    for _ in range(draw(st.integers(1, 5))):
        layer, channels = draw(layers(channels))
        row.append(layer)
    return torch.nn.Sequential(*row).eval().double()
