"""Arguments and models that cost refuses, with what helps."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from bench.networks.patterns import Of
from bench.networks.trained import row
from convolith import ConvolithError, cost


class Refuses(torch.autograd.Function):
    """It has no gradient."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, slope):
        raise ValueError("there is no slope")


REFUSED = {
    "a gradient": (lambda s, x: Refuses.apply(s.layer(x)), "the backward pass of the model refuses: there is no slope; pass backward=False"),
    "a parameter changed": (lambda s, x: s.layer(x) + s.layer.weight.mul_(2), r"refuses \(3, 3\): a leaf Variable .*; pass backward=False"),
    "values in NumPy": (lambda s, x: s.layer(x) * float(x.numpy().sum()), "needs values in memory, not shapes alone: .*; pass run=True with an example_input"),
    "values that decide": (lambda s, x: s.layer(x)[: int(x.sum())], "decides by values .*; pass run=True with an example_input"),
    "an exit": (lambda s, x: sys.exit(0), r"calls sys\.exit\(0\); take the call out"),
    "arguments": (lambda s, x: F.conv2d(s.layer(x), x, stride="a"), "TypeError: .*got \\(Tensor, Tensor.*; pass inputs of the shapes"),
    "another shape": (lambda s, x: s.layer(x[:, 1:]), r"module layer refuses \(3, 2\): .*; pass inputs of the shapes"),
}  # fmt: skip


@pytest.mark.parametrize(("function", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_helps(function, message):
    model = Of(function, layer=nn.Linear(3, 3))
    with pytest.raises(ConvolithError, match=message):
        cost(model, input_shape=(3, 3))
    example = torch.ones(3, 3)
    if "backward=False" in message:
        assert cost(model, input_shape=(3, 3), backward=False).forward.macs == 27
    elif "run=True" in message:
        assert cost(model, example_input=example, run=True).forward.macs == 27


def test_refusals():
    layer = nn.Conv2d(3, 4, 3)
    for model, options, message in (
        (layer, {"input_shape": (1, 3, 8, 8), "optimizer": "sgd"}, "leave it out, or pass torch.nn.Sequential"),
        (row(layer), {"example_input": torch.ones(1, 3, 8, 8), "run": True, "optimizer": "sgd"}, "optimizer was given together with run=True"),
        (nn.LazyConv2d(4, 3), {"input_shape": (1, 3, 8, 8)}, "lazy parameter weight"),
        (row(layer), {"input_shape": (1, -3, 8, 8)}, r"an entry of input_shape \(1, -3, 8, 8\) is -3"),
        (Of(lambda s, a, b: a + b), {"input_shape": ((1, 3), (1, 3)), "input_dtype": ["float32"]}, "expected one for all inputs, or one for each of 2"),
        (Of(lambda s, x: x.shape.missing), {"input_shape": (1, 3)}, "AttributeError: .*pass inputs of the shapes and dtypes"),
    ):  # fmt: skip
        with pytest.raises(ConvolithError, match=message):
            cost(model, **options)
    counted = cost(
        Of(lambda s, x: F.conv2d(x, s.w, padding=1), w=nn.Parameter(torch.zeros(4, 3, 3, 3))),
        input_shape=(1, 3, 16, 16),
    )
    with pytest.raises(ConvolithError, match=r"has w \(4, 3, 3, 3\); how they grow with kernel_size is not known"):
        counted.scaled(kernel_size=3)


def test_shapes_that_no_tensor_has():
    with pytest.raises(
        ConvolithError, match=r"input_shape is \(1, 3, 1000000000, 1000000000\), of which there is no tensor"
    ):
        cost(row(nn.Conv2d(3, 4, 3)), input_shape=(1, 3, 10**9, 10**9))
    with pytest.raises(ConvolithError, match="model is on meta, but verify measures a step on the CPU"):
        cost(row(nn.Linear(3, 4)).to("meta"), input_shape=(1, 3), optimizer="sgd", verify=True)
