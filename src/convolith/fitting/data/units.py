"""Data of astropy as the data of a fit: values, masks, weights from uncertainties, and units that are compared."""

from __future__ import annotations

from typing import Any

from convolith.arrays import listed
from convolith.correlation.nddata import inverse_variance, is_nddata, masked
from convolith.errors import warn


def unwrapped(x: Any, y: Any, weights: Any) -> tuple[Any, Any, Any]:
    """Return x and y as arrays or masked arrays, and the weights, by default those of a `CCDData` y."""
    warn_of_units(*(getattr(array, "unit", None) if is_nddata(array) else None for array in (x, y)))
    weights = inverse_variance(y) if weights is None else weights
    return listed("x", masked(x)), listed("y", masked(y)), weights


def warn_of_units(of_x: Any, of_y: Any) -> None:
    """Warn that x and y are in different units; None stands for an unknown one."""
    if of_x is not None and of_y is not None and not _same(str(of_x), str(of_y)):
        warn(f"x is in {of_x or 'no unit'} and y in {of_y or 'no unit'}; the kernel's sum converts them")


def _same(first: str, second: str) -> bool:
    """Return whether two units are equal; those that astropy does not know are compared in any case (adu, ADU)."""
    try:
        from astropy.units import Unit

        return bool(Unit(first) == Unit(second))
    except (ImportError, ValueError):
        return first.casefold() == second.casefold()
