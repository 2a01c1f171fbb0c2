"""Single layers: counted as inside a model, and grown by the chapter's exercises."""

import pytest
from torch import nn

import convolith as cl
from bench.networks.trained import row
from convolith import ConvolithError, cost

LAYERS = {
    "reflected": ({"padding": 1, "padding_mode": "reflect"}, True),
    "replicated": ({"padding": 1, "padding_mode": "replicate"}, True),
    "circular": ({"padding": 1, "padding_mode": "circular"}, True),
    "circular, first": ({"padding": 1, "padding_mode": "circular"}, False),
    "reflected, first": ({"padding": 1, "padding_mode": "reflect"}, False),
    "same, even": ({"kernel_size": 4, "padding": "same"}, True),
    "same, odd": ({"padding": "same"}, True),
    "plain": ({"padding": 2, "stride": 2}, True),
}


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's own, of the model as of its count
@pytest.mark.parametrize(("options", "gradient"), LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("convention", ["dense", "effective"])
def test_layers_and_models_agree(options, gradient, convention):
    layer = nn.Conv2d(4, 8, **({"kernel_size": 3} | options))
    both = [
        cost(module, input_shape=(2, 4, 11, 9), input_gradient=gradient, convention=convention)
        for module in (layer, row(layer))
    ]
    kept = [(c.memory.backward.saved_activations, c.memory.backward.parameter_gradients) for c in both]
    assert kept[0] == kept[1]
    assert both[0].forward.multiplications == both[1].forward.multiplications
    for part in ("input_gradient", "weight_gradient"):
        one, other = (getattr(c.backward, part) for c in both)
        assert one.multiplications == other.multiplications
        if "padding_mode" not in options or part == "weight_gradient":  # a model's padding has a gradient by itself
            assert one.additions == other.additions


def test_layers_that_compute_something_else_are_models():
    class Rectified(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).relu()

    assert cost(Rectified(3, 4, 3), input_shape=(1, 3, 8, 8)).forward.others == 4 * 36
    assert cost(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), input_shape=(1, 3, 8, 8)).forward.others > 0
    assert isinstance(
        cost(cl.nn.Conv2d(3, 4, 3), input_shape=(1, 3, 8, 8)), type(cost(nn.Conv2d(3, 4, 3), input_shape=(1, 3, 8, 8)))
    )
    frozen = cost(nn.Conv2d(3, 4, 3).requires_grad_(False), input_shape=(1, 3, 8, 8))
    assert frozen.backward.weight_gradient.multiplications == frozen.memory.backward.parameter_gradients == 0
    assert frozen.backward.input_gradient.multiplications == frozen.forward.multiplications


LAYER_LAWS = {
    "dense": (nn.Conv2d(3, 8, 3, padding=1), (1, 3, 8, 8), "216*H*N*W", "13824*k**2*m**2"),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1), (2, 8, 16, 16), "18*H*N*W", "9216*k**2*m"),
    "in groups": (nn.Conv2d(4, 8, 3, groups=2, padding="same"), (1, 4, 8, 8), "144*H*N*W", "9216*k**2*m**2"),
    "one axis": (nn.Conv1d(4, 6, 5, dilation=2), (1, 4, 40), "120*L*N - 960*N", "3840*k*m**2"),
    "three axes": (nn.Conv3d(4, 6, 3, padding=1), (1, 4, 8, 8, 8), "648*D*H*N*W", "331776*k**3*m**2"),
    "transposed": (nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (1, 4, 8, 8), "384*H*N*W", "24576*k**2*m**2"),
}


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize(("layer", "shape", "by_size", "by_channels"), LAYER_LAWS.values(), ids=LAYER_LAWS)
def test_laws_of_single_layers(layer, shape, by_size, by_channels):
    counted = cost(layer, input_shape=shape)
    law = counted.law()
    assert str(law.expressions["forward multiplications"]) == by_size
    assert str(counted.law("channels", "kernel_size").expressions["forward macs"]) == by_channels
    larger = tuple(3 * n for n in shape[2:])
    found = cost(layer, input_shape=(5, shape[1], *larger)).counts()
    assert {name: n for name, n in law.at(5, larger).items() if "macs" not in name} == found


def test_a_layer_of_twice_the_channels():
    """The exercise of the chapter: four times the products, and twice as many where each channel is by itself."""
    layer = cost(nn.Conv2d(3, 8, 3, padding=1), input_shape=(1, 3, 8, 8))
    assert layer.scaled(channels=2).factor == layer.scaled(in_channels=2, out_channels=2).factor == 4
    assert "a layer's both" not in str(layer.scaled(channels=2))
    assert cost(nn.Conv2d(8, 8, 3, groups=8), input_shape=(1, 8, 8, 8)).scaled(channels=2).factor == 2
    assert layer.law("channels").at(channels=2)["forward macs"] == 4 * layer.forward.macs
    with pytest.raises(ConvolithError, match="width is not a dimension of a layer; expected one of .*channels"):
        layer.scaled(width=2)
    with pytest.raises(ConvolithError, match="law was called with 'width'"):
        layer.law("width")
