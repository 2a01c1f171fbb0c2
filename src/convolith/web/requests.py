"""The requests of the page, one dataclass each: their fields are their documentation, and their types are checked."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Annotated, Literal

from convolith.web.schema import Bounds, RequestError

MAX_KERNEL = 255
"""Largest size of a kernel along an axis."""
MAX_FITTED = 31
"""Largest size of a fitted kernel along an axis."""
MAX_LOSSES = 20_000
"""Largest number of steps of a descent."""

Identifier = Annotated[str, Bounds(1, 64)]
Number = Annotated[float, Bounds(-1e30, 1e30)]
Step = Annotated[int, Bounds(1, 64)]
Steps = Step | Annotated[tuple[Step, ...], Bounds(2, 2)]
"""One whole number for both axes, or one for rows and one for columns."""
Mode = Literal["zeros", "reflect", "symmetric", "replicate", "circular"]

PRESETS: dict[str, dict[str, tuple[float | None, float, float]]] = {
    "airy": {"radius": (3.0, 0.1, 31), "size": (None, 1, MAX_KERNEL)},
    "box": {"size": (5, 1, MAX_KERNEL)},
    "disk": {"radius": (3.0, 0.1, 63), "size": (None, 1, 127)},
    "gabor": {
        "wavelength": (8.0, 2, 64),
        "angle": (0.0, -360, 360),
        "sigma": (None, 0.1, 31),
        "aspect": (1.0, 0.1, 4),
        "phase": (0.0, -360, 360),
        "size": (None, 1, MAX_KERNEL),
    },
    "gaussian": {"sigma": (2.0, 0.05, 31), "size": (None, 1, MAX_KERNEL)},
    "laplacian_of_gaussian": {"sigma": (1.4, 0.05, 31), "size": (None, 3, MAX_KERNEL)},
    "moffat": {"fwhm": (4.0, 0.1, 31), "beta": (2.5, 1.01, 50), "size": (None, 1, MAX_KERNEL)},
    "motion": {"length": (9.0, 1, 200), "angle": (0.0, -360, 360)},
    "sobel": {"axis": (0, 0, 1)},
}
"""Kernels of `convolith.kernels` by name: the default, the least and the largest value of each argument. None as the
default leaves the argument out. The names are kept here too, since the kernels themselves need torch."""
WHOLE = ("size", "axis")
"""Arguments that are whole numbers."""


@dataclass(frozen=True)
class KernelChoice:
    """A kernel: either `preset` with its `arguments`, or `values`, rows of numbers, or `picture`, an uploaded array."""

    preset: str | None = None
    arguments: dict[str, float] = field(default_factory=dict)
    values: (
        Annotated[tuple[Annotated[tuple[Number, ...], Bounds(1, MAX_KERNEL)], ...], Bounds(1, MAX_KERNEL)] | None
    ) = None
    picture: Identifier | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("preset", "values", "picture") if getattr(self, name) is not None]
        if len(given) != 1:
            raise RequestError(
                422, f"kernel has {', '.join(given) or 'no field'}; expected one of preset, values, picture"
            )
        if self.values is not None and len(set(map(len, self.values))) > 1:
            raise RequestError(422, "kernel.values has rows of different lengths; expected rows of one length")
        if self.preset is None:
            if self.arguments:
                raise RequestError(422, "kernel.arguments are given without kernel.preset, which they belong to")
            return
        if self.preset not in PRESETS:
            raise RequestError(422, f"kernel.preset is {self.preset[:64]!r}; expected one of {', '.join(PRESETS)}")
        for name, value in self.arguments.items():
            self._check_argument(PRESETS[self.preset], name, value)

    def _check_argument(self, allowed: dict[str, tuple[float | None, float, float]], name: str, value: float) -> None:
        if name not in allowed:
            raise RequestError(
                422, f"kernel.arguments has {name[:64]!r}; expected some of {', '.join(allowed)} for {self.preset}"
            )
        _, least, most = allowed[name]
        if not least <= value <= most or (name in WHOLE and value != int(value)):
            number = "a whole number" if name in WHOLE else "a number"
            raise RequestError(
                422, f"kernel.arguments.{name} is {value:g}; expected {number} from {least:g} to {most:g}"
            )

    def keywords(self) -> dict[str, float]:
        """Return the arguments of the preset's function, with the defaults of those that are not given."""
        defaults = {name: value for name, (value, _, _) in PRESETS[self.preset or ""].items() if value is not None}
        return {name: int(one) if name in WHOLE else one for name, one in (defaults | self.arguments).items()}


@dataclass(frozen=True)
class ShowKernel:
    """A kernel to be shown as numbers."""

    kernel: KernelChoice


@dataclass(frozen=True)
class Compute:
    """A picture and a kernel: the result, and every engine timed on it.

    Attributes:
        picture: identifier of an uploaded picture or a result, or the name of a bundled picture.
        dtype: dtype of the computation; "int32" takes whole numbers, which stay exact.
        accuracy: as for `plan`.
        flip: whether to convolve, with the kernel's axes reversed.
        engines: names of the engines that are timed; all that are worth it by default.
    """

    picture: Identifier
    kernel: KernelChoice
    padding: Literal["same", "valid", "full"] = "same"
    padding_mode: Mode = "symmetric"
    stride: Steps = 1
    dilation: Steps = 1
    dtype: Literal["float32", "float64", "float16", "int32"] = "float32"
    accuracy: Literal["exact", "default", "fast", "double"] = "default"
    flip: bool = False
    engines: Annotated[tuple[Identifier, ...], Bounds(0, 32)] | None = None


@dataclass(frozen=True)
class Crossover:
    """Times of every engine by kernel size, for a picture of a size.

    Attributes:
        size: rows and columns of the picture.
        channels: number of channels, each filtered with the one kernel.
        kernel_sizes: sizes of square kernels.
        separable: whether the kernels have rank 1, as Gaussians do.
        measured: whether the engines are timed too; otherwise the planner's estimates are given.
    """

    size: Annotated[tuple[Annotated[int, Bounds(1, 8192)], ...], Bounds(2, 2)] = (512, 512)
    channels: Annotated[int, Bounds(1, 4)] = 1
    kernel_sizes: Annotated[tuple[Annotated[int, Bounds(1, MAX_KERNEL)], ...], Bounds(1, 64)] = (
        1, 3, 5, 7, 9, 11, 15, 21, 31, 45, 63,
    )  # fmt: skip
    dtype: Literal["float32", "float64", "float16"] = "float32"
    padding_mode: Mode = "symmetric"
    stride: Steps = 1
    dilation: Steps = 1
    accuracy: Literal["exact", "default", "fast", "double"] = "default"
    separable: bool = False
    measured: bool = False


FittedSize = Annotated[int, Bounds(1, MAX_FITTED)]


@dataclass(frozen=True)
class FitKernel:
    """Two pictures: the kernel that turned the one into the other, in closed form and, if named, by a descent.

    Attributes:
        before, after: identifiers of pictures or results of one size, or names of bundled pictures.
        kernel_size: one number, rows and columns, or "auto".
        method: "lstsq" for the closed form alone, or the optimiser of a descent.
        learning_rate: of the descent; chosen by default.
        steps: number of steps of the descent.
        padding: "valid" leaves the border of `after` out; "same" uses it, continued by `padding_mode`.
        huber_delta: from where on the loss is linear (Huber), for a descent; squares by default.
    """

    before: Identifier
    after: Identifier
    kernel_size: FittedSize | Annotated[tuple[FittedSize, ...], Bounds(2, 2)] | Literal["auto"] = 5
    method: Literal["lstsq", "gd", "momentum", "adam", "lbfgs"] = "lstsq"
    learning_rate: Annotated[float, Bounds(1e-300, 1e300)] | None = None
    steps: Annotated[int, Bounds(1, MAX_LOSSES)] = 200
    seed: Annotated[int, Bounds(0, 2**31)] = 0
    padding: Literal["valid", "same"] = "valid"
    padding_mode: Mode = "zeros"
    offset: bool = False
    ridge: Annotated[float, Bounds(0, 1e30)] | Literal["auto"] = 0.0
    errors: Literal["white", "jackknife"] = "white"
    huber_delta: Annotated[float, Bounds(1e-30, 1e30)] | None = None
    nan: Literal["refuse", "omit"] = "refuse"

    def __post_init__(self) -> None:
        if self.method == "lstsq":
            for name in ("learning_rate", "huber_delta"):
                if getattr(self, name) is not None:
                    raise RequestError(422, f"{name} is given with method lstsq; it applies to a descent, such as gd")
        elif "auto" in (self.kernel_size, self.ridge) or self.errors != "white":
            raise RequestError(
                422, f"method is {self.method} with kernel_size or ridge auto, or errors jackknife; these need lstsq"
            )


@dataclass(frozen=True)
class ExamineNetwork:
    """The model of the command line: its costs, what folds, the memory of a training step, the largest batch.

    Attributes:
        inputs: shape of each input, such as [[1, 3, 224, 224]].
        train: whether the model is counted in training mode.
        optimizer: optimizer of the training step, whose memory is predicted; null for none.
        memory: bytes in which the largest batch shall fit; null for no such search.
        fold: whether to fold a copy of the model.
    """

    inputs: Annotated[tuple[Annotated[tuple[Annotated[int, Bounds(1, 2**20)], ...], Bounds(1, 5)], ...], Bounds(1, 8)]
    train: bool = False
    optimizer: Literal["sgd", "momentum", "adam"] | None = "sgd"
    memory: Annotated[float, Bounds(0, 1e15)] | None = None
    fold: bool = True

    def __post_init__(self) -> None:
        elements = sum(map(prod, self.inputs))
        if elements > MAX_INPUTS:
            raise RequestError(422, f"inputs have {elements:,} elements; expected at most {MAX_INPUTS:,} together")
        if self.memory is not None and self.optimizer is None:
            raise RequestError(
                422, "memory is given without optimizer; the largest batch is of a training step: name one"
            )


MAX_INPUTS = 2**26
"""Largest number of elements of a model's inputs together."""
