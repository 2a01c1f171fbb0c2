"""`Gram`: an accumulator of the normal equations, for data in chunks whose partial results can be merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from math import sqrt
from pathlib import Path
from typing import Any, Self

import numpy as np

from convolith.errors import ConvolithError, check_flag, renamed
from convolith.fitting import gram_file
from convolith.fitting.data.pixels import Pixels
from convolith.fitting.data.polynomials import monomials
from convolith.fitting.data.problem import Problem, read
from convolith.fitting.data.shapes import spatial_axes
from convolith.fitting.data.units import unwrapped
from convolith.fitting.kernel_options import KernelOptions
from convolith.fitting.moments.moments import moments
from convolith.fitting.results import Fit
from convolith.fitting.solving.constraints import needs_solver
from convolith.fitting.solving.least_squares import Penalty, least_squares
from convolith.fitting.solving.normal_equations import NormalEquations
from convolith.geometry import Axes, Padding, check_whole, explicit_padding, per_axis
from convolith.spec import ConvSpec
from convolith.torch_private import safe_in_forks


class Accumulator(NormalEquations):
    """Normal equations of one geometry, added to, merged and saved: what `Gram` and `VaryingGram` have in common.

    Args:
        kernel_size: a number per spatial axis.
        in_channels, out_channels: number of channels of x and of y.
        stride, padding, dilation, padding_mode: as for `correlate`.
        degree, background_degree, modulation: as for `VaryingGram`; by default a kernel that does not vary.
    """

    KIND: str
    """Label of the class in files of its states."""

    def __init__(
        self,
        kernel_size: Axes,
        in_channels: int,
        out_channels: int,
        *,
        stride: Axes,
        padding: Padding,
        dilation: Axes,
        padding_mode: str,
        degree: int = 0,
        background_degree: int = 0,
        modulation: str = "update",
    ) -> None:
        axes = spatial_axes(kernel_size)
        self.options = {
            "stride": per_axis("stride", stride, axes, 1),
            "padding": padding if isinstance(padding, str) else explicit_padding(padding, axes),
            "dilation": per_axis("dilation", dilation, axes, 1),
            "padding_mode": padding_mode,
        }
        self.kernel_size = per_axis("kernel_size", kernel_size, axes, 1)
        self.in_channels = check_whole("in_channels", in_channels, 1)
        self.out_channels = check_whole("out_channels", out_channels, 1)
        self.terms = monomials(axes, degree)
        self.known = monomials(axes, max(degree, background_degree))
        self.modulation, self.frame = modulation, None
        self.shift = np.zeros(self.in_channels + self.out_channels)
        self.matrix = np.zeros((self.windows + len(self.known) + self.out_channels,) * 2)
        self.equations = 0
        self.dtypes: tuple[str, ...] = ()
        self.size: tuple[int, ...] = ()
        self.spec_of(self._least())  # raises for an invalid geometry

    def __repr__(self) -> str:
        channels = f"{self.in_channels} -> {self.out_channels}"
        return f"{type(self).__name__}({channels}, kernel_size={self.kernel_size}, equations={self.equations:,})"

    def _least(self) -> tuple[int, ...]:
        """Return the size of the smallest image that the kernel fits into."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel_size, self.options["dilation"], strict=True))

    def add(self, problem: Problem, sign: int = 1) -> Self:
        """Add equations that were checked and have positions, or remove them with sign -1."""
        if not problem.equations:
            return self
        shift = self.shift if self.dtypes else problem.means()
        matrix = self.matrix + sign * moments(problem, shift)
        if not self.dtypes:
            self.dtypes, self.size, self.shift = problem.dtypes, problem.spec.size, shift
        self.matrix, self.equations = matrix, self.equations + sign * problem.equations
        if self.modulation != "update" and self.frame is None:
            self.frame = problem.spec.size
        return self

    def merge(self, other: Accumulator) -> Self:
        """Add the equations of another state.

        Args:
            other: state of the same class and geometry; it is not changed.

        Returns:
            The state itself, with the other's frame if it has none.

        Raises:
            ConvolithError: another geometry, other channels or other dtypes.

        Example:
            >>> import numpy as np
            >>> import convolith as cl
            >>> x = np.random.default_rng(0).normal(size=(2, 1, 16, 16))
            >>> first, second = (cl.Gram(1).update(one, 2 * one) for one in x)
            >>> first.merge(second).equations
            512
        """
        if not isinstance(other, type(self)):
            raise ConvolithError(f"other is a {type(other).__name__}; expected a {type(self).__name__}")
        for (name, ours), theirs in zip(self.geometry.items(), other.geometry.values(), strict=True):
            if ours != theirs and not (name == "frame" and None in (ours, theirs)):
                raise ConvolithError(
                    f"other has {name} {theirs}, but this state {ours}; expected the same; make both states with the "
                    f"same {name}"
                )
        if other.equations:
            self._check_dtypes("other", other.dtypes)
            if not self.dtypes:
                self.shift, self.dtypes, self.size = other.shift.copy(), other.dtypes, other.size
            self.matrix = self.matrix + other.about(self.shift)
            self.equations += other.equations
        self.frame = self.frame or other.frame
        return self

    def subtract(self, other: Accumulator) -> Self:
        """Remove the equations of another state.

        Args:
            other: state that was merged before; it is not changed.

        Returns:
            The state itself.

        Raises:
            ConvolithError: another geometry, other channels or other dtypes, more equations than the state holds.
        """
        if isinstance(other, type(self)) and other.equations > self.equations:
            raise ConvolithError(
                f"other holds {other.equations} equations, but this state only {self.equations}; expected a state that "
                "was merged before"
            )
        negative = self.like().merge(other)
        negative.matrix, negative.equations = -negative.matrix, -negative.equations
        return self.merge(negative)

    def restricted_to(self, kernel_size: Axes) -> Self:
        """Return the state of the same equations for a smaller kernel in the middle of this kernel's window.

        If the sizes differ by an odd number, the smaller half is cut off before the kernel. The padding shrinks by as
        much; without padding, this state's y is the middle of the larger y that `correlate` gives for the smaller one.

        Args:
            kernel_size: a number for all axes, or one per axis.

        Returns:
            A new state; this one is not changed.

        Raises:
            ConvolithError: a kernel that is larger along an axis, or "same" padding with a stride.

        Example:
            >>> import numpy as np
            >>> import convolith as cl
            >>> x = np.random.default_rng(0).normal(size=(1, 32, 32))
            >>> gram = cl.Gram(5).update(x, 3 * x[:, 2:-2, 2:-2])
            >>> gram.restricted_to(1).solve().kernel.round(9).tolist()
            [[[[3.0]]]]
        """
        size = per_axis("kernel_size", kernel_size, len(self.kernel_size), 1)
        if any(small > large for small, large in zip(size, self.kernel_size, strict=True)):
            raise ConvolithError(f"kernel_size is {size}; expected none larger than the state's, {self.kernel_size}")
        if self.options["padding"] == "same" and max(self.options["stride"]) > 1:
            raise ConvolithError(
                'the state has padding "same" with a stride, whose amount depends on kernel_size; make a state of '
                f"kernel_size {size} instead"
            )
        indices = np.arange(self.windows).reshape(-1, *self.kernel_size)
        pairs = []
        around = self.spec_of(self.size or self._least()).padding
        for axis, (small, large, d) in enumerate(zip(size, self.kernel_size, self.options["dilation"], strict=True)):
            before = (large - small) // 2
            indices = indices.take(range(before, before + small), axis=1 + axis)
            low, high = around[axis]
            pairs.append((max(low - d * before, 0), max(high - d * (large - small - before), 0)))
        selected = np.concatenate([indices.ravel(), np.arange(self.windows, len(self.matrix))])
        state = self.like(kernel_size=size, padding=tuple(pairs))
        state.matrix, state.shift = self.matrix[np.ix_(selected, selected)], self.shift.copy()
        state.equations, state.dtypes, state.size = self.equations, self.dtypes, self.size
        return state

    def save(self, path: str | Path) -> None:
        """Write the state to a .npz file; an existing file is replaced once the new one is complete.

        Args:
            path: name of the file, which ends in .npz.

        Raises:
            ConvolithError: another file extension, or a path that cannot be written.
        """
        about = {name: getattr(self, name) for name in ("geometry", "equations", "dtypes", "size")}
        gram_file.write(path, self.KIND, about, {"shift": self.shift, "matrix": self.matrix})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a state that `save` wrote.

        Args:
            path: name of the file.

        Returns:
            The state.

        Raises:
            ConvolithError: a missing, damaged or truncated file, or one of another class or version.

        Example:
            >>> import os, tempfile
            >>> import numpy as np
            >>> import convolith as cl
            >>> x = np.random.default_rng(0).normal(size=(1, 16, 16))
            >>> path = os.path.join(tempfile.mkdtemp(), "state.npz")
            >>> cl.Gram(1).update(x, 2 * x).save(path)
            >>> cl.Gram.load(path).solve().kernel.round(9).tolist()
            [[[[2.0]]]]
        """
        about, arrays = gram_file.read(path, cls.KIND)
        if not {"geometry", "equations", "dtypes", "size"} <= set(about) or not {"shift", "matrix"} <= set(arrays):
            raise ConvolithError(f"path is {path}, which lacks parts of a state; is it complete?")
        state = cls(**about["geometry"])
        for name in ("shift", "matrix"):
            if arrays[name].shape != getattr(state, name).shape:
                raise ConvolithError(
                    f"path is {path}, whose {name} has shape {arrays[name].shape}; expected "
                    f"{getattr(state, name).shape} for its kernel_size"
                )
            setattr(state, name, arrays[name])
        state.equations, state.dtypes, state.size = about["equations"], tuple(about["dtypes"]), tuple(about["size"])
        return state

    @property
    def geometry(self) -> dict[str, Any]:
        """Arguments that construct an empty state like this one."""
        names = ("kernel_size", "in_channels", "out_channels")
        return {name: getattr(self, name) for name in names} | self.options

    def like(self, **changes: Any) -> Self:
        """Return an empty state of the same geometry, with the given changes."""
        return type(self)(**(self.geometry | changes))

    def spec_of(self, size: Sequence[int]) -> ConvSpec:
        """Return the spec of the fitted correlation, for an image of a given size."""
        return ConvSpec(
            batch=1,
            in_channels=self.in_channels,
            out_channels=self.out_channels,
            size=tuple(size),
            kernel_size=self.kernel_size,
            dtype="float64",
            **self.options,
        )

    def penalty_of(self, kernel_options: KernelOptions) -> Penalty:
        """Return the penalties and constraints on the kernel as matrices.

        Raises:
            ConvolithError: noise in an x that was padded, since the padding has no noise; nonnegative weights for a
                kernel that varies.
        """
        if needs_solver(kernel_options.names) and len(self.terms) > 1:
            raise ConvolithError(
                f"constraints is {kernel_options.constraints!r}, but weights that vary are not of one sign everywhere "
                "if they are so at some positions; leave it out, or pass degree=0"
            )
        variances = kernel_options.variances(self.in_channels)
        if variances.any() and any(map(any, self.spec_of(self.size or self._least()).padding)):
            raise ConvolithError(
                'x_noise_variance was given, but x is padded, and its padding has no noise; pass padding="valid"'
            )
        noise = self.noise(variances) if variances.any() else None
        return kernel_options.penalty(self.in_channels, self.kernel_size, noise, len(self.terms))

    def kernel_of(self, coefficients: np.ndarray) -> np.ndarray:
        """Reshape (windows, out_channels) to (terms, out_channels, in_channels, *kernel_size)."""
        wide = coefficients[: self.windows].reshape(len(self.terms), -1, self.out_channels)
        shape = (len(self.terms), self.out_channels, self.in_channels, *self.kernel_size)
        return np.ascontiguousarray(wide.transpose(0, 2, 1)).reshape(shape)

    def _read(self, x: Any, y: Any, pixels: dict[str, Any], origin: Axes = 0) -> Problem:
        unknown = set(pixels) - {field.name for field in fields(Pixels)}
        if unknown:
            raise TypeError(f"update() got an unexpected keyword argument {min(unknown)!r}")
        x, y, weights = unwrapped(x, y, pixels.get("weights"))
        about = Pixels(**pixels | {"weights": weights})
        size = self.kernel_size
        problem = read(x, y, kernel_size=size, offset=False, pixels=about, origin=origin, **self.options)
        for name, came, expected in (
            ("x", problem.spec.in_channels, self.in_channels),
            ("y", problem.spec.out_channels, self.out_channels),
        ):
            if came != expected:
                raise ConvolithError(
                    f"{name} has {came} channels, but this state is of {expected}; expected the same; make another "
                    "state for these data"
                )
        self._check_dtypes("x and y", problem.dtypes)
        return problem

    def _take_out(self, problem: Problem) -> Self:
        if problem.equations > self.equations:
            raise ConvolithError(
                f"x and y are {problem.equations} equations to take out of {self.equations}; expected some that were "
                "taken in; pass an x and a y that `update` was called with"
            )
        return self.add(problem, -1)

    def _check_dtypes(self, argument: str, dtypes: tuple[str, ...]) -> None:
        if self.dtypes and dtypes != self.dtypes:
            raise ConvolithError(
                f"{argument} come in {' and '.join(dtypes)}, but this state began with {' and '.join(self.dtypes)}; "
                "convert them, so that all chunks have the same rounding"
            )


class Gram(Accumulator):
    """Accumulator of the normal equations of `y = correlate(x, kernel) + offset`.

    Each pixel of y gives one equation with the row [window of x, 1, pixel of y]. The state holds the sums over all
    pixels of the products of every two entries of these rows. Least squares needs nothing else: from one state, kernels
    of this size and of every smaller one, with or without an offset, with any penalty, are computed without reading the
    data again. `merge` adds the state of other data with the same geometry. The result does not depend on how the data
    are divided into chunks, up to a relative difference of 1e-12.

    The products of windows are computed from correlations of the images, since away from the borders they depend only
    on the distance between two taps: an image of N pixels takes `O(N log N)` operations instead of `O(N taps^2)`. Sums
    are in float64. For accuracy, the channel means of the first chunk (`shift`) are subtracted from all data.

    Args:
        kernel_size: a number per spatial axis; one number means two axes.
        in_channels, out_channels: number of channels of x and of y.
        stride, padding, dilation, padding_mode: as for `correlate`.

    Attributes:
        equations: number of pixels of y with nonzero weight.
        shift: (in_channels + out_channels,), numbers that are subtracted from the channels of x and y.
        matrix: (columns, columns), sums of products for the data less `shift`; `moments` gives those of the data.
        terms, known: monomials of position by which the windows are multiplied, and that are entries themselves: only
            the constant 1 for a kernel that does not vary.

    Raises:
        ConvolithError: an invalid geometry.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> rng = np.random.default_rng(0)
        >>> kernel, gram = rng.normal(size=(1, 1, 5, 5)), cl.Gram((5, 5))
        >>> for _ in range(3):
        ...     x = rng.normal(size=(1, 32, 32))
        ...     gram = gram.update(x, cl.correlate(x, kernel))
        >>> bool(np.abs(gram.solve().kernel - kernel).max() < 1e-12)
        True
    """

    KIND = "convolith gram"
    """Kind of the state, as its file names it."""

    def __init__(
        self,
        kernel_size: Axes,
        in_channels: int = 1,
        out_channels: int = 1,
        *,
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

    @safe_in_forks
    def update(self, x: Any, y: Any, *, origin: Axes = 0, **pixels: Any) -> Self:
        """Add the equations of one or several images; the state is unchanged if they are refused.

        Args:
            x: (N, in_channels, *size), (in_channels, *size) or (*size), as for `fit`; sizes may differ between updates.
            y: the target, in the shape of `correlate`'s result, or as large as x, as for `fit`.
            origin: as for `fit`.
            pixels: `mask`, `weights`, `x_mask`, `nan` and `saturation`, as for `fit`.

        Returns:
            The state itself.

        Raises:
            ConvolithError: shapes that do not match, other channels or dtypes than before, pixels that are not finite
                and not masked.
        """
        return self.add(self._read(x, y, pixels, origin))

    @safe_in_forks
    def downdate(self, x: Any, y: Any, *, origin: Axes = 0, **pixels: Any) -> Self:
        """Remove equations that were added.

        Args:
            x, y, origin, pixels: as for the `update` that added them.

        Returns:
            The state itself.

        Raises:
            ConvolithError: as for `update`, and more equations than the state holds.
        """
        return self._take_out(self._read(x, y, pixels, origin))

    def sub(self, kernel_size: Axes) -> Self:
        """Call `restricted_to`, by its earlier name.

        Args:
            kernel_size: as for `restricted_to`.
        """
        renamed("sub", "restricted_to")
        return self.restricted_to(kernel_size)

    @safe_in_forks
    def solve(self, *, offset: bool = False, **options: Any) -> Fit:
        """Compute the least-squares kernel from the state alone; `fit` also refines it on the data.

        Args:
            offset: whether a constant per output channel is fitted too.
            options: `ridge`, `smoothness`, `basis`, `constraints` and `x_noise_variance`, as for `fit`.

        Returns:
            A `Fit` with NumPy arrays in float64, whose `explained` is NaN. By rounding, the sum of squared residuals is
            wrong by about 1e-16 times the sum of squares of y, and the kernel by about 1e-16 times `condition`,
            relative to its size.

        Raises:
            ConvolithError: a state without equations, fewer equations than unknowns, options that `fit` refuses.
        """
        kernel_options = KernelOptions(**options)
        penalty = self.penalty_of(kernel_options)
        solution = least_squares(self.system(int(check_flag("offset", offset))), penalty)
        kernel, stderr = (self.kernel_of(rows)[0] for rows in (solution.coefficients, solution.stderr))
        squares = float(solution.squares.sum())
        return Fit(
            kernel=kernel,
            offset=self.known_of(solution.coefficients, 1)[0] if offset else None,
            residual_rms=sqrt(squares / (self.weight * self.out_channels)),
            loss=(squares + penalty.paid(solution.coefficients),),
            stderr=stderr,
            condition=solution.condition,
            method="lstsq",
            learning_rate=None,
            spec=self.spec_of(self.size),
            coefficients=kernel_options.coefficients(kernel),
            sum_stderr=solution.stderr_of(self.sums_of_channels()).T.copy(),
        )
