"""What networks do between their layers: padding, slices, spread operands, transposed layers that crop."""

from functools import partial
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.test_network import check


class Between(nn.Module):
    """Something between two layers."""

    def __init__(self, what, axes=2, out_channels=5, **parts):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1]
        self.before, self.after, self.what = conv(3, 6, 3), conv(out_channels, 4, 3), what
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x):
        return self.after(functional.relu(self.what(self, self.before(x))))


SIZES = {1: (19,), 2: (11, 14), 3: (6, 7, 9)}
PADDED = {
    "constant": partial(functional.pad, mode="constant", value=0.5),
    "zeros": functional.pad,
    "reflect": partial(functional.pad, mode="reflect"),
    "replicate": partial(functional.pad, mode="replicate"),
}


@pytest.mark.parametrize(("axes", "mode"), list(product([1, 2, 3], PADDED)))
@pytest.mark.parametrize("amounts", [(1, 2), (0, 2)])
def test_padding_of_every_kind(axes, mode, amounts):
    model = Between(lambda _, x: PADDED[mode](x, amounts * axes), axes, out_channels=6)
    check(model, (1, 3, *SIZES[axes]), (2, 3, *SIZES[axes]), islands={})


def test_padding_that_crops_and_padding_of_channels():
    check(Between(lambda _, x: functional.pad(x, (-1, 2, 1, -2)), out_channels=6), (2, 3, 11, 14), islands={})
    check(Between(lambda _, x: functional.pad(x, (0, 0, 1, 0, 2, 1)), out_channels=9), (2, 3, 11, 14), islands={})


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
def test_zeros_before_a_convolution_are_its_own_padding(stride, padding):
    conv = nn.Conv2d(6, 5, 3, stride, padding=padding)
    model = Between(lambda m, x: m.conv(functional.pad(functional.relu(x), (0, 1, 2, 1))), conv=conv)
    found = check(model, (1, 3, 21, 18), (3, 3, 21, 18), islands={})
    assert {step.kind for step in found.report.steps} == {"convolve"}


def test_zeros_that_others_read_too():
    conv = nn.Conv2d(6, 6, 3)

    def both(m, x):
        padded = functional.pad(x, (1, 1, 1, 1))
        return m.conv(padded) * functional.max_pool2d(padded, 3, 1)

    check(Between(both, conv=conv, out_channels=6), (2, 3, 12, 13), islands={})


SLICED = {
    "rows": lambda _, x: x[:, :, 1:-2],
    "columns": lambda _, x: x[..., 2:],
    "every second": lambda _, x: x[:, :, ::2, 1::2],
    "a sum of slices": lambda _, x: x[..., 1:] + x[..., :-1],
    "channels and rows": lambda _, x: torch.cat([x[:, 1:4], x[:, :3]], 1)[:, :, 1:],
    "turned": lambda _, x: x.transpose(2, 3),
    "slices joined": lambda _, x: torch.cat([x[:, :, ::2, ::2], x[:, :, 1::2, ::2], x[:, :, ::2, 1::2]], 1)[:, :6],
    "halves in turn": lambda _, x: torch.cat([c.relu() for c in x[:, :, :8].chunk(2, 2)], 1)[:, 2:8],
}


@pytest.mark.parametrize("name", SLICED)
def test_slices_are_copies(name):
    check(Between(SLICED[name], out_channels=6), (1, 3, 14, 14), (2, 3, 14, 14), islands={})


SPREAD = {
    "one gate for all channels": lambda _, x: x * x.mean(1, keepdim=True).sigmoid(),
    "a gate for each row": lambda _, x: x * x.mean(3, keepdim=True).sigmoid(),
    "a gate for each column and channel": lambda _, x: x + x.mean(2, keepdim=True),
    "a constant for each column": lambda m, x: x * m.columns,
    "a constant for each row": lambda m, x: x + m.columns[:10, None],
    "a constant for each place": lambda m, x: x + m.columns[:10, None] * m.columns,
}


@pytest.mark.parametrize("name", SPREAD)
def test_operands_that_are_spread(name):
    model = Between(SPREAD[name], out_channels=6, columns=nn.Parameter(torch.rand(13)))
    found = check(model, (1, 3, 12, 15), (2, 3, 12, 15))
    assert set(found.report.islands) <= {"mean.dim"}


TRANSPOSED = {
    "k4 s2 p1": {"kernel_size": 4, "stride": 2, "padding": 1},
    "k3 s2 p1 o1": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    "k3 s2": {"kernel_size": 3, "stride": 2},
    "k5 s3 p1": {"kernel_size": 5, "stride": 3, "padding": 1},
    "k5 s2 p2 in groups": {"kernel_size": 5, "stride": 2, "padding": 2, "groups": 3},
    "k2 s2": {"kernel_size": 2, "stride": 2},
    "k3 s1 p1": {"kernel_size": 3, "padding": 1},
    "k3 s2 d2 p2": {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 2},
}


@pytest.mark.slow(quick=8)
@pytest.mark.parametrize(("axes", "name"), list(product([1, 2, 3], TRANSPOSED)))
def test_transposed_layers(axes, name):
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1](6, 9, **TRANSPOSED[name])
    model = Between(lambda m, x: m.layer(x), axes, out_channels=9, layer=layer)
    check(model, (1, 3, *SIZES[axes]), (2, 3, *SIZES[axes]))


def test_what_torch_makes_with_channels_last_is_read_as_planes():
    class Norms(nn.Module):
        """A global response norm between layers with channels last, as ConvNeXt V2 has them."""

        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 3)
            self.norm = nn.LayerNorm(8)
            self.weight = nn.Parameter(torch.rand(1, 8, 1, 1))

        def forward(self, x):
            y = self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            y = functional.gelu(self.b(y))
            size = y.norm(dim=(2, 3), keepdim=True)
            y = y + torch.addcmul(self.weight, self.weight, y * (size / (size.mean(1, keepdim=True) + 1e-6)))
            turned = self.b(torch.cumsum(y, 1)).permute(0, 2, 3, 1)
            return self.c(turned.reshape(len(x), -1, 8).transpose(1, 2).reshape(y.shape))

    found = check(Norms(), (1, 3, 9, 12), (2, 3, 9, 12))
    assert set(found.report.islands) <= {"linalg_vector_norm.default", "mean.dim", "div.Tensor", "cumsum.default"}


@pytest.mark.parametrize("name", ["view", "views of several axes", "windows"])
def test_views_of_what_torch_computes(name):
    how = {
        "view": lambda x: torch.cumsum(x, 1).permute(0, 2, 3, 1).reshape(len(x), -1, 6).transpose(1, 2),
        "views of several axes": lambda x: torch.cumsum(x, 2).transpose(2, 3).flatten(2).unsqueeze(1),
        "windows": lambda x: x.reshape(len(x), 6, 2, 6, 2, 6).permute(0, 1, 2, 4, 3, 5).reshape(len(x), 6, 4, 36),
    }[name]

    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 6, 3), nn.LazyConv1d(4, 1) if name == "view" else nn.LazyConv2d(4, 1)

        def forward(self, x):
            return self.b(how(self.a(x)))

    model = Views().eval()
    model(torch.randn(1, 3, 14, 14))
    check(model, (1, 3, 14, 14), (3, 3, 14, 14))


def _first_channels(how):
    def call(m, x):
        y = x.clone()
        y[:, :2] = how(x[:, :2])
        return y

    return call


def _times(m, x):
    x[:, 2:4, 1:-1] *= 0.5
    return x


def _added(m, x):
    x[:, 2:5].add_(1.5)
    return x + x[:, :1]


def _shifted(m, x):
    y = torch.zeros_like(x)
    y[:, :2, 1:] = x[:, :2, :-1]
    y[:, 2:4, :, :-2] = x[:, 2:4, :, 2:]
    y[:, 4:] = x[:, 4:]
    return y


def _joined(m, x):
    y = torch.empty(x.shape[0], 6, *x.shape[2:], dtype=x.dtype)
    y[:, :3] = functional.relu(x[:, 3:])
    y[:, 3:] = x[:, :3]
    return y


def _overlapping(m, x):
    x[:, 1:4] = x[:, 2:5] * 2
    return x


def _read_before_and_after(m, x):
    part, whole = x[:, 1:3], x * 2
    before = part + 1
    x[:, 2:4] = 0.25
    return torch.cat([before, part, whole[:, :2] + x[:, 2:4]], 1)


def _to_a_view_of_a_view(m, x):
    rows = x[:, 1:5].transpose(2, 3)
    rows[:, 1:3, 2:-1].mul_(3)
    rows.flatten(1)[:, 5:9] = 1
    return x


def _parts_of_a_split(m, x):
    a, b, c = x.split([1, 2, 3], 1)
    a.relu_()
    c.chunk(3, 1)[1].neg_()
    for plane in b.unbind(1):
        plane[:, 2:5] = plane[:, 6:9]
    return x


def _all_of_it(m, x):
    x[:] = x.flip(2)
    x[..., 0] = x[..., 1]
    x[..., -1].zero_()
    x[:, :, 3] = m.columns
    x[:, 5].fill_(0.5)
    return x


WRITTEN = {
    "a copy's channels": _first_channels(lambda part: part * 2),
    "channels in place": _added,
    "rows of channels in place": _times,
    "shifted channels": _shifted,
    "two halves": _joined,
    "overlapping channels": _overlapping,
    "views that are read before and after": _read_before_and_after,
    "a view of a view": _to_a_view_of_a_view,
    "parts of a split": _parts_of_a_split,
    "borders, numbers, rows": _all_of_it,
    "one channel with every second row": lambda _, x: _second(x),
}


def _second(x):
    x[:, 1, ::2] -= x[:, 0, 1::2]
    return x


@pytest.mark.parametrize("own_code", [False, True])
@pytest.mark.parametrize("name", WRITTEN)
def test_parts_that_are_written(name, own_code):
    model = Between(WRITTEN[name], out_channels=6, columns=nn.Parameter(torch.rand(12)))
    if own_code:
        model.what = lambda m, x: WRITTEN[name](m, x if x.shape[2] % 50 else x * 2)
    found = check(model, (1, 3, 12, 14), (3, 3, 12, 14))
    assert found.report.reason is None
    assert set(found.report.islands) <= {"flip.default", "permute.default"}
