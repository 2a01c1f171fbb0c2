"""`VaryingGram`: the state of a fit whose kernel and background are polynomials of position.

With x times each monomial as channels of their own, a kernel whose weights vary is one that does not, and the sums are
those of `Gram`. They serve two models. Modulated at the input, each pixel of x has the weights of its own position;
modulated at the output, all pixels of a window have those of its middle, whose monomials are combinations of those of
the pixels (`polynomials.moved`); so these coefficients are others, but both come by the same transforms. Where a
position is given for each update, it holds for a whole image, as in programs that fit small stamps around stars
(Alard 2000).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import sqrt
from typing import Any, Self

import numpy as np

from convolith.errors import ConvolithError, check_option
from convolith.fitting.data.polynomials import monomials, moved, positions
from convolith.fitting.data.positions import given_places, pixel_places
from convolith.fitting.data.problem import Problem
from convolith.fitting.gram import Gram
from convolith.fitting.kernel_options import KernelOptions, whole_numbers
from convolith.fitting.solving.constraints import needs_solver
from convolith.fitting.solving.least_squares import Penalty, least_squares
from convolith.fitting.varying_kernel import MODULATIONS, VaryingKernel
from convolith.geometry import Axes, Padding, check_whole, per_axis
from convolith.spec import ConvSpec


@dataclass(frozen=True, eq=False)
class VaryingFit:
    """A recovered kernel that varies with position, and what is known about it.

    Attributes:
        kernel: the kernel, with its background.
        residual_rms: root mean square of what is left of y, weighted, over all channels.
        loss: what was minimised: the weighted sum of squared errors plus the penalties.
        stderr: standard errors of the kernel's weights, shaped as they are, in float64.
        condition: condition number of the (column-scaled) normal matrix.
        spec: the geometry that was fitted.
        coefficients: (terms, out_channels, in_channels, count), of the kernels of a basis; None without one.
        held_out_rms: root mean square of what kernels of all other tiles leave of each (the jackknife); else None.
    """

    kernel: VaryingKernel
    residual_rms: float
    loss: float
    stderr: Any
    condition: float
    spec: ConvSpec
    coefficients: Any = None
    held_out_rms: float | None = None


class VaryingGram(Gram):
    """Sums as `Gram` holds them, for a kernel and a background that are polynomials of position.

    Args:
        kernel_size, in_channels, out_channels: of the kernel, as for `Gram`.
        degree: of the polynomials that its weights are; 0 for a kernel that does not vary.
        modulation: whose position counts: `"output"` (of the pixel that is made), `"input"` (of each pixel that is
            read) or `"update"` (one that is given with each update).
        background_degree: the highest that `solve` may ask for; those up to `degree` are kept anyway.
        frame: the pixels of the whole image along each axis, over which positions run from -1 to 1; by default the
            size of the first x.
        stride, padding, dilation, padding_mode: as for `correlate`.

    Example:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> gram = VaryingGram(5, degree=1, modulation="update")
        >>> for row, column in [(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.0)]:  # a kernel that grows towards the right
        ...     x = rng.normal(size=(1, 24, 24))
        ...     gram = gram.update(x, (1 + column) * x[:, 2:-2, 2:-2], position=(row, column))
        >>> kernel = gram.solve().kernel
        >>> kernel.at((0.0, 0.3)).weight[0, 0].round(9)[2].tolist()
        [0.0, 0.0, 1.3, 0.0, 0.0]
    """

    KIND = "convolith varying gram"

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
        super().__init__(
            kernel_size,
            in_channels,
            out_channels,
            stride=stride,
            padding=padding,
            dilation=dilation,
            padding_mode=padding_mode,
        )
        axes = len(self.kernel_size)
        self.degree = check_whole("degree", degree, 0)
        self.background_degree = check_whole("background_degree", background_degree, 0)
        check_option("modulation", modulation, MODULATIONS)
        if modulation == "update" and frame is not None:
            raise ConvolithError(
                f'frame is {frame} beside modulation "update", whose positions are given; leave it out'
            )
        self.modulation = modulation
        self.frame = None if frame is None else per_axis("frame", frame, axes, 1)
        self.terms = monomials(axes, degree)
        self.known = monomials(axes, max(degree, background_degree))
        self._empty()

    @property
    def geometry(self) -> dict[str, Any]:
        """What such a state is made with."""
        names = ("degree", "modulation", "background_degree", "frame")
        return super().geometry | {name: getattr(self, name) for name in names}

    def update(
        self,
        x: Any,
        y: Any,
        *,
        mask: Any = None,
        weights: Any = None,
        origin: Sequence[int] | None = None,
        position: Sequence[float] | None = None,
    ) -> Self:
        """Take in the equations of an image, or of several; the state is as before if they are refused.

        Args:
            x, y, mask, weights: as for `Gram.update`.
            origin: the pixel of the frame at which x begins; by default its first one.
            position: with modulation "update", that of x, from -1 to 1 for each axis.

        Raises:
            ConvolithError: as `Gram.update`; a position that is missing, or given where pixels have their own.
        """
        return self.add(self.placed(self._read(x, y, mask, weights), origin=origin, position=position))

    def downdate(
        self,
        x: Any,
        y: Any,
        *,
        mask: Any = None,
        weights: Any = None,
        origin: Sequence[int] | None = None,
        position: Sequence[float] | None = None,
    ) -> Self:
        """Take equations out again; arguments as for `update`.

        Raises:
            ConvolithError: as `update`, and more equations than the state holds.
        """
        problem = self.placed(self._read(x, y, mask, weights), origin=origin, position=position)
        return self._take_out(problem)

    def placed(
        self,
        problem: Problem,
        *,
        origin: Sequence[int] | None = None,
        position: Any = None,
        background_degree: int | None = None,
    ) -> Problem:
        """The equations with the positions of their pixels.

        Args:
            problem: equations of this state's geometry.
            origin, position: as for `update`; one position for each image is (N, axes).
            background_degree: of the background that is sought too.
        """
        spec = problem.spec
        if (position is not None) != (self.modulation == "update"):
            came = "no position" if position is None else "a position"
            raise ConvolithError(
                f'{came} was given with modulation "{self.modulation}"; expected one with "update" and there alone'
            )
        if position is None:
            places = pixel_places(spec, origin, self.frame)
        elif origin is not None:
            raise ConvolithError(f'origin is {origin}, but with modulation "update" the position says where x is')
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
        """How many of the known columns a background has."""
        if background_degree is None:
            return 0
        if isinstance(background_degree, bool):
            raise ConvolithError(f"background_degree is {background_degree}; expected a whole number, or None for none")
        check_whole("background_degree", background_degree, 0)
        found = len(monomials(len(self.kernel_size), background_degree))
        if found > len(self.known):
            raise ConvolithError(
                f"background_degree is {background_degree}, but the state was made for "
                f"{max(self.degree, self.background_degree)} at most"
            )
        return found

    def add(self, problem: Problem, sign: int = 1) -> Self:
        """Take in equations that were checked and placed, or out."""
        super().add(problem, sign)
        if self.modulation != "update" and self.equations and self.frame is None:
            self.frame = problem.spec.size
        return self

    def merge(self, other: Gram) -> Self:
        """Take in what another state holds, and return the state itself; the frame may be the other's.

        Raises:
            ConvolithError: another geometry, other channels or other dtypes.
        """
        super().merge(other)
        self.frame = self.frame or other.geometry["frame"]
        return self

    def sub(self, kernel_size: Axes) -> Self:
        """The state of the same equations for a smaller kernel in the middle of this one's window.

        Raises:
            ConvolithError: as `Gram.sub`; sizes that differ by an odd number, whose middles are not the same.
        """
        size = per_axis("kernel_size", kernel_size, len(self.kernel_size), 1)
        if any((large - small) % 2 for small, large in zip(size, self.kernel_size, strict=True)):
            raise ConvolithError(
                f"kernel_size is {size} beside the state's {self.kernel_size}; expected sizes that differ by an even "
                "number, so that windows have one middle"
            )
        return super().sub(size)

    def solve(  # type: ignore[override]  # another kind of fit, with a background of a degree
        self, *, background_degree: int | None = None, constant: Sequence[int] = (), **options: Any
    ) -> VaryingFit:
        """The kernel that comes nearest to y, from the state alone: see `fit_varying`.

        Args:
            background_degree: of the background; None for none.
            constant: which of the basis' kernels do not vary.
            options: `ridge`, `smoothness`, `basis`, `constraints` and `x_noise_variance`, as for `fit_varying`.

        Raises:
            ConvolithError: a state without equations, fewer equations than unknowns, options that are refused.
        """
        kernel_options = KernelOptions(**options, constant=whole_numbers("constant", constant))
        penalty = self.penalty_of(kernel_options)
        solution = least_squares(self.system(self.used(background_degree)), penalty)
        squares = float(solution.squares.sum())
        background = self.known_of(solution.coefficients, self.used(background_degree))
        weights, stderr = (self.kernel_of(found) for found in (solution.coefficients, solution.stderr))
        return VaryingFit(
            self.varying_kernel(weights, background, background_degree),
            sqrt(squares / (self.weight * self.out_channels)),
            squares + penalty.paid(solution.coefficients),
            stderr,
            solution.condition,
            self.spec_of(self.size),
            self.coefficients_of(kernel_options, weights),
        )

    def penalty_of(self, kernel_options: KernelOptions) -> Penalty:
        """What is asked of the kernel, in matrices.

        Raises:
            ConvolithError: as `Gram.penalty_of`; constraints that are no equations.
        """
        if needs_solver(kernel_options.names) and self.degree:
            raise ConvolithError(
                f"constraints is {kernel_options.constraints!r}, but weights that vary are not of one sign everywhere "
                "because they are at some places; leave it out, or pass degree=0"
            )
        return super().penalty_of(kernel_options)

    def steps(self) -> np.ndarray:
        """(taps, axes): how far from the middle of a window each of its pixels lies, as positions are counted."""
        if self.modulation == "update" or self.frame is None:
            return super().steps()
        grids = [
            positions(0, d * (k - 1) + 1, frame)[::d] - positions(0, d * (k - 1) + 1, frame).mean()
            for k, d, frame in zip(self.kernel_size, self.options["dilation"], self.frame, strict=True)
        ]
        return np.stack([grid.ravel() for grid in np.meshgrid(*grids, indexing="ij")], 1)

    def inward(self, coefficients: np.ndarray) -> np.ndarray:
        """(windows, ...): the weights of the windows of modulated x, from the coefficients that are sought."""
        return self._through(coefficients, (0, 2, 1))

    def outward(self, slope: np.ndarray) -> np.ndarray:
        """(windows, ...): a slope along the coefficients that are sought, from one along weights of windows."""
        return self._through(slope, (0, 1, 2))

    def _through(self, rows: np.ndarray, order: tuple[int, int, int]) -> np.ndarray:
        if self.modulation != "output" or len(self.terms) == 1:
            return rows
        each = moved(self.terms, self.terms, -self.steps()).transpose(order)  # (taps, terms, terms)
        wide = rows.reshape(len(self.terms), self.in_channels, self.taps, -1)
        mixed: np.ndarray = each @ wide.transpose(2, 0, 1, 3).reshape(self.taps, len(self.terms), -1)
        mixed = mixed.reshape(self.taps, len(self.terms), self.in_channels, -1).transpose(1, 2, 0, 3)
        return mixed.reshape(rows.shape)

    def kernel_of(self, coefficients: np.ndarray) -> np.ndarray:
        """(windows, out_channels) as (terms, out_channels, in_channels, *kernel_size)."""
        wide = coefficients[: self.windows].reshape(len(self.terms), -1, self.out_channels)
        shape = (len(self.terms), self.out_channels, self.in_channels, *self.kernel_size)
        return np.ascontiguousarray(wide.transpose(0, 2, 1)).reshape(shape)

    def coefficients_of(self, kernel_options: KernelOptions, weights: np.ndarray) -> np.ndarray | None:
        """Of the basis' kernels, (terms, out_channels, in_channels, count), or None without a basis."""
        found = kernel_options.coefficients(weights.reshape(-1, *weights.shape[2:]))
        return None if found is None else found.reshape(*weights.shape[:3], -1)

    def varying_kernel(self, weights: Any, background: Any, background_degree: int | None) -> VaryingKernel:
        """The value of these weights, and of the background that was sought with them."""
        return VaryingKernel(
            weights,
            None if background_degree is None else background,
            self.degree,
            background_degree,
            self.modulation,
            self.frame,
            **self.options,
        )
