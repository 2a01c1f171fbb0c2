"""Receptive fields against where gradients go, and where they are not known."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.networks.patterns import Of
from convolith import cost


def row(*layers):
    return nn.Sequential(*layers)


def strided():
    return nn.Conv2d(1, 2, 3, stride=2, padding=1)


MODELS = {
    "dilated": lambda: row(nn.Conv2d(1, 2, 3, dilation=3), nn.Conv2d(2, 2, (5, 3))),
    "strided, transposed by 4": lambda: row(strided(), nn.ConvTranspose2d(2, 2, 4, stride=2, padding=1)),
    "strided, transposed by 2": lambda: row(strided(), nn.ConvTranspose2d(2, 2, 2, stride=2)),
    "transposed": lambda: row(nn.ConvTranspose2d(1, 2, 2, stride=2)),
    "transposed by 5": lambda: row(nn.ConvTranspose2d(1, 2, 5, stride=2)),
    "strided, enlarged": lambda: row(strided(), nn.Upsample(scale_factor=2, mode="bilinear")),
    "enlarged": lambda: row(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2), nn.Conv2d(2, 1, 3)),
    "cubic": lambda: row(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2, mode="bicubic")),
    "averaged": lambda: row(nn.Conv2d(1, 2, 3), nn.AvgPool2d(2), nn.Conv2d(2, 1, 3)),
    "averaged to 7": lambda: row(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(7), nn.Conv2d(2, 1, 1)),
    "channels last": lambda: Of(lambda s, x: s.b(s.d(F.gelu(s.m(F.layer_norm(s.a(x).permute(0, 2, 3, 1), (4,))))).permute(0, 3, 1, 2)), a=nn.Conv2d(1, 4, 7, padding=3), m=nn.Linear(4, 16), d=nn.Linear(16, 4), b=nn.Conv2d(4, 2, 2, stride=2)),
    "attended to by channel": lambda: Of(lambda s, x: s.b(torch.cat([s.a(x).mean(1, keepdim=True), s.a(x).amax(1, keepdim=True)], 1)), a=nn.Conv2d(1, 4, 3), b=nn.Conv2d(2, 1, 7)),
    "einsum": lambda: Of(lambda s, x: torch.einsum("nchw,oc->nohw", s.a(x), s.m.weight), a=nn.Conv2d(1, 4, 5), m=nn.Linear(4, 6)),
    "unshuffled": lambda: row(nn.PixelUnshuffle(2), nn.Conv2d(4, 2, 3), nn.Conv2d(2, 1, 3)),
    "shuffled": lambda: row(nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.PixelShuffle(2), nn.Conv2d(2, 1, 3)),
    "normalised": lambda: Of(lambda s, x: s.b(F.normalize(s.a(x), dim=1)), a=nn.Conv2d(1, 4, 3), b=nn.Conv2d(4, 1, 3)),
    "branches": lambda: Of(lambda s, x: s.c(torch.cat([s.a(x), s.b(x)], 1)), a=nn.Conv2d(1, 2, 3, padding=1), b=nn.Conv2d(1, 2, 5, padding=2), c=nn.Conv2d(4, 1, 3)),
}  # fmt: skip


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_fields_are_where_gradients_go(make):
    torch.manual_seed(0)
    model = make().double().eval()
    found = next(r.field for r in reversed(cost(model, input_shape=(1, 1, 40, 40), backward=False).rows) if r.field)
    x = torch.rand(1, 1, 40, 40, dtype=torch.float64, requires_grad=True)
    y = model(x)
    spans = [[], []]
    for at in range(4):  # of neighbours, since an enlarged pixel may see less
        places = [n // 2 - 2 + at for n in y.shape[2:]]
        (slope,) = torch.autograd.grad(y[0, :, places[0], places[1]].sum(), x, retain_graph=True)
        for axis in range(2):
            reached = (slope[0, 0] != 0).any(1 - axis).nonzero()
            spans[axis].append(int(reached.max() - reached.min()) + 1)
    assert [max(side) for side in spans] == [int(n) for n in found.size]


ALL = {
    "extremes": Of(lambda s, x: s.b(s.a(x).amax((2, 3), keepdim=True)), a=nn.Conv2d(1, 2, 3), b=nn.Conv2d(2, 1, 1)),
    "a transform": Of(lambda s, x: s.b(torch.fft.irfft2(torch.fft.rfft2(s.a(x)))), a=nn.Conv2d(1, 2, 3), b=nn.Conv2d(2, 1, 3)),
    "flattened": row(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 38 * 38, 3)),
    "attention": Of(lambda s, x: F.scaled_dot_product_attention(*[s.a(x).flatten(2).transpose(1, 2)] * 3), a=nn.Conv2d(1, 8, 8, stride=8)),
    "norms of images": row(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4), nn.Conv2d(4, 1, 3)),
    "norms of rows": row(nn.Conv2d(1, 4, 3), nn.LayerNorm(38), nn.Conv2d(4, 1, 3)),
    "softmax of pixels": Of(lambda s, x: s.b(s.a(x).softmax(-1)), a=nn.Conv2d(1, 2, 3), b=nn.Conv2d(2, 1, 3)),
}  # fmt: skip


@pytest.mark.parametrize("model", ALL.values(), ids=ALL)
def test_what_brings_pixels_together_sees_all(model):
    rows = cost(model, input_shape=(1, 1, 40, 40), backward=False).rows
    assert any(row.field is not None and row.field.size is None for row in (rows[0], rows[-1]))


def test_pooling_with_gaps():
    rows = cost(row(nn.MaxPool2d(3, 1, dilation=2)), input_shape=(1, 1, 20, 20), backward=False).rows
    assert str(rows[-1].field) == "5x5 by 1x1"


@pytest.mark.parametrize("function", [lambda y: y[..., ::2, ::2], lambda y: y.roll(1, 3), lambda y: y.flip(2)])
def test_what_is_not_followed_is_not_known(function):
    model = Of(lambda s, x: s.b(function(s.a(x)).clone()), a=nn.Conv2d(1, 2, 3), b=nn.Conv2d(2, 1, 3))
    rows = cost(model, input_shape=(1, 1, 40, 40), backward=False).rows
    assert str(rows[1].field) == "3x3 by 1x1"
    assert rows[-1].field is None


ODD = {
    "pooled signals": (row(nn.Conv1d(3, 4, 3), nn.MaxPool1d(2)), (1, 3, 20), "4 by 2"),
    "averaged signals": (row(nn.Conv1d(3, 4, 3), nn.AvgPool1d(3), nn.Conv1d(4, 4, 2)), (1, 3, 20), "8 by 3"),
    "signals averaged to a size": (row(nn.Conv1d(3, 4, 3), nn.AdaptiveAvgPool1d(2)), (1, 3, 20), "11 by 9"),
    "norms of signals": (row(nn.Conv1d(3, 4, 3), nn.LPPool1d(2, 2)), (1, 3, 20), "4 by 2"),
    "one image": (row(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), (3, 20, 20), "5x5 by 1x1"),
    "frames": (Of(lambda s, x: s.c(x.flatten(0, 1)), c=nn.Conv2d(3, 4, 3)), (1, 4, 3, 16, 16), "3x3 by 1x1"),
    "a spectrogram": (Of(lambda s, x: s.c(x[:, None]), c=nn.Conv2d(1, 4, 3)), (1, 16, 16), "3x3 by 1x1"),
    "across channels": (row(nn.LocalResponseNorm(3)), (2, 4, 8, 8), None),
    "volumes of images": (Of(lambda s, x: s.b(s.a(x)[:, :, None]), a=nn.Conv2d(1, 2, 3), b=nn.Conv3d(2, 2, (1, 3, 3))), (1, 1, 20, 20), "5x5 by 1x1"),
    "volumes after images": (Of(lambda s, x: s.b(s.a(x)[:, None]), a=nn.Conv2d(1, 2, 3), b=nn.Conv3d(1, 2, 2)), (1, 1, 20, 20), None),
}  # fmt: skip


@pytest.mark.parametrize(("model", "shape", "expected"), ODD.values(), ids=ODD)
def test_other_axes_than_the_inputs_are_followed_or_not_known(model, shape, expected):
    counted = cost(model, input_shape=shape)
    found = counted.rows[-1].field
    assert expected is None or str(found) == expected
    assert counted.forward.multiplications > 0
