"""The checkpoint of a fit: a file with the sums so far, from which an interrupted run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convolith.big.stores.sources import Source
from convolith.errors import ConvolithError
from convolith.fitting import gram_file
from convolith.fitting.gram import Gram
from convolith.version import __version__

KIND = "convolith checkpoint"
SAMPLE = 8
"""Pixels along each axis, at both ends, by which the contents of a source are recognised."""


@dataclass(frozen=True)
class Reached:
    """How far a fit is.

    Attributes:
        states: state of each fold.
        passed: number of passes that are complete.
        done: number of blocks of the next pass that are merged.
        missing: number of pixels of y that are left out.
        coefficients: (unknowns, out_channels), of the pass before; None in the first pass.
        slope, squares: sums of the pass: gradient of the squares, (unknowns, out_channels), and squared residuals.
    """

    states: tuple[Gram, ...]
    passed: int = 0
    done: int = 0
    missing: int = 0
    coefficients: np.ndarray | None = None
    slope: np.ndarray | None = None
    squares: float = 0.0


class Checkpoint:
    """File with the sums of an unfinished fit.

    Args:
        path: name of the file, which ends in .npz.
        fingerprint: everything that the sums depend on.
        solving: everything else that a refinement of the kernel depends on.
    """

    def __init__(self, path: str | Path, fingerprint: Mapping[str, Any], solving: Mapping[str, Any]) -> None:
        self.path = Path(path)
        if self.path.suffix != ".npz":
            raise ConvolithError(f"checkpoint is {str(path)!r}; expected a name that ends in .npz")
        if not self.path.parent.is_dir():
            raise ConvolithError(f"checkpoint is {str(path)!r}, but there is no folder {self.path.parent}; create it")
        self.fingerprint = json.loads(json.dumps({"version": __version__, **fingerprint}, default=str))
        self.solving = json.loads(json.dumps(solving, default=str))

    @property
    def lock(self) -> Path:
        """Path of the file that keeps a second process away."""
        return self.path.with_name(self.path.name + ".lock")

    def save(self, reached: Reached) -> None:
        """Write the sums so far; the file before them is replaced when they are complete."""
        about = {
            "fingerprint": self.fingerprint,
            "solving": self.solving,
            "equations": [state.equations for state in reached.states],
            **{name: getattr(reached, name) for name in ("passed", "done", "missing", "squares")},
        }
        arrays = {f"{name}{n}": getattr(s, name) for n, s in enumerate(reached.states) for name in ("shift", "matrix")}
        for name in ("coefficients", "slope"):
            value = getattr(reached, name)
            if value is not None:
                arrays[name] = value
        gram_file.write(self.path, KIND, about, arrays)

    def load(self, empty: Reached) -> Reached:
        """Return the sums of an interrupted run, or `empty` if there is none.

        A refinement that began with other options of the solution begins again.

        Raises:
            ConvolithError: a damaged file, or one of other sources or options.
        """
        if not self.path.exists():
            return empty
        about, arrays = gram_file.read(self.path, KIND)
        found = about.get("fingerprint", {})
        different = sorted(
            name for name in {*found, *self.fingerprint} if found.get(name) != self.fingerprint.get(name)
        )
        if different:
            name = different[0]
            raise ConvolithError(
                f"checkpoint is {str(self.path)!r}, which is of another run: {', '.join(different)} differ ({name} was "
                f"{found.get(name)}, and is {self.fingerprint.get(name)}); choose another name, or remove the file"
            )
        states = []
        for number, (state, equations) in enumerate(zip(empty.states, about["equations"], strict=True)):
            own = state.like()
            own.shift, own.matrix, own.equations = arrays[f"shift{number}"], arrays[f"matrix{number}"], equations
            own.dtypes, own.size = (state.dtypes, state.size) if not equations else (("float64", "float64"), (1,))
            states.append(own)
        if about["passed"] and about["solving"] != self.solving:
            return Reached(tuple(states), passed=1, missing=about["missing"])
        return Reached(
            tuple(states),
            passed=about["passed"],
            done=about["done"],
            missing=about["missing"],
            coefficients=arrays.get("coefficients"),
            slope=arrays.get("slope"),
            squares=about["squares"],
        )

    def remove(self) -> None:
        """Remove the file of a fit that is complete."""
        self.path.unlink(missing_ok=True)


def contents(source: Source) -> str:
    """Return a short text by which a source is recognised: its form, and the pixels at both ends."""
    about = json.dumps(source.fingerprint(), sort_keys=True)
    hashed = hashlib.sha256(about.encode())
    for ends in (
        [slice(0, min(SAMPLE, n)) for n in source.shape],
        [slice(max(n - SAMPLE, 0), n) for n in source.shape],
    ):
        hashed.update(np.ascontiguousarray(source.array[tuple(ends)]).tobytes())
    return f"{source.shape} {source.dtype} {hashed.hexdigest()[:16]}"
