"""One graph serves every batch and size: exported and compiled layers, as torch's own."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim, export
from torch.torch_version import __version__ as TORCH  # noqa: N812

import convolith as cl

LAYERS = {
    "signal": (cl.nn.Conv1d, 1, {"padding": "same", "dilation": 2}),
    "plain": (cl.nn.Conv2d, 2, {}),
    "strided": (cl.nn.Conv2d, 2, {"padding": (1, 2), "stride": (2, 1), "groups": 2}),
    "reflect": (cl.nn.Conv2d, 2, {"padding": 2, "padding_mode": "reflect"}),
    "circular": (cl.nn.Conv2d, 2, {"padding": 1, "padding_mode": "circular"}),
    "replicate": (cl.nn.Conv2d, 2, {"padding": "same", "padding_mode": "replicate"}),
    "volume": (cl.nn.Conv3d, 3, {"padding": 1, "stride": 2}),
    "transposed signal": (cl.nn.ConvTranspose1d, 1, {"padding": 1, "stride": 2}),
    "transposed": (cl.nn.ConvTranspose2d, 2, {"padding": 1, "stride": 2, "output_padding": 1, "groups": 2}),
    "transposed volume": (cl.nn.ConvTranspose3d, 3, {"dilation": 2}),
}


def layer_of(name: str):
    torch.manual_seed(0)
    kind, axes, options = LAYERS[name]
    return kind(4, 6, 3, **options).double(), axes


def image(batch: int, sizes, axes: int) -> torch.Tensor:
    return torch.randn(batch, 4, *sizes[:axes], dtype=torch.float64)


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_exported_layers_take_every_batch_and_size(name, strict):
    if name == "transposed signal" and TORCH < "2.11":
        pytest.skip("torch 2.10 does not understand its own bound of the size")
    layer, axes = layer_of(name)
    # the output is to have more than one element on each axis, torch's own layers need as much
    shapes = {0: Dim("batch")} | {2 + axis: Dim(f"size{axis}", min=4) for axis in range(axes)}
    exported = export(layer, (image(2, (9, 8, 7), axes),), dynamic_shapes=(shapes,), strict=strict).module()
    for batch, sizes in ((1, (4, 4, 4)), (5, (12, 17, 8)), (3, (31, 6, 5))):
        x = image(batch, sizes, axes)
        torch.testing.assert_close(exported(x), layer(x), rtol=1e-12, atol=1e-12)


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("name", ["signal", "plain", "strided", "reflect", "volume", "transposed"])
def test_two_graphs_at_most_are_compiled_for_ten_sizes(name, dynamic):
    torch._dynamo.reset()
    layer, axes = layer_of(name)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, backend=counter, fullgraph=True, dynamic=dynamic)
    for size in range(7, 17):
        x = image(2 + size % 3, (size, size + 3, size + 1), axes).requires_grad_()
        results = [model(x) for model in (compiled, layer)]
        torch.testing.assert_close(*results, rtol=1e-12, atol=1e-12)
        wanted = [x, *layer.parameters()]
        for a, b in zip(*(torch.autograd.grad(y.square().sum(), wanted) for y in results), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    assert counter.frame_count <= (1 if dynamic else 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        lambda x, k: cl.correlate(x, k, padding="same", stride=(2, 3)),
        lambda x, k: cl.correlate(x, k, padding="full"),
        lambda x, k: cl.correlate(x, k, padding=((1, 0), (0, 2)), padding_mode="circular", flip=True),
        lambda x, k: cl.correlate(x[0], k, torch.ones(5, dtype=torch.int64), padding="valid"),
        lambda x, k: cl.correlate(x, cl.Conv(torch.ones(4, 2, 3, 3, dtype=torch.float64), transposed=True, stride=2)),
    ],
    ids=["same, strided", "full", "pairs", "one image", "transposed"],
)
def test_functions_compile_once_for_all_sizes(call):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    k = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    compiled = torch.compile(call, backend=counter, dynamic=True)
    for sizes in ((9, 8), (10, 13), (21, 7), (6, 6)):
        x = image(2, sizes, 2)
        torch.testing.assert_close(compiled(x, k), call(x, k), rtol=1e-12, atol=1e-12)
    assert counter.frame_count <= 2


@pytest.mark.slow(quick=2)
@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_gradients_of_the_operator_go_through_its_padding(mode):
    from convolith.correlation.registered_operator import _correlate

    torch.manual_seed(0)
    x = torch.randn(1, 1, 4, 3, dtype=torch.float64, requires_grad=True)
    k = torch.randn(2, 1, 3, 2, dtype=torch.float64, requires_grad=True)
    run = lambda x, k: _correlate(x, k, None, [1, 2], [2, 1, 0, 3], [1, 1], 1, mode, "default", "auto")
    assert torch.autograd.gradcheck(run, (x, k))
    assert torch.autograd.gradgradcheck(run, (x, k))


def test_mistakes_in_compiled_calls_are_named():
    compiled = torch.compile(lambda x, k: cl.correlate(x, k), backend="eager")
    with pytest.raises(Exception, match="x has 4 channels .* but k expects 3"):
        compiled(torch.ones(1, 4, 5, 5), torch.ones(2, 3, 3, 3))
