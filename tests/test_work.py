"""The closed forms of work.py against an enumeration of every product."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import naive
from convolith import ConvolithError, ConvSpec, cost
from convolith.work import CONVENTIONS, Count, layer_work
from tests.strategies import specs


@pytest.mark.slow
@pytest.mark.parametrize("convention", CONVENTIONS)
@settings(max_examples=300)
@given(spec=specs(max_axes=2))
def test_counts_are_those_of_an_enumeration(convention, spec):
    counted = naive.enumerate_work(spec, convention == "effective")
    work = layer_work(spec, convention)
    products = counted["products"]
    outputs = spec.batch * spec.out_channels
    for n in spec.output_size:
        outputs *= n
    assert work.forward.multiplications == products
    assert work.forward.additions == products - counted["forward"] + (outputs if spec.bias else 0)
    assert work.backward.input_gradient.multiplications == products
    assert work.backward.input_gradient.additions == products - counted["input"]
    assert work.backward.weight_gradient.multiplications == products
    assert work.backward.weight_gradient.additions == products - counted["weight"]
    assert work.backward.bias_gradient.multiplications == 0
    assert work.backward.bias_gradient.additions == (max(outputs - spec.out_channels, 0) if spec.bias else 0)


def test_the_layer_of_the_chapter():
    counted = cost(ConvSpec(in_channels=64, out_channels=64, size=(56, 56), kernel_size=3, padding=1))
    assert counted.forward.multiplications == counted.forward.macs == 115_605_504
    assert counted.forward.additions == 115_404_800
    assert counted.backward.multiplications == 2 * 115_605_504
    assert counted.memory.forward.input == counted.memory.forward.output == 4 * 64 * 56 * 56
    assert counted.memory.forward.parameters == 4 * 64 * 64 * 9
    assert counted.memory.backward.saved_activations == 4 * 64 * 56 * 56


@pytest.mark.parametrize(("size", "dilation", "padding", "share"), [(7, 1, 1, 0.819), (33, 18, 18, 0.405)])
def test_effective_shares(size, dilation, padding, share):
    spec = ConvSpec(in_channels=1, out_channels=1, size=(size, size), kernel_size=3, dilation=dilation, padding=padding)
    dense, effective = (cost(spec, convention=c).forward.multiplications for c in CONVENTIONS)
    assert effective / dense == pytest.approx(share, abs=5e-4)


@settings(max_examples=60)
@given(spec=specs(), by=st.integers(2, 3))
def test_products_grow_with_the_square_of_the_channels(spec, by):
    scaled = cost(spec).scaled(in_channels=by, out_channels=by)
    if spec.batch:
        assert scaled.factor == by * by


def test_scaling_reports_the_new_output_size():
    scaled = cost(ConvSpec(in_channels=2, out_channels=2, size=(8, 8), kernel_size=3, padding=1)).scaled(padding=2)
    assert scaled.after.spec.output_size == (10, 10)
    assert scaled.factor == pytest.approx(100 / 64)
    assert "8x8 -> 10x10" in str(scaled)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"colour": 2}, "colour is not a dimension of a layer; expected one of batch"),
        ({"in_channels": 0.3}, "in_channels = 2 times 0.3 is 0.6; expected a whole number"),
        ({"in_channels": float("nan")}, "expected a finite number"),
        ({"padding_mode": 2}, "not a dimension"),
        ({"size": 0.125}, "use a larger padding or a smaller k"),
    ],
)
def test_scaling_that_cannot_be(factors, message):
    counted = cost(ConvSpec(in_channels=2, out_channels=2, size=(8, 8), kernel_size=3))
    with pytest.raises(ConvolithError, match=message):
        counted.scaled(**factors)


def test_a_first_layer_needs_no_input_gradient():
    spec = ConvSpec(in_channels=3, out_channels=8, size=(8, 8), kernel_size=3)
    first = cost(spec, input_gradient=False)
    assert first.backward.input_gradient == Count()
    assert first.backward.multiplications == first.forward.multiplications
    assert first.memory.backward.input_gradient == 0


def test_work_adds_up():
    spec = ConvSpec(in_channels=3, out_channels=8, size=(8, 8), kernel_size=3, bias=True)
    work = layer_work(spec)
    twice = work + work
    assert twice.forward.multiplications == 2 * work.forward.multiplications
    assert twice.memory.forward.bytes == 2 * work.memory.forward.bytes
    assert twice.backward.bias_gradient.additions == 2 * work.backward.bias_gradient.additions
    with pytest.raises(TypeError):
        work + 1


def test_circular_padding_keeps_its_padded_copy():
    spec = ConvSpec(in_channels=1, out_channels=1, size=(8, 8), kernel_size=3, padding=1, padding_mode="circular")
    assert cost(spec).memory.backward.saved_activations == 4 * 100


def test_cost_of_modules_and_convs():
    import torch

    from convolith import Conv

    module = torch.nn.Conv2d(3, 8, 3, padding="same", bias=False)
    by_module = cost(module, input_shape=(2, 3, 16, 16))
    by_conv = cost(Conv.from_module(module), input_shape=(2, 3, 16, 16))
    assert by_module.work == by_conv.work
    with pytest.raises(ConvolithError, match="input_shape is missing"):
        cost(module)
    with pytest.raises(ConvolithError, match="subject is a str; expected a ConvSpec, a Conv or a torch module"):
        cost("Conv2d", input_shape=(3, 3, 3))
    with pytest.raises(ConvolithError, match="given together with a ConvSpec"):
        cost(by_module.spec, input_shape=(2, 3, 16, 16))
    with pytest.raises(ConvolithError, match="convention is 'sparse'; expected one of dense, effective"):
        cost(by_module.spec, convention="sparse")


def test_huge_layers_are_counted_at_once():
    counted = cost(ConvSpec(in_channels=1, out_channels=1, size=10**12, kernel_size=3, stride=10**5, dilation=7))
    assert counted.forward.multiplications == 3 * ((10**12 - 15) // 10**5 + 1)
    for convention in CONVENTIONS:
        padded = ConvSpec(in_channels=1, out_channels=1, size=10**11, kernel_size=4095, padding=2047)
        assert cost(padded, convention=convention).forward.multiplications > 4000 * 10**11
    tiny = cost(ConvSpec(in_channels=2, out_channels=2, size=8, kernel_size=3, padding=1))
    with pytest.raises(ConvolithError, match="expected a whole number"):
        tiny.scaled(size=1e-8)
    assert tiny.scaled(in_channels=0.5).after.spec.in_channels == 1
    empty = cost(ConvSpec(batch=0, in_channels=2, out_channels=2, size=8, kernel_size=3))
    assert empty.scaled(in_channels=2).factor != empty.scaled(in_channels=2).factor  # NaN: nothing was counted
