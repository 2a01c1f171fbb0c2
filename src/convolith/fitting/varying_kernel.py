"""Kernels that vary with position, as values: polynomials of position times weights, applied through plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import torch

from convolith.arrays import as_numpy, as_tensor, is_numpy, like
from convolith.conv import Conv
from convolith.correlation import correlate
from convolith.engines.padding import pad
from convolith.errors import ConvolithError, check_option
from convolith.fitting.data.polynomials import monomials, values
from convolith.fitting.data.positions import check_position, pixel_places
from convolith.geometry import MAX_AXES, Padding, per_axis
from convolith.report.plots import image_grid, signal_figure
from convolith.spec import ConvSpec
from convolith.torch_private import safe_in_forks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MODULATIONS = ("output", "input", "update")
"""Pixels whose position selects the kernel: the output pixel (the centre of its window), each input pixel, or none,
where one position is given for a whole image."""


@dataclass(frozen=True, eq=False)
class VaryingKernel:
    """Kernel whose weights are polynomials of position: `sum over t of phi_t(position) weights[t]`.

    Positions run from -1, at the first pixel of a frame, to 1, at its last, along each axis; `phi_t` are the monomials
    up to a total degree, in the order of `terms`.

    Attributes:
        weights: (terms, out_channels, in_channels, *kernel_size).
        background: (monomials, out_channels), coefficients of a background that varies too, or None.
        degree, background_degree: degrees of the polynomials; the latter None without a background.
        modulation: "output": an output pixel has the kernel of its own position; "input": an input pixel is spread by
            the kernel of its own position; "update": one position holds for a whole image.
        frame: number of pixels of the frame along each axis, or None if positions were given.
        stride, padding, dilation, padding_mode: as for `correlate`.

    Raises:
        ConvolithError: shapes that do not match the degrees, an unknown modulation, invalid options.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = np.random.default_rng(0).normal(size=(1, 40, 40))
        >>> y = x * np.linspace(1, 3, 40)[:, None]  # twice as large in the middle row
        >>> kernel = cl.fit_varying(x, y, kernel_size=1, degree=1).kernel
        >>> kernel.at((0, 0)).weight.round(9).tolist()
        [[[[2.0]]]]
        >>> bool(np.allclose(kernel.apply(x), y))
        True
    """

    weights: Any
    background: Any
    degree: int
    background_degree: int | None
    modulation: str
    frame: tuple[int, ...] | None
    stride: tuple[int, ...] = field(kw_only=True)
    padding: Padding = field(kw_only=True)
    dilation: tuple[int, ...] = field(kw_only=True)
    padding_mode: str = field(kw_only=True, default="zeros")

    def __repr__(self) -> str:
        background = "" if self.background is None else f", background_degree={self.background_degree}"
        shape = self.weights.shape[1:]
        return f"VaryingKernel({shape}, degree={self.degree}{background}, modulation={self.modulation!r})"

    def plot(self) -> Figure:
        """Return a matplotlib figure of the kernel at nine places: the first, middle and last row and column.

        It shows the weights from the first input channel to the first output channel; with one axis, the three places
        are three curves.

        Raises:
            ConvolithError: matplotlib is not installed, or a kernel of three axes.
        """
        places = {"first": -1.0, "middle": 0.0, "last": 1.0}
        if self.axes == 1:
            at = {name: as_numpy(self.weight_at((z,))[0, 0]).astype(float) for name, z in places.items()}
            return signal_figure(at)
        if self.axes > 2:
            raise ConvolithError(f"the kernel has {self.axes} axes; plot shows kernels of one or two")
        rows = [
            {
                f"{row} row, {column} column": as_numpy(self.weight_at((v, u))[0, 0]).astype(float)
                for column, u in places.items()
            }
            for row, v in places.items()
        ]
        return image_grid(rows, [name for row in rows for name in row])

    @property
    def axes(self) -> int:
        """Number of spatial axes."""
        return int(self.weights.ndim) - 3

    @property
    def terms(self) -> tuple[tuple[int, ...], ...]:
        """Exponents along each axis of the monomials that multiply the weights."""
        return monomials(self.axes, self.degree)

    @property
    def options(self) -> dict[str, Any]:
        """Options for `correlate`."""
        return {name: getattr(self, name) for name in ("stride", "padding", "dilation", "padding_mode")}

    def __post_init__(self) -> None:
        axes = self.axes
        check_option("modulation", self.modulation, MODULATIONS)
        if not 1 <= axes <= MAX_AXES or len(self.weights) != len(self.terms):
            raise ConvolithError(
                f"weights has shape {tuple(self.weights.shape)}; expected (terms, out_channels, in_channels, "
                f"*kernel_size), with the terms of degree {self.degree}"
            )
        if (self.background is None) != (self.background_degree is None):
            raise ConvolithError("background and background_degree belong together; pass both, or neither")
        if self.background is not None:
            shape = (len(monomials(axes, self.background_degree or 0)), self.weights.shape[1])
            if tuple(self.background.shape) != shape:
                raise ConvolithError(f"background has shape {tuple(self.background.shape)}; expected {shape}")
        for name in ("frame", "stride", "dilation"):
            if getattr(self, name) is not None:
                per_axis(name, getattr(self, name), axes, 1)

    def weight_at(self, position: Sequence[float]) -> Any:
        """Return the weights at a position.

        Args:
            position: a number for each axis, from -1 to 1 across the frame; it may lie outside.

        Returns:
            (out_channels, in_channels, *kernel_size), in the array type of `weights`.

        Raises:
            ConvolithError: another number of entries, or entries that are not finite.
        """
        place = [np.array([[value]]) for value in check_position(position, self.axes)]
        return _summed(self.weights, values(place, self.terms).reshape(-1))

    def background_at(self, position: Sequence[float]) -> Any:
        """Return the background at a position.

        Args:
            position: as for `weight_at`.

        Returns:
            (out_channels,), in the array type of `background`, or None without a background.

        Raises:
            ConvolithError: as for `weight_at`.
        """
        if self.background_degree is None:
            return None
        place = [np.array([[value]]) for value in check_position(position, self.axes)]
        return _summed(self.background, values(place, monomials(self.axes, self.background_degree)).reshape(-1))

    def at(self, position: Sequence[float]) -> Conv:
        """Return the kernel and background at a position, which may lie outside the frame, as an operator.

        With "input" modulation, the operator spreads the pixel at that position.

        Args:
            position: a number for each axis, from -1 to 1 across the frame.

        Returns:
            A `Conv`.

        Raises:
            ConvolithError: as for `weight_at`; "same" padding with a stride, whose amount depends on the image size,
                unlike in a `Conv`.
        """
        return Conv(self.weight_at(position), self.background_at(position), **self.options)

    @overload
    def apply(
        self, x: torch.Tensor, *, origin: Sequence[int] | None = None, position: Sequence[float] | None = None
    ) -> torch.Tensor: ...
    @overload
    def apply(
        self, x: np.ndarray, *, origin: Sequence[int] | None = None, position: Sequence[float] | None = None
    ) -> np.ndarray: ...

    @safe_in_forks
    def apply(self, x: Any, *, origin: Sequence[int] | None = None, position: Sequence[float] | None = None) -> Any:
        """Apply the kernel to an image, by one planned correlation of several channels.

        Args:
            x: (N, in_channels, *size) or (in_channels, *size), of the size of the frame, or a part of it.
            origin: pixel of the frame at which x begins, if x is a part of it.
            position: position of x, for a kernel that was fitted at given positions; by default x is its own frame, and
                every output pixel has the kernel of its own position.

        Returns:
            (N, out_channels, *output_size), or without N, of the array type of x.

        Raises:
            ConvolithError: an x that is not in the frame, a position for a kernel with a frame, and whatever
                `correlate` refuses.
        """
        if position is not None:
            if self.modulation != "update" or origin is not None:
                raise ConvolithError(
                    f'position was given together with modulation "{self.modulation}" and origin {origin}; expected it '
                    'alone, for a kernel of modulation "update"'
                )
            return correlate(x, self.weight_at(position), self.background_at(position), **self.options)
        tensor = as_tensor("x", x)
        wide = tensor if tensor.ndim == self.axes + 2 else tensor[None]
        if wide.ndim != self.axes + 2:
            raise ConvolithError(f"x has shape {tuple(tensor.shape)}; expected {self.axes} spatial axes")
        weights = as_tensor("weights", self.weights).to(wide.device)
        spec = ConvSpec.of(wide, weights[0], **self.options)
        places = pixel_places(spec, origin, self.frame)
        centres = _middles(places, spec)
        steps: dict[str, Any] = {"stride": self.stride, "dilation": self.dilation}
        padded = pad(wide, spec.padding, spec.padding_mode)

        def through(planes: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
            if is_numpy(x):  # NaN stays in its windows
                return as_tensor("y", correlate(planes.numpy(), k.detach().numpy(), **steps))
            result: torch.Tensor = correlate(planes, k, **steps)
            return result

        if self.modulation == "input":
            factors = _factors(places, self.degree, weights)[:, None]
            y = through((factors * padded[:, None]).flatten(1, 2), weights.transpose(0, 1).flatten(1, 2))
        else:
            flat = through(padded, weights.flatten(0, 1))
            products = flat.reshape(len(flat), *weights.shape[:2], *flat.shape[2:])
            y = (products * _factors(centres, self.degree, products)[:, None]).sum(1)
        if self.background_degree is not None:
            background_factors = _factors(centres, self.background_degree, y)
            y = y + torch.einsum("m...,mo->o...", background_factors, as_tensor("background", self.background).to(y))
        y = y if tensor.ndim == self.axes + 2 else y[0]
        return like(y.detach() if is_numpy(x) else y, x)


def _summed(parts: Any, factors: np.ndarray) -> Any:
    """Return the sum over the first axis of parts times factors, in the dtype of the parts."""
    tensor = as_tensor("weights", parts)
    return like(torch.tensordot(torch.from_numpy(factors).to(tensor), tensor, 1), parts)


def _middles(places: Sequence[np.ndarray], spec: ConvSpec) -> list[np.ndarray]:
    """Return the positions of window centres for each axis, from those of the pixels of padded x."""
    centres = []
    for place, n, s, extent in zip(places, spec.output_size, spec.stride, spec.extent, strict=True):
        start = np.arange(n) * s
        centres.append((place[:, start] + place[:, start + extent - 1]) / 2)
    return centres


def _factors(places: Sequence[np.ndarray], degree: int, like: torch.Tensor) -> torch.Tensor:
    """Evaluate monomials at every point of a grid, (monomials, *lengths), in the dtype and device of `like`."""
    return torch.from_numpy(values(places, monomials(len(places), degree))[0]).to(like)
