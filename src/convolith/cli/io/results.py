"""What a command says about a result: its range, the pixels that are missing or infinite, and what a file changed."""

from __future__ import annotations

from typing import Any

import click
import numpy as np

from convolith.cli.io.files import Written

ALPHA = (2, 4)
"""Numbers of channels of a picture with alpha."""
ALPHA_NOTICE = "the picture's alpha channel is filtered like a colour"


def summary(y: np.ndarray, written: Written | None, missing: int | None) -> dict[str, Any]:
    """Return a row for a table: dtypes, the range of the finite values, and how many others there are.

    Args:
        y: the result.
        written: what became of it in a file, or None.
        missing: number of missing pixels of the input; None leaves it out.
    """
    there = y[np.isfinite(y)] if y.dtype.kind in "fc" else y
    row = {
        "dtype": str(y.dtype),
        "least": _number(there.min() if there.size else None),
        "mean": _number(there.mean(dtype=_wide(there.dtype)) if there.size else None),
        "greatest": _number(there.max() if there.size else None),
    }
    if written is not None and written.dtype != row["dtype"]:
        row["dtype in the file"] = written.dtype
    if missing is not None:
        row["missing"] = missing
    counts = not_finite(y)
    return row | {f"{name} results": count for name, count in counts.items() if count}


def not_finite(y: np.ndarray) -> dict[str, int]:
    """Return how many values are missing (NaN) and how many infinite."""
    if y.dtype.kind not in "fc":
        return {"missing": 0, "infinite": 0}
    none = int(np.isnan(y).sum())
    return {"missing": none, "infinite": y.size - none - int(np.isfinite(y).sum())}


def say_overflow(x: np.ndarray, kernel: np.ndarray, y: np.ndarray, *, masked: bool) -> None:
    """Warn of results that are not finite because the kernel is not, or because their sums exceed the dtype.

    The library does not look: a pass over every result takes a fifth of the time of a small kernel.

    Args:
        x, kernel, y: the operands and the result.
        masked: whether pixels are masked, so that results may be missing for another reason.
    """
    broken = of_broken_weights(kernel)
    if broken:
        click.echo(f"warning: {broken}", err=True)
    if broken or y.dtype.kind not in "fc" or np.isfinite(y).all() or np.isinf(x).any():
        return
    counts = not_finite(y)
    count = counts["infinite"]
    if not masked and not np.isnan(x).any():
        count += counts["missing"]  # sums of both infinities
    if count:
        click.echo(f"warning: {of_overflow(count, y.size, y.dtype)}", err=True)


def of_broken_weights(kernel: np.ndarray) -> str | None:
    """Return the notice of a kernel whose weights are not all finite; None for others."""
    none = kernel.size - int(np.isfinite(kernel).sum())
    return f"weights of KERNEL are NaN or infinite ({none:,}), and so are results" if none else None


def of_overflow(count: int, size: int, dtype: np.dtype[Any]) -> str:
    """Return the notice of a number of results, of `size`, that a float dtype does not hold."""
    wide = _wide(dtype)
    remedy = "scale INPUT down" if dtype == wide else f"pass --dtype {np.dtype(wide).name}"
    return (
        f"{count:,} of {size:,} results are not finite, since sums lie beyond {dtype} (largest "
        f"{np.finfo(dtype).max:.3g}); {remedy}"
    )


def _wide(dtype: np.dtype[Any]) -> Any:
    """Return a dtype for sums of many values."""
    return np.complex128 if dtype.kind == "c" else np.float64


def _number(value: Any) -> Any:
    return None if value is None else value.item() if not np.iscomplexobj(value) else str(value)


def say_changed(y: np.ndarray, like: np.dtype[Any], written: Written, ending: str) -> None:
    """Warn of what a picture's file does not hold: NaN, values beyond its range, the numbers of booleans."""
    none = not_finite(y)["missing"] if written.clipped else 0
    if none:
        click.echo(f"warning: {none:,} values are NaN, which no picture holds: 0 instead", err=True)
    if written.clipped > none:
        click.echo(
            f"warning: {written.clipped - none:,} values were clipped to the picture's range; a .tif or .npy keeps "
            "them",
            err=True,
        )
    if like == np.dtype(bool) and ending in (".png", ".jpg", ".jpeg"):
        click.echo("warning: INPUT is true or false: 1 is written as white, 255; a .tif or .npy keeps 1", err=True)
