"""`VaryingGram`: the normal equations of a kernel and a background that are polynomials of position.

With x times each monomial as separate channels, a kernel that varies becomes one that does not, and the sums are those
of `Gram`. They serve two models. Modulated at the input, each pixel of x has the weights of its own position; modulated
at the output, all pixels of a window have the weights of its centre, whose monomials are combinations of those of the
pixels (`polynomials.moved`). The coefficients differ, but the sums are the same. A position that is given for an update
holds for the whole image, as in programs that fit small stamps around stars (Alard 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Self

import numpy as np

from convolith.errors import ConvolithError, check_option
from convolith.fitting.data.polynomials import monomials
from convolith.fitting.data.positions import given_places, pixel_places
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Accumulator
from convolith.fitting.kernel_options import KernelOptions, whole_numbers
from convolith.fitting.solving.least_squares import least_squares
from convolith.fitting.varying_kernel import MODULATIONS, VaryingKernel
from convolith.geometry import Axes, Padding, check_whole, per_axis
from convolith.spec import ConvSpec
from convolith.torch_private import safe_in_forks


@dataclass(frozen=True, eq=False)
class VaryingFit:
    """Fitted kernel that varies with position, with its accuracy; `fit_varying` and `VaryingGram.solve` return it.

    Attributes:
        kernel: the kernel, with its background.
        residual_rms: weighted root mean square of the residuals, over all channels.
        loss: minimised objective: the weighted sum of squared errors plus the penalties.
        stderr: standard errors of the kernel's weights, shaped as they are, in float64.
        condition: condition number of the (column-scaled) normal matrix.
        spec: geometry of the fit.
        coefficients: (terms, out_channels, in_channels, count), of the kernels of a basis; None without a basis.
        held_out_rms: root mean square error of predicting each tile by the kernel of all others (jackknife); else None.
        explained: share of the variance of y about its mean that the fit explains; NaN for `VaryingGram.solve`.
        sum_stderr: (out_channels, in_channels), standard errors of the sum of each kernel's weights, in the middle of
            the frame.
    """

    kernel: VaryingKernel
    residual_rms: float
    loss: float
    stderr: Any
    condition: float
    spec: ConvSpec
    coefficients: Any = None
    held_out_rms: float | None = None
    explained: float = float("nan")
    sum_stderr: Any = None

    def __repr__(self) -> str:
        return f"VaryingFit({self.kernel!r}, residual_rms={self.residual_rms:.4g}, condition={self.condition:.3g})"


class VaryingGram(Accumulator):
    """Accumulator of normal equations like `Gram`, for a kernel and a background that are polynomials of position.

    Args:
        kernel_size, in_channels, out_channels: as for `Gram`.
        degree: degree of the polynomials of the weights; 0 for a kernel that does not vary.
        modulation: position that selects the kernel: `"output"` (of the output pixel), `"input"` (of each input pixel)
            or `"update"` (one position given with each update).
        background_degree: highest degree of a background in `solve`; degrees up to `degree` are always possible.
        frame: number of pixels of the whole image along each axis, over which positions run from -1 to 1; by default
            the size of the first x.
        stride, padding, dilation, padding_mode: as for `correlate`.

    Raises:
        ConvolithError: an invalid geometry, an unknown modulation, a negative degree, a frame with modulation "update".

    References:
        Alard, "Image subtraction using a space-varying kernel", Astron. Astrophys. Suppl. 144, 2000.

    Example:
        >>> import numpy as np
        >>> from convolith import VaryingGram
        >>> rng = np.random.default_rng(0)
        >>> gram = VaryingGram(5, degree=1, modulation="update")
        >>> for row, column in [(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.0)]:  # a kernel that grows towards the right
        ...     x = rng.normal(size=(1, 24, 24))
        ...     gram = gram.update(x, (1 + column) * x[:, 2:-2, 2:-2], position=(row, column))
        >>> kernel = gram.solve().kernel
        >>> (kernel.at((0.0, 0.3)).weight[0, 0, 2].round(9) + 0).tolist()
        [0.0, 0.0, 1.3, 0.0, 0.0]
    """

    KIND = "convolith varying gram"
    """Kind of the state, as its file names it."""

    def __init__(
        self,
        kernel_size: Axes,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
        degree: int = 1,
        modulation: str = "output",
        background_degree: int = 0,
        frame: Sequence[int] | None = None,
        stride: Axes = 1,
        padding: Padding = "valid",
        dilation: Axes = 1,
        padding_mode: str = "zeros",
    ) -> None:
        check_option("modulation", modulation, MODULATIONS)
        if modulation == "update" and frame is not None:
            raise ConvolithError(f'frame is {frame} with modulation "update", whose positions are given; leave it out')
        self.degree = check_whole("degree", degree, 0)
        self.background_degree = check_whole("background_degree", background_degree, 0)
        super().__init__(
            kernel_size,
            in_channels,
            out_channels,
            degree=degree,
            background_degree=background_degree,
            modulation=modulation,
            stride=stride,
            padding=padding,
            dilation=dilation,
            padding_mode=padding_mode,
        )
        self.frame = None if frame is None else per_axis("frame", frame, len(self.kernel_size), 1)

    @property
    def geometry(self) -> dict[str, Any]:
        """Arguments that construct an empty state like this one."""
        names = ("degree", "modulation", "background_degree", "frame")
        return super().geometry | {name: getattr(self, name) for name in names}

    @safe_in_forks
    def update(
        self,
        x: Any,
        y: Any,
        *,
        origin: Sequence[int] | None = None,
        position: Sequence[float] | None = None,
        **pixels: Any,
    ) -> Self:
        """Add the equations of one or several images; the state is unchanged if they are refused.

        Args:
            x, y, pixels: as for `Gram.update`.
            origin: pixel of the frame at which x begins, one number per axis; by default the first one, for an x that
                is as large as the frame.
            position: position of x with modulation "update", from -1 to 1 for each axis; (N, axes) for N images.

        Returns:
            The state itself.

        Raises:
            ConvolithError: as for `Gram.update`; a position that is missing, or given with another modulation.
        """
        return self.add(self.placed(self._read(x, y, pixels), origin=origin, position=position))

    @safe_in_forks
    def downdate(
        self,
        x: Any,
        y: Any,
        *,
        origin: Sequence[int] | None = None,
        position: Sequence[float] | None = None,
        **pixels: Any,
    ) -> Self:
        """Remove equations that were added.

        Args:
            x, y, origin, position, pixels: as for the `update` that added them.

        Returns:
            The state itself.

        Raises:
            ConvolithError: as for `update`, and more equations than the state holds.
        """
        problem = self.placed(self._read(x, y, pixels), origin=origin, position=position)
        return self._take_out(problem)

    def placed(
        self,
        problem: Problem,
        *,
        origin: Sequence[int] | None = None,
        position: Any = None,
        background_degree: int | None = None,
    ) -> Problem:
        """Return the equations with the positions of their pixels.

        Args:
            problem: equations of this state's geometry.
            origin, position: as for `update`; one position for each image is (N, axes).
            background_degree: degree of the background to fit; None for no background.
        """
        spec = problem.spec
        if (position is not None) != (self.modulation == "update"):
            came = "no position" if position is None else "a position"
            remedy = "pass one for each image" if position is None else 'leave it out, or pass modulation="update"'
            raise ConvolithError(
                f'{came} was given with modulation "{self.modulation}"; expected one with "update" alone; {remedy}'
            )
        if position is None:
            places = pixel_places(spec, origin, self.frame)
        elif origin is not None:
            raise ConvolithError(
                f'origin is {origin}, but with modulation "update" the position says where x is; leave origin out'
            )
        else:
            places = given_places(position, len(problem.padded), problem.padded.shape[2:])
        return replace(
            problem,
            places=places,
            terms=self.terms,
            known=self.known,
            used=self.used(background_degree),
        )

    def used(self, background_degree: int | None) -> int:
        """Return the number of known columns that a background has."""
        if background_degree is None:
            return 0
        if isinstance(background_degree, bool):
            raise ConvolithError(f"background_degree is {background_degree}; expected a whole number, or None for none")
        check_whole("background_degree", background_degree, 0)
        count = len(monomials(len(self.kernel_size), background_degree))
        if count > len(self.known):
            raise ConvolithError(
                f"background_degree is {background_degree}, but the state was made for "
                f"{max(self.degree, self.background_degree)} at most; make a state with a larger one"
            )
        return count

    def restricted_to(self, kernel_size: Axes) -> Self:
        """Return the state of the same equations for a smaller kernel in the middle of this kernel's window.

        Args:
            kernel_size: a number for all axes, or one per axis.

        Returns:
            A new state; this one is not changed.

        Raises:
            ConvolithError: as for `Gram.restricted_to`; sizes that differ by an odd number, since windows would have
                other centres.
        """
        size = per_axis("kernel_size", kernel_size, len(self.kernel_size), 1)
        if any((large - small) % 2 for small, large in zip(size, self.kernel_size, strict=True)):
            raise ConvolithError(
                f"kernel_size is {size}, but the state's {self.kernel_size}; expected sizes that differ by an even "
                "number, so that windows have the same centre"
            )
        return super().restricted_to(size)

    @safe_in_forks
    def solve(
        self, *, background_degree: int | None = None, constant: Sequence[int] = (), **options: Any
    ) -> VaryingFit:
        """Compute the least-squares kernel from the state alone; `fit_varying` also refines it on the data.

        Args:
            background_degree: degree of the background; None for no background.
            constant: indices of the basis kernels that do not vary.
            options: `ridge`, `smoothness`, `basis`, `constraints` and `x_noise_variance`, as for `fit_varying`.

        Returns:
            A `VaryingFit` with NumPy arrays in float64, whose `explained` is NaN; its accuracy is that of `Gram.solve`.

        Raises:
            ConvolithError: a state without equations, fewer equations than unknowns, options that are refused.
        """
        kernel_options = KernelOptions(**options, constant=whole_numbers("constant", constant))
        penalty = self.penalty_of(kernel_options)
        solution = least_squares(self.system(self.used(background_degree)), penalty)
        squares = float(solution.squares.sum())
        background = self.known_of(solution.coefficients, self.used(background_degree))
        weights, stderr = (self.kernel_of(rows) for rows in (solution.coefficients, solution.stderr))
        return VaryingFit(
            self.varying_kernel(weights, background, background_degree),
            sqrt(squares / (self.weight * self.out_channels)),
            squares + penalty.paid(solution.coefficients),
            stderr,
            solution.condition,
            self.spec_of(self.size),
            self.coefficients_of(kernel_options, weights),
            sum_stderr=solution.stderr_of(self.sums_of_channels()).T.copy(),
        )

    def coefficients_of(self, kernel_options: KernelOptions, weights: np.ndarray) -> np.ndarray | None:
        """Return coefficients of the basis kernels, (terms, out_channels, in_channels, count); None without a basis."""
        flat = kernel_options.coefficients(weights.reshape(-1, *weights.shape[2:]))
        return None if flat is None else flat.reshape(*weights.shape[:3], -1)

    def varying_kernel(self, weights: Any, background: Any, background_degree: int | None) -> VaryingKernel:
        """Return a `VaryingKernel` with these weights and the background that was fitted with them."""
        return VaryingKernel(
            weights,
            None if background_degree is None else background,
            self.degree,
            background_degree,
            self.modulation,
            self.frame,
            **self.options,
        )
