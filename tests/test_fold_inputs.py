"""The inputs that folding compares on, and the convolutions that it computes by our engines meanwhile."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from convolith import fold
from convolith.folding.example_inputs import small_base, variations
from convolith.folding.quick_convolutions import QuickConvolutions


class Strict(nn.Module):
    """Takes images of sizes that are multiples of some number only."""

    def __init__(self, multiple: int) -> None:
        super().__init__()
        self.multiple = multiple

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % self.multiple or x.shape[3] % self.multiple:
            raise ValueError("sizes must be multiples")
        return x


def test_small_images_are_of_sizes_that_a_model_takes() -> None:
    example = (torch.zeros(1, 3, 224, 224),)
    assert small_base(nn.Identity(), example) == ({2: 29, 3: 29}, {2: 1, 3: 1})
    assert small_base(Strict(32), example) == ({2: 32, 3: 32}, {2: 32, 3: 32})
    assert small_base(Strict(14), example) == ({2: 28, 3: 28}, {2: 28, 3: 28})
    assert small_base(Strict(224), example) == ({2: 224, 3: 224}, {2: 1, 3: 1})
    volume = (torch.zeros(1, 3, 8, 112, 112),)
    assert small_base(nn.Identity(), volume) == ({2: 7, 3: 15, 4: 15}, {2: 1, 3: 1, 4: 1})


def test_every_axis_takes_sizes_of_both_parities_smaller_and_larger() -> None:
    for shape in [(1, 3, 224, 200), (1, 1, 100), (1, 4000), (2, 3, 8, 32, 30)]:
        found = [x.shape for (x,) in variations(nn.Identity(), (torch.zeros(shape),))]
        for axis, n in enumerate(shape[1:], 1):
            sizes = {s[axis] for s in found}
            assert {2 * n, n + 1, max(n - 1, 1), 1} <= sizes, (shape, axis)
            assert len({size % 4 for size in sizes}) >= 3, (shape, axis)
        assert {s[0] for s in found} >= {1, 2, 3, 5}


def test_models_of_strict_sizes_are_tried_at_several() -> None:
    model = Strict(32)
    taken = [
        x.shape
        for (x,) in variations(model, (torch.zeros(1, 3, 224, 224),))
        if not (x.shape[2] % 32 or x.shape[3] % 32)
    ]
    assert len({s[2:] for s in taken}) >= 6
    assert {s[2] for s in taken} >= {32, 192, 256, 448}


@pytest.mark.slow(quick=1)
@pytest.mark.parametrize(
    ("shape", "kernel", "groups"),
    [((1, 8, 128, 128), (8, 1, 31, 31), 8), ((3, 200, 9, 10), (200, 1, 3, 3), 200), ((2, 16, 40), (16, 1, 5), 16)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quick_convolutions_give_what_torch_gives(
    shape: tuple[int, ...], kernel: tuple[int, ...], groups: int, dtype: torch.dtype
) -> None:
    x, weight, bias = (torch.randn(s, dtype=dtype).requires_grad_() for s in (shape, kernel, kernel[:1]))
    function = getattr(functional, f"conv{len(shape) - 2}d")
    options = {"padding": kernel[2] // 2, "groups": groups}
    with torch.no_grad():
        expected = function(x.double(), weight.double(), bias.double(), **options)
    with torch.no_grad(), QuickConvolutions():
        first, again = (function(x, weight, bias, **options) for _ in range(2))
    assert torch.equal(first, again)
    assert first.dtype == dtype
    assert torch.allclose(first.double(), expected, rtol=0, atol=(1e-4 if dtype == torch.float32 else 1e-11))


def test_what_torch_refuses_it_refuses_in_its_own_words() -> None:
    with QuickConvolutions(), pytest.raises(RuntimeError, match="channels"):
        functional.conv2d(torch.zeros(1, 4, 400, 400), torch.zeros(8, 3, 9, 9))
    with QuickConvolutions():
        same = functional.conv2d(torch.ones(1, 3, 200, 200), torch.ones(8, 3, 9, 9), padding="same")
    assert same.shape == (1, 8, 200, 200)


class NearOne(nn.Module):
    """Takes one off values near one: its own code rounds nothing, and the same folded rounds as float32 does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.conv(x) - 1.0) * 1000.0


def test_a_fold_that_rounds_more_than_the_model_is_judged_by_the_last_bits_of_the_input() -> None:
    x = 1 + 1e-3 * torch.rand(1, 1, 9, 9)
    folded = fold(NearOne().eval(), x)
    assert len(folded.report.rewrites) == 1
    assert folded.report.error["float32"] > 1e-5
    assert torch.allclose(folded.model(x), NearOne()(x), atol=5e-4)
