"""Astropy's `NDData` and `CCDData`: data with a mask, an uncertainty, a unit and coordinates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from convolith.errors import warn
from convolith.geometry import Grid


def is_nddata(array: Any) -> bool:
    """Return whether an array is one of astropy's, without importing astropy."""
    return not isinstance(array, np.ndarray | torch.Tensor) and any(
        one.__module__.startswith("astropy.nddata") for one in type(array).__mro__
    )


def masked(array: Any) -> Any:
    """Return the data of an `NDData`, as a masked array if it has a mask; other arrays unchanged."""
    if not is_nddata(array):
        return array
    data = np.asarray(array.data)
    return (
        data
        if array.mask is None or not np.any(array.mask)
        else np.ma.MaskedArray(data, np.array(np.broadcast_to(array.mask, data.shape)))
    )


def variance_of(array: Any) -> np.ndarray | None:
    """Return the variance of an `NDData` with an uncertainty; None for other arrays."""
    if not is_nddata(array) or array.uncertainty is None:
        return None
    from astropy.nddata import VarianceUncertainty

    try:
        variance: np.ndarray = np.asarray(array.uncertainty.represent_as(VarianceUncertainty).array, dtype=float)
    except TypeError:  # astropy's UnknownUncertainty
        warn("the uncertainty is of no known kind and is left out; pass a StdDevUncertainty or VarianceUncertainty")
        return None
    return variance


def is_incomplete(array: Any, mask: Any) -> bool:
    """Return whether elements of an `NDData` are missing: NaN, or under its mask or another one."""
    data = np.asarray(array.data)
    none = data.dtype.kind == "f" and bool(np.isnan(data).any())
    return none or mask is not None or (array.mask is not None and bool(np.any(array.mask)))


def inverse_variance(array: Any) -> np.ndarray | None:
    """Return weights, 0 where the variance is not positive, from the uncertainty of an `NDData`, or None."""
    variance = variance_of(array)
    return None if variance is None else weights_of_variance(variance)


def weights_of_variance(variance: np.ndarray) -> np.ndarray:
    """Return the inverse of a variance as weights; 0 where it is not a finite number above zero."""
    known = np.isfinite(variance) & (variance > 0)
    return np.where(known, 1 / np.where(known, variance, 1.0), 0.0)


def filtered(
    array: Any,
    compute: Callable[[Any], np.ndarray],
    through: Callable[[np.ndarray], np.ndarray],
    moved: Mapping[int, Grid],
    *,
    incomplete: bool,
) -> Any:
    """Return an `NDData` like another one, with its unit and header, and coordinates that follow the pixels.

    Args:
        array: the input.
        compute: the filter, of the data as a masked or plain array.
        through: the filter of variances, by the squared kernel.
        moved: where the result's pixels lie among those of the input, by axis.
        incomplete: whether elements are missing that are left out or filled in.
    """
    from astropy.nddata import VarianceUncertainty

    data, variance = compute(masked(array)), variance_of(array)
    gaps = np.isnan(data) if data.dtype.kind == "f" else np.zeros(data.shape, bool)
    uncertainty = None
    if variance is not None and incomplete:
        warn("the result has no uncertainty: pixels were missing, and their share in every sum differs")
    elif variance is not None:
        uncertainty = VarianceUncertainty(through(variance)).represent_as(type(array.uncertainty))
    wcs = array.wcs
    if wcs is not None and any(grid != Grid() for grid in moved.values()):
        wcs = _moved(wcs, moved, np.ndim(array.data)) if hasattr(wcs, "wcs") else None
        if wcs is None:
            warn("the result has no coordinates: those of the input are not a FITS WCS, and its pixels have moved")
    options = {"uncertainty": uncertainty, "mask": gaps if gaps.any() else None, "wcs": wcs, "unit": array.unit}
    return type(array)(data, meta=array.meta, **options)


def _moved(wcs: Any, moved: Mapping[int, Grid], axes: int) -> Any:
    """Return coordinates for a result whose pixels lie elsewhere."""
    result = wcs.deepcopy()
    for axis, grid in moved.items():
        number = axes - 1 - axis  # FITS counts axes from the last
        result.wcs.crpix[number] = grid.reference_pixel(result.wcs.crpix[number])
        if grid.step > 1 and result.wcs.has_cd():
            result.wcs.cd[:, number] *= grid.step
        elif grid.step > 1:
            result.wcs.pc = np.array(result.wcs.get_pc()) * np.where(np.arange(axes) == number, grid.step, 1)
    return result
