"""Conversion and back, its report, transposed and lazy layers, parametrisations, freezing, and torch's quantisers."""

import copy
import pickle
import warnings

import pytest
import torch
from torch.nn.utils import parametrizations, parametrize

import convolith as cl
from convolith import ConvolithError

TRANSPOSED = [
    (cl.nn.ConvTranspose1d, torch.nn.ConvTranspose1d, 1),
    (cl.nn.ConvTranspose2d, torch.nn.ConvTranspose2d, 2),
    (cl.nn.ConvTranspose3d, torch.nn.ConvTranspose3d, 3),
]
OPTIONS = [
    {},
    {"stride": 2, "padding": 1, "output_padding": 1},
    {"stride": 3, "dilation": 2, "groups": 2, "bias": False},
    {"padding": 3, "dilation": 2},
]


def pickled(module):
    return pickle.loads(pickle.dumps(module))  # noqa: S301 - our own


def twins(ours, theirs, *arguments, **options):
    a, b = ours(*arguments, **options).double(), theirs(*arguments, **options).double()
    a.load_state_dict(b.state_dict())
    return a, b


@pytest.mark.parametrize(("ours", "theirs", "axes"), TRANSPOSED)
@pytest.mark.parametrize("options", OPTIONS)
def test_transposed_layers_are_torchs(ours, theirs, axes, options):
    torch.manual_seed(0)
    a, b = twins(ours, theirs, 4, 6, 3, **options)
    assert isinstance(a, theirs)
    x = torch.randn(2, 4, *(6, 5, 4)[:axes], dtype=torch.float64, requires_grad=True)
    for given in (x, x[0]):
        torch.testing.assert_close(a(given), b(given), rtol=1e-12, atol=1e-12)
        with torch.no_grad():
            for _ in range(2):
                torch.testing.assert_close(a(given), b(given), rtol=1e-12, atol=1e-12)
    found = [torch.autograd.grad(m(x).square().sum(), [x, *m.parameters()]) for m in (a, b)]
    for p, q in zip(*found, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)
    largest = [n + a.stride[0] - 1 - a.output_padding[0] for n in b(x).shape[2:]]
    torch.testing.assert_close(a(x, output_size=largest), b(x, output_size=largest), rtol=1e-12, atol=1e-12)
    for module in (a, b):
        with pytest.raises(ValueError, match="output size"):
            module(x, output_size=[n + 9 for n in largest])


def test_transposed_layers_leave_the_rest_to_torch():
    a, b = twins(cl.nn.ConvTranspose2d, torch.nn.ConvTranspose2d, 4, 6, 3, stride=2)
    a, b, x = a.float(), b.float(), torch.randn(2, 4, 5, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert a(x).dtype is torch.bfloat16
    traced = torch.fx.symbolic_trace(torch.nn.Sequential(a))
    torch.testing.assert_close(traced(x), b(x))
    torch.testing.assert_close(torch.func.vmap(a)(x[:, None])[:, 0], b(x))
    assert a.to("meta")(x.to("meta")).shape == b(x).shape


def model() -> torch.nn.Sequential:
    """Every kind of convolution that torch makes, and a class of somebody's own."""
    torch.manual_seed(0)

    class Doubled(torch.nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    conv = torch.nn.Conv2d
    return torch.nn.Sequential(
        conv(3, 8, 3),
        parametrizations.weight_norm(conv(8, 8, 3, padding=1)),
        parametrizations.spectral_norm(conv(8, 8, 3)),
        parametrizations.orthogonal(conv(8, 8, 1)),
        torch.nn.LazyConv2d(4, 3),
        torch.nn.LazyConvTranspose2d(4, 2, stride=2),
        parametrizations.weight_norm(torch.nn.ConvTranspose2d(4, 4, 3, stride=2)),
        Doubled(4, 4, 1),
    ).eval()


def test_every_kind_of_convolution_is_converted_and_reverted():
    ours, x = cl.nn.convert(model()), torch.randn(1, 3, 20, 20)
    report = cl.nn.report(ours)
    assert [layer.name for layer in report.converted] == [str(i) for i in range(7)]
    assert [layer.reason for layer in report.skipped] == ["a subclass of Conv2d, which may compute something else"]
    assert "lazy" in report.layers[4].reason
    assert report.layers[1].reason == "parametrised: weight"
    assert str(report).startswith("7 of 8 convolutions computed by Convolith")
    with torch.no_grad():
        y = ours(x)
        assert [type(m).__module__ for m in ours[4:6]] == ["convolith.nn"] * 2
        assert "computed by convolith" in repr(ours[1])
        assert torch.equal(copy.deepcopy(ours)(x), y)
        names = list(ours.state_dict())
        assert cl.nn.revert(ours) is ours
        assert not cl.nn.report(ours).converted
        assert list(ours.state_dict()) == names
        torch.testing.assert_close(ours(x), y, rtol=1e-4, atol=1e-5)
    assert type(ours[4]) is torch.nn.Conv2d
    assert type(ours[5]) is torch.nn.ConvTranspose2d
    assert type(ours[6]).__bases__ == (torch.nn.ConvTranspose2d,)
    assert "convolith" not in repr(ours)


def test_a_parametrisation_may_come_and_go_in_between():
    ours = cl.nn.convert(
        torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), parametrizations.weight_norm(torch.nn.Conv2d(4, 4, 3)))
    )
    parametrizations.weight_norm(ours[0])
    parametrize.remove_parametrizations(ours[1], "weight")
    assert type(ours[1]) is cl.nn.Conv2d
    cl.nn.revert(ours)
    assert type(ours[0]).__bases__ == (torch.nn.Conv2d,)
    assert type(ours[1]) is torch.nn.Conv2d
    parametrize.remove_parametrizations(ours[0], "weight")
    assert type(ours[0]) is torch.nn.Conv2d


def test_the_old_norm_of_weights_is_converted_too():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = torch.nn.Sequential(torch.nn.utils.weight_norm(torch.nn.Conv2d(3, 4, 3)))
    x = torch.randn(2, 3, 8, 8)
    expected = theirs(x)
    ours = cl.nn.convert(theirs)
    assert len(cl.nn.report(ours).converted) == 1
    torch.testing.assert_close(ours(x), expected, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        frozen = cl.nn.freeze(ours)(x)
        torch.testing.assert_close(frozen, expected, rtol=1e-4, atol=1e-5)
        ours[0].weight_g.mul_(2)
        with pytest.raises(ConvolithError, match="weight_g of layer '0' was changed"):
            ours(x)


def test_graph_modules_and_copies_are_converted():
    graph = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()))
    assert len(cl.nn.report(cl.nn.convert(graph)).converted) == 1
    layers = torch.nn.Sequential(cl.nn.Conv2d(3, 4, 3), cl.nn.ConvTranspose2d(4, 3, 3), cl.nn.LazyConv1d(2, 1))
    assert [type(m) for m in pickled(layers)] == [type(m) for m in layers]
    replica = layers[0]._replicate_for_data_parallel()
    assert type(replica) is cl.nn.Conv2d


@pytest.mark.parametrize("kind", [cl.nn.Conv2d, cl.nn.ConvTranspose2d])
def test_frozen_layers_compute_from_their_own_copy(kind):
    torch.manual_seed(0)
    layers = torch.nn.Sequential(kind(3, 4, 3, padding=1))
    usual = copy.deepcopy(layers)
    state = layers.state_dict()
    assert cl.nn.freeze(layers) is layers
    assert list(layers.state_dict()) == list(state)
    with torch.no_grad():
        for sizes in ((2, 3, 9, 8), (2, 3, 9, 8), (3, 7, 6)):
            x = torch.randn(sizes)
            y = layers(x)
            torch.testing.assert_close(y, usual(x), rtol=1e-4, atol=1e-6)  # by another engine, perhaps
            assert not y._is_view()
        layers[0].weight.data.zero_()  # torch does not count this
        torch.testing.assert_close(layers(x), usual(x), rtol=1e-4, atol=1e-6)
        assert "frozen" in repr(layers)
        assert cl.nn.report(layers).layers[0].reason == "frozen"
        copied = copy.deepcopy(layers)
        assert "frozen" not in repr(copied)
        assert "frozen" not in repr(pickled(layers))
        torch.testing.assert_close(cl.nn.unfreeze(layers)(x), torch.zeros_like(y) + layers[0].bias[:, None, None])


CHANGES = {
    "in place": lambda m: m[0].weight.data_ptr() and m[0].weight.mul_(2),
    "an optimiser": lambda m: torch.optim.SGD([m[0].bias], lr=1.0).step(
        lambda: setattr(m[0].bias, "grad", torch.ones(4))
    ),
    "a state_dict": lambda m: m.load_state_dict(m.state_dict()),
    "another parameter": lambda m: setattr(m[0], "weight", torch.nn.Parameter(torch.zeros(4, 3, 3, 3))),
    "another dtype": lambda m: m.double(),
    "no bias": lambda m: setattr(m[0], "bias", None),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_frozen_layers_refuse_changes(change):
    layers, x = cl.nn.freeze(torch.nn.Sequential(cl.nn.Conv2d(3, 4, 3))), torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        layers(x)
        change(layers)
        x = x.to(layers[0].weight.dtype)
        with pytest.raises(ConvolithError, match=r"of layer '0' was changed after cl.nn.freeze.*cl.nn.unfreeze"):
            layers(x)
        expected = cl.nn.unfreeze(layers)(x)
        assert torch.equal(cl.nn.freeze(layers)(x), expected)
        assert torch.equal(cl.nn.revert(layers)[0](x).isfinite(), torch.ones_like(x.new_empty(expected.shape)).bool())
    assert type(layers[0]) is torch.nn.Conv2d


def test_frozen_layers_train_and_transform_as_others_do():
    layers = cl.nn.freeze(torch.nn.Sequential(cl.nn.Conv2d(3, 4, 3)))
    x = torch.randn(2, 3, 6, 6)
    layers(x).sum().backward()
    assert layers[0].weight.grad is not None
    with torch.no_grad():
        expected = layers(x)
        torch.testing.assert_close(torch.func.vmap(layers)(x), expected)
        torch.testing.assert_close(torch.compile(layers, backend="eager")(x), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert layers(x).dtype is torch.bfloat16


def test_frozen_layers_prepare_once_for_a_shape(monkeypatch):
    from convolith.planner import Plan

    prepared = []
    usual = Plan.prepared
    monkeypatch.setattr(Plan, "prepared", lambda *given: prepared.append(1) or usual(*given))
    layers = cl.nn.freeze(torch.nn.Sequential(cl.nn.Conv2d(3, 4, 3)))
    with torch.no_grad():
        for size in (8, 8, 9, 8, 9):
            layers(torch.randn(1, 3, size, size))
    assert len(prepared) == 2


def test_what_cannot_be_frozen():
    with pytest.raises(ConvolithError, match="no convolution of convolith.nn; call cl.nn.convert"):
        cl.nn.freeze(torch.nn.Conv2d(1, 1, 1))
    with torch.inference_mode():
        layers = cl.nn.Conv2d(1, 1, 1)
    with pytest.raises(ConvolithError, match="inference tensor"):
        cl.nn.freeze(layers)
    for call in (cl.nn.report, cl.nn.freeze, cl.nn.unfreeze, cl.nn.revert):
        with pytest.raises(ConvolithError, match=r"model is a list; expected a torch\.nn\.Module"):
            call([])


def repeated_small_layer():
    torch.manual_seed(0)
    layer, x = cl.nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 6, 6, requires_grad=True)
    for _ in range(3):  # from the third call on, torch's operator is called at once
        layer(x)
    assert layer._small is not None
    return layer, x


CHANGES = {
    "the stride": lambda layer, x: setattr(layer, "stride", (2, 2)),
    "the padding mode": lambda layer, x: setattr(layer, "padding_mode", "reflect"),
    "the weight": lambda layer, x: setattr(layer, "weight", torch.nn.Parameter(torch.randn(4, 4, 3, 3))),
    "its values": lambda layer, x: layer.weight.data.normal_(),
    "the kernel size": lambda layer, x: setattr(layer.weight, "data", torch.randn(4, 4, 1, 1)),
    "the bias": lambda layer, x: setattr(layer, "bias", None),
    "the dtypes": lambda layer, x: (layer.double(), setattr(x, "data", x.data.double())),
    "what is trained": lambda layer, x: layer.requires_grad_(False),
    "the batch": lambda layer, x: setattr(x, "data", torch.randn(3, 4, 5, 5)),
    "the memory format": lambda layer, x: setattr(x, "data", x.data.contiguous(memory_format=torch.channels_last)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_small_layer_that_is_called_again_after_a_change(change):
    layer, x = repeated_small_layer()
    CHANGES[change](layer, x)
    theirs = cl.nn.revert(copy.deepcopy(torch.nn.Sequential(layer)))[0]
    x.grad = None
    layer(x).square().sum().backward()
    ours, x.grad = x.grad, None
    theirs(x).square().sum().backward()
    torch.testing.assert_close(ours, x.grad)


def test_a_small_layer_that_is_called_again_is_seen_by_others():
    layer, x = repeated_small_layer()
    theirs = cl.nn.revert(copy.deepcopy(torch.nn.Sequential(layer)))[0]
    assert copy.deepcopy(layer)._small is None
    mapped = torch.func.vmap(layer)(x.detach()[None])
    torch.testing.assert_close(mapped[0], theirs(x).detach())
    torch.testing.assert_close(torch.func.jvp(layer, (x.detach(),), (x.detach(),))[0], theirs(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype is torch.bfloat16
    assert next(node.op for node in torch.fx.symbolic_trace(layer).graph.nodes) == "placeholder"
    torch.testing.assert_close(torch.compile(layer, backend="aot_eager", fullgraph=True)(x), theirs(x))
    with pytest.raises(ConvolithError, match="x has 5 channels"):
        layer(torch.randn(2, 5, 6, 6, requires_grad=True))


@pytest.mark.filterwarnings("ignore")  # torch's quantisers warn of their own end
def test_quantisers_find_torchs_layers_or_are_told():
    import torch.ao.quantization as quantization
    from torch.ao.quantization.quantize_fx import prepare_fx

    x = torch.randn(1, 3, 8, 8)
    layers = torch.nn.Sequential(quantization.QuantStub(), torch.nn.Conv2d(3, 4, 3), quantization.DeQuantStub()).eval()
    results = []
    for given in (copy.deepcopy(layers), cl.nn.convert(copy.deepcopy(layers))):
        given.qconfig = quantization.get_default_qconfig("x86")
        ready = quantization.prepare(given)
        ready(x)
        results.append(quantization.convert(ready))
    assert [type(m) for m in results[0]] == [type(m) for m in results[1]]
    assert torch.equal(results[0](x), results[1](x))
    assert cl.nn.report(results[1]).skipped[0].reason == "quantised or prepared for it by torch"
    floating = cl.nn.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))).eval()
    with pytest.raises(ConvolithError, match=r"call cl\.nn\.revert\(model\) before"):
        prepare_fx(floating, quantization.get_default_qconfig_mapping(), (x,))
    prepare_fx(cl.nn.revert(floating), quantization.get_default_qconfig_mapping(), (x,))


# The accuracy of a whole model.


def error_in_float64(layer, x):
    with torch.no_grad():
        exact = cl.nn.revert(copy.deepcopy(layer)).double()(x.double())
        return float((layer(x).double() - exact).abs().max() / exact.abs().max())


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [torch.nn.Conv2d, torch.nn.ConvTranspose2d, torch.nn.LazyConv2d])
def test_double_accuracy_of_layers(kind, frozen):
    given = (4, 3) if kind is torch.nn.LazyConv2d else (64, 4, 3)
    layer, x = kind(*given), torch.randn(2, 64, 12, 12)
    layer(x)
    layer = cl.nn.convert(torch.nn.Sequential(layer).eval(), accuracy="double")
    if frozen:
        cl.nn.freeze(layer)
    assert error_in_float64(layer, x) < 6e-8  # one rounding
    if not frozen:
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        with torch.no_grad():
            assert torch.equal(compiled(x), layer(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype is torch.bfloat16
        assert torch.equal(layer(x).detach(), copy.deepcopy(layer)(x).detach())


def test_every_call_is_planned_with_the_accuracy_of_the_model(monkeypatch):
    """Forward with and without gradients, frozen, and in copies and pickles; the last call of convert decides."""
    from convolith.correlation import functional, gradients, transposed
    from convolith.nn import frozen

    seen, x = [], torch.randn(1, 3, 20, 20)
    places = [
        (functional, "plan_call"),
        (gradients, "plan_call"),
        (gradients, "plan"),
        (transposed, "plan"),
        (frozen, "plan"),
    ]
    for module, name in places:
        plan = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, plan=plan, **how: (seen.append(how["accuracy"]), plan(*a, **how))[1]
        )
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.LazyConv2d(4, 3), torch.nn.ConvTranspose2d(4, 4, 3))
    for accuracy in ("fast", "exact", "default"):
        ours = cl.nn.convert(layers, accuracy=accuracy)
        cl.clear_caches()
        for grad in (True, False):
            with torch.set_grad_enabled(grad):
                ours(x)
        cl.clear_caches()
        with torch.no_grad():
            pickled(copy.deepcopy(ours))(x), cl.nn.freeze(copy.deepcopy(ours))(x)
        assert set(seen) == {accuracy}
        assert all(accuracy in layer.reason for layer in cl.nn.report(ours).layers) is (accuracy != "default")
        assert (f"with accuracy {accuracy!r}" in repr(ours)) is (accuracy != "default")
        seen.clear()
    assert "accuracy" not in vars(cl.nn.revert(cl.nn.convert(layers, accuracy="fast"))[0])


@pytest.mark.parametrize("accuracy", ["precise", None, 1e-5])
def test_an_unknown_accuracy_changes_nothing(accuracy):
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    with pytest.raises(ConvolithError, match="accuracy is .*; expected one of exact, default, fast, double"):
        cl.nn.convert(layers, accuracy=accuracy)
    assert type(layers[0]) is torch.nn.Conv2d
