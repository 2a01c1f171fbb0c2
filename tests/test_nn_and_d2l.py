"""The drop-in modules, and the chapter's functions and notebook."""

import numpy as np
import pytest
import torch

import convolith as cl
from convolith import ConvolithError, d2l

MODULES = [(cl.nn.Conv1d, torch.nn.Conv1d, 1), (cl.nn.Conv2d, torch.nn.Conv2d, 2), (cl.nn.Conv3d, torch.nn.Conv3d, 3)]
OPTIONS = [
    {},
    {"padding": "same", "dilation": 2},
    {"stride": 2, "padding": 1, "bias": False},
    {"groups": 2, "padding": 1, "padding_mode": "circular"},
    {"padding": 2, "padding_mode": "reflect"},
    {"padding": "same", "padding_mode": "replicate"},
]


@pytest.mark.parametrize(("ours", "theirs", "axes"), MODULES)
@pytest.mark.parametrize("options", OPTIONS)
def test_drop_in_modules_train_like_torchs(ours, theirs, axes, options):
    a, b = ours(4, 6, 3, **options), theirs(4, 6, 3, **options)
    assert a.load_state_dict(b.state_dict()) == torch.nn.modules.module._IncompatibleKeys([], [])
    assert isinstance(a, theirs)
    x = torch.randn(2, 4, *[8] * axes)
    torch.testing.assert_close(a(x), b(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(a(x[0]), b(x[0]), rtol=1e-4, atol=1e-5)
    for module in (a, b):
        (module(x) ** 2).sum().backward()
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3)


X = [[[0, 1, 2], [3, 4, 5], [6, 7, 8]], [[1, 2, 3], [4, 5, 6], [7, 8, 9]]]
K = [[[0, 1], [2, 3]], [[1, 2], [3, 4]]]


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
@pytest.mark.parametrize("scale", [1, 1.0])
def test_the_chapters_numbers(kind, scale):
    x, k = kind(X) * scale, kind(K) * scale
    assert d2l.corr2d_multi_in(x, k).tolist() == [[56, 72], [104, 120]]
    stack = np.stack if kind is np.array else torch.stack
    y = d2l.corr2d_multi_in_out(x, stack((k, k + 1, k + 2)))
    assert y.tolist() == [[[56, 72], [104, 120]], [[76, 100], [148, 172]], [[96, 128], [192, 224]]]
    assert d2l.corr2d(x[0], k[0]).tolist() == [[19, 25], [37, 43]]


def test_the_notebook_runs_with_one_import_changed():
    """A reader's notebook: its own functions on top of d2l.corr2d, compared with the ones here."""

    def multi_in(X, K):
        return sum(d2l.corr2d(x, k) for x, k in zip(X, K))

    def multi_in_out(X, K):
        return torch.stack([multi_in(X, k) for k in K], 0)

    generator = torch.Generator().manual_seed(0)
    X = torch.normal(0, 1, (3, 3, 3), generator=generator)
    K = torch.normal(0, 1, (2, 3, 1, 1), generator=generator)
    assert float(torch.abs(d2l.corr2d_multi_in_out_1x1(X, K) - multi_in_out(X, K)).sum()) < 1e-5
    torch.testing.assert_close(d2l.corr2d_multi_in_out(X, K), multi_in_out(X, K))
    weight = torch.normal(0, 1, (1, 2), generator=generator).requires_grad_()
    d2l.corr2d(X[0], weight).sum().backward()
    assert weight.grad.shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d2l.corr2d(np.ones((1, 3, 3)), np.ones((2, 2))), r"X has shape \(1, 3, 3\); expected \(h, w\)"),
        (lambda: d2l.corr2d_multi_in(np.ones((3, 3)), np.ones((2, 2))), r"expected \(c_i, h, w\)"),
        (lambda: d2l.corr2d_multi_in_out(np.ones((1, 3, 3)), np.ones((2, 2))), r"K has shape \(2, 2\)"),
        (lambda: d2l.corr2d_multi_in_out_1x1(np.ones((2, 3, 3)), np.ones((1, 2, 2, 2))), r"expected \(c_o, 2, 1, 1\)"),
        (lambda: d2l.corr2d(np.ones((3, 3)), torch.ones(2, 2)), "X is a NumPy array but K is a torch tensor"),
        (
            lambda: d2l.corr2d([[1]], np.ones((2, 2))),
            r"K does not fit .* \(1, 1\) and K has size \(2, 2\); did you swap X and K",
        ),
        (lambda: d2l.corr2d(np.ones((3, 9)), np.ones((5, 5))), r"K does not fit into X.*; use a smaller K"),
        (lambda: d2l.corr2d([[1, 2], [3]], np.ones((1, 1))), "X is a list whose rows have different lengths"),
        (lambda: d2l.corr2d_multi_in(np.ones((3, 5, 5)), np.ones((2, 3, 3))), "X has 3 channels .* but K has 2"),
        (
            lambda: d2l.corr2d_multi_in_out(np.ones((3, 3, 9)), np.ones((3, 3, 3))),
            r"K has shape .*\(c_o, c_i, kh, kw\)",
        ),
    ],
)
def test_refusals_use_the_chapters_letters(call, message):
    with pytest.raises(ConvolithError, match=message):
        call()


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float32", "float64", "uint16"])
def test_one_by_one_takes_every_dtype(dtype):
    x, k = np.full((2, 3, 3), 200).astype(dtype), np.full((1, 2, 1, 1), 2).astype(dtype)
    for kind in (np.asarray, torch.from_numpy):
        y = d2l.corr2d_multi_in_out_1x1(kind(x), kind(k))
        assert y.tolist() == d2l.corr2d_multi_in_out(kind(x), kind(k)).tolist() == [[[800] * 3] * 3]
        assert y.dtype == d2l.corr2d_multi_in_out(kind(x), kind(k)).dtype
