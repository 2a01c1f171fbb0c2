"""`deconvolve`: undo a known blur, by Wiener's filter or by the iteration of Richardson and Lucy."""

from __future__ import annotations

from typing import Any, TypedDict, Unpack, overload

import numpy as np
import torch

from convolith.arrays import ArrayOrLists, as_tensor, like, listed
from convolith.correlation import correlate
from convolith.correlation.images import picture_axes
from convolith.correlation.missing import checked_mask, unmasked
from convolith.errors import ConvolithError, check_flag, check_option, missing_extra, shown, warn
from convolith.fitting.results import Fit, is_number
from convolith.geometry import check_whole
from convolith.report.progress import track
from convolith.torch_private import safe_in_forks

METHODS = ("wiener", "richardson_lucy")
LEAST_PREDICTED = 1e-12
"""Least prediction by which a picture is divided, relative to its largest value."""
NEGLIGIBLE = 0.01
"""Largest share of negative values, of the sum of magnitudes, that "richardson_lucy" takes for noise and sets to 0."""
NO_SUM = 1e-12
"""Sum of a kernel up to which it counts as 0, relative to the sum of its magnitudes."""
LEAST_SEEN = 1e-6
"""Least share of a pixel's light that falls on the frame, below which the pixel is not estimated."""


class DeconvolveOptions(TypedDict, total=False):
    """Options of `deconvolve`."""

    method: str
    flip: bool
    balance: float
    iterations: int
    mask: Any
    axes: Any
    channel_axis: int | None
    progress: bool


@overload
def deconvolve(image: torch.Tensor, kernel: Any, **options: Unpack[DeconvolveOptions]) -> torch.Tensor: ...
@overload
def deconvolve(image: ArrayOrLists, kernel: Any, **options: Unpack[DeconvolveOptions]) -> np.ndarray: ...


@safe_in_forks
def deconvolve(
    image: Any,
    kernel: Any,
    *,
    method: str = "wiener",
    flip: bool = False,
    balance: float = 0.1,
    iterations: int = 30,
    mask: Any = None,
    axes: Any = None,
    channel_axis: int | None = None,
    progress: bool = False,
) -> Any:
    """Estimate the picture of which `filter_image(picture, kernel)` is the given image.

    `"wiener"` multiplies the image's Fourier transform by `conj(H) / (|H|^2 + balance |L|^2)`, with the transforms H of
    the kernel and L of the Laplacian: one linear step, by scikit-image (the extra `image`), for noise of one variance
    in all pixels. `"richardson_lucy"` repeats `estimate *= adjoint(image / blur(estimate)) / adjoint(1)`, where `blur`
    is the correlation with the kernel and `adjoint` its adjoint: for counts; the estimate is never negative, and each
    iteration makes it sharper and noisier.

    Args:
        image: any number of axes, real; each plane is deconvolved separately. With `"richardson_lucy"`, NaN counts as
            missing.
        kernel: as for `filter_image`, one to three axes; or a `Fit` of one channel, whose kernel is undone. It is
            scaled to the sum 1 for `"richardson_lucy"`.
        method: `"wiener"` or `"richardson_lucy"`.
        flip: whether the kernel is a point-spread function, as for `convolve`, instead of the kernel of `correlate`;
            a `Fit` is read correctly in either case.
        balance: for `"wiener"`, the weight of the penalty, above zero: larger is smoother.
        iterations: for `"richardson_lucy"`, the number of iterations, 1 or more.
        mask: for `"richardson_lucy"`, booleans, True where the image is missing; they broadcast to the image.
        axes, channel_axis: as for `filter_image`.
        progress: whether to show a progress bar on stderr, for `"richardson_lucy"`.

    Returns:
        The picture, in the layout and size of `image` and in its float dtype, or float64 for integers.
        `"richardson_lucy"` also estimates the pixels outside the frame that the image depends on, `"wiener"` takes a
        mirror image for them; both cut them off. Planes without any pixel are NaN, with a warning. If the kernel sums
        to 0, `"wiener"` warns that the mean of the picture is unknown.

    Raises:
        ConvolithError: an unknown method or option, a complex or empty image, axes that can be read in two ways, a
            kernel that is zero or not finite, a `Fit` with channels, stride or dilation; for `"wiener"`, pixels that
            are not finite, a mask, or scikit-image that is not installed; for `"richardson_lucy"`, infinite pixels, and
            an image or a kernel whose negative values exceed 1% of the sum of magnitudes.

    References:
        Orieux, Giovannelli and Rodet, J. Opt. Soc. Am. A 27, 2010 (Wiener's filter); Richardson, J. Opt. Soc. Am. 62,
        1972; Lucy, Astron. J. 79, 1974.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> picture = np.zeros((32, 32))
        >>> picture[12:20, 10:14] = 1.0
        >>> kernel = cl.kernels.gaussian(1.5)
        >>> blurred = cl.filter_image(picture, kernel, padding_mode="symmetric")
        >>> sharper = cl.deconvolve(blurred, kernel, method="richardson_lucy")
        >>> float(np.abs(sharper - picture).mean()) < 0.6 * float(np.abs(blurred - picture).mean())
        True
    """
    check_option("method", method, METHODS)
    if isinstance(kernel, Fit):
        kernel, flip = _of_fit(kernel), True
    image, kernel = listed("image", image), listed("kernel", kernel)
    image, mask = unmasked("image", image, mask, "omit")
    picture, taps = as_tensor("image", image), as_tensor("kernel", kernel)
    if picture.is_complex() or taps.is_complex():
        raise ConvolithError("image or kernel is complex; deconvolve takes real pictures")
    places = picture_axes(tuple(picture.shape), tuple(taps.shape), axes, channel_axis)
    if not picture.numel():
        raise ConvolithError(f"image has shape {tuple(picture.shape)}; expected at least one pixel")
    psf = taps.detach().cpu().to(torch.float64)
    psf = psf if check_flag("flip", flip) else psf.flip(tuple(range(psf.ndim)))
    if not torch.isfinite(psf).all() or not psf.any():
        raise ConvolithError(f"kernel is {shown(kernel)}; expected finite weights that are not all zero")
    last = tuple(range(-len(places), 0))
    moved = picture.detach().cpu().to(torch.float64).movedim(places, last)
    planes = moved.reshape(-1, 1, *moved.shape[-len(places) :])
    if method == "wiener":
        if mask is not None:
            raise ConvolithError('mask was given, but method "wiener" takes none; pass method="richardson_lucy"')
        result = _wiener(planes, psf, balance)
    else:
        missing = planes.isnan()
        if mask is not None:
            missing |= checked_mask(mask, "image", picture).cpu().movedim(places, last).reshape(planes.shape)
        result = _richardson_lucy(planes, psf, missing, check_whole("iterations", iterations, 1), shown_bar=progress)
    dtype = picture.dtype if picture.is_floating_point() else torch.float64
    return like(result.reshape(moved.shape).movedim(last, places).to(dtype).to(picture.device), image)


def _of_fit(found: Fit) -> Any:
    """Return the point-spread function of a fit of one channel."""
    spec = found.spec
    if found.kernel.shape[:2] != (1, 1) or max(spec.stride) > 1 or max(spec.dilation) > 1:
        raise ConvolithError(
            f"kernel is a fit of kernel shape {tuple(found.kernel.shape)} with stride {spec.stride} and dilation "
            f"{spec.dilation}; expected one channel in and out, without stride and dilation"
        )
    return found.psf[0, 0]


def _wiener(planes: torch.Tensor, psf: torch.Tensor, balance: float) -> torch.Tensor:
    """Apply Wiener's filter to each plane, continued by its mirror image as far as the kernel reaches."""
    if not is_number(balance) or balance <= 0:
        raise ConvolithError(f"balance is {balance!r}; expected a positive number")
    if not torch.isfinite(planes).all():
        raise ConvolithError(
            'image has pixels that are not finite, which method "wiener" cannot leave out; '
            'pass method="richardson_lucy", or fill them first'
        )
    try:
        from skimage.restoration import uft, wiener
    except ImportError:
        raise missing_extra("scikit-image", "image", 'deconvolve with method "wiener"') from None
    inner = tuple(slice(k, k + n) for k, n in zip(psf.shape, planes.shape[2:], strict=True))
    results = []
    size = tuple(n + 2 * k for k, n in zip(psf.shape, planes.shape[2:], strict=True))
    penalty, _ = uft.laplacian(len(size), size, is_real=True)
    if float(psf.sum().abs()) <= NO_SUM * float(psf.abs().sum()):
        warn("kernel sums to 0, so that image holds nothing of the picture's mean; the result lacks a constant")
        penalty = penalty.copy()
        penalty[(0,) * len(size)] = 1.0  # where both are 0, the filter would divide 0 by 0
    for plane in planes[:, 0].numpy():
        wide = np.pad(plane, [(k, k) for k in psf.shape], mode="symmetric")
        results.append(wiener(wide, psf.numpy(), float(balance), reg=penalty.astype(complex), clip=False)[inner])
    return torch.from_numpy(np.stack(results)[:, None]) if results else planes


def _richardson_lucy(
    planes: torch.Tensor, psf: torch.Tensor, missing: torch.Tensor, iterations: int, *, shown_bar: bool
) -> torch.Tensor:
    """Multiply an estimate by the mean ratio of the image to its prediction, time after time.

    The estimate extends beyond the frame as far as the kernel reaches, and pixels that are missing have no ratio, so
    that neither border nor gaps need assumptions.
    """
    if not planes.numel():
        return planes
    counts = _nonnegative("image", torch.where(missing, 0.0, planes), "add the background that was subtracted")
    psf = _nonnegative("kernel", psf, 'fit it with constraints="nonnegative"')
    psf = (psf / psf.sum())[None, None]
    mirrored = psf.flip(tuple(range(2, psf.ndim)))
    there = (~missing).to(torch.float64)
    seen = correlate(there, psf, padding="full")
    level = counts.sum() / there.sum().clamp_min(1.0)
    visible = seen > LEAST_SEEN
    estimate = torch.where(visible, level, 0.0)
    floor = LEAST_PREDICTED * counts.amax().clamp_min(torch.finfo(torch.float64).tiny)
    for _ in track(range(iterations), "iterations", iterations, shown=shown_bar):
        predicted = correlate(estimate, mirrored)
        ratio = there * counts / predicted.clamp_min(floor)
        change = correlate(ratio, psf, padding="full") / seen.clamp_min(LEAST_SEEN)
        estimate = estimate * torch.where(visible, change, 0.0)
    inner: Any = tuple(  # the kernel's centre is that of `filter_image`
        slice(k - 1 - k // 2, k - 1 - k // 2 + n) for k, n in zip(psf.shape[2:], planes.shape[2:], strict=True)
    )
    return _without_anything(estimate[(..., *inner)], missing)


def _without_anything(result: torch.Tensor, missing: torch.Tensor) -> torch.Tensor:
    """Return NaN for planes of which every pixel is missing, with a warning."""
    none = missing.flatten(1).all(1)
    if not bool(none.any()):
        return result
    which = "" if bool(none.all()) else f" in {int(none.sum()):,} of {len(none):,} planes"
    warn(f"all pixels of image are missing{which}; so are those of the result")
    return torch.where(none.reshape(-1, *[1] * (result.ndim - 1)), float("nan"), result)


def _nonnegative(argument: str, values: torch.Tensor, advice: str) -> torch.Tensor:
    """Return values with negligible negative ones set to 0; refuse others."""
    if not torch.isfinite(values).all():
        raise ConvolithError(f"{argument} has infinite values; expected finite ones, or NaN where pixels are missing")
    kept = values.clamp_min(0.0)
    if float((kept - values).sum()) > NEGLIGIBLE * float(values.abs().sum()):
        raise ConvolithError(
            f'{argument} has a least value of {float(values.amin()):g}; method "richardson_lucy" expects 0 or more; '
            f'{advice}, or pass method="wiener"'
        )
    return kept
