"""Correlation of an image or an array with a kernel, for `convolith correlate`."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Any

import click
import numpy as np

from convolith.big.stores.places import selected
from convolith.big.stores.sources import why_not_in_blocks
from convolith.cli.io.files import WRITABLE, Output, Written, read_array, read_kernel, read_picture, read_varying
from convolith.cli.io.fits import Unit
from convolith.cli.io.fits_headers import carried
from convolith.cli.io.picture_info import named_axes
from convolith.cli.io.results import ALPHA, ALPHA_NOTICE, not_finite, say_changed, say_overflow, summary
from convolith.cli.io.stores import correlate_store, is_read_in_blocks, is_store
from convolith.cli.options import emit
from convolith.cli.words import in_words_of_the_command
from convolith.conv import Conv
from convolith.correlation import correlate, filter_image
from convolith.correlation.images import FEW_CHANNELS
from convolith.dtypes import is_float
from convolith.errors import ConvolithError
from convolith.fitting import VaryingKernel
from convolith.geometry import Grid, grids
from convolith.report.table import Table


def run(source: str, kernel: str, output: str | None, *, flip: bool, as_json: bool, **options: Any) -> None:
    """Correlate INPUT with KERNEL, write the result, and print a row about it; the parameters are the options."""
    ctx = click.get_current_context()
    if _of_a_store(ctx, source, kernel, output, options, flip=flip, as_json=as_json):
        return
    target = None if output is None else Output(output, WRITABLE)
    unit = read_picture("INPUT", source)
    x, picture = unit.array, unit.picture
    if target:
        target.refuse_input(source)
    if not x.size or not x.ndim:
        raise ConvolithError(f"INPUT has shape {x.shape}; expected at least one axis and one pixel")
    if isinstance(options["axes"], str):
        options["axes"] = named_axes(options["axes"], unit.info.axes, x.ndim)
    if picture and x.ndim == 3 and x.shape[2] in ALPHA:
        click.echo(f"warning: {ALPHA_NOTICE}", err=True)
    names = ("stride", "padding", "dilation", "groups", "padding_mode", "padding_value")
    chosen = {name: options[name] for name in names if _was_given(ctx, name)}
    mask = None if options["mask"] is None else read_array("--mask", options["mask"]) != 0
    engine = {name: options[name] for name in ("engine", "accuracy", "nan", "dtype")} | {"flip": flip, "mask": mask}
    if mask is not None and mask.ndim == x.ndim - 1 and picture:
        engine["mask"] = mask = mask[..., None]  # one mask for all channels
    missing = _missing(x, mask)
    if missing == x.size and mask is None and options["nan"] == "propagate":
        click.echo("warning: all pixels of INPUT are missing", err=True)
    varying = read_varying("KERNEL", kernel, chosen)
    if varying is not None:
        _refuse_engine(ctx)
        y, applied = _varying(x, varying, channels_last=picture), varying.options
        applied = applied | {"kernel_size": varying.weights.shape[3:]}
    else:
        places = {name: options[name] for name in ("axes", "origin") if _was_given(ctx, name)}
        read = read_kernel("KERNEL", kernel, chosen)
        if not picture and _is_one_picture(x) and not isinstance(read, Conv) and read.shape[:2] == (1, 1):
            places = {"axes": (x.ndim - 2, x.ndim - 1)} | places
        with in_words_of_the_command() as said:
            y = _through(x, read, dict(chosen), engine, places, picture=picture)
        if not any("not finite" in one for one in said) and np.isfinite(options["padding_value"]):
            taps = np.asarray(read.weight if isinstance(read, Conv) else read)
            say_overflow(x, taps, y, masked=mask is not None)
        if isinstance(read, Conv):
            applied = read.options | {"kernel_size": read.kernel_size, "axes": places.get("axes")}
        else:
            applied = _usual(read, x, places, picture=picture) | chosen | {"axes": places.get("axes")}
        origin = np.asarray(places.get("origin", 0))
        applied |= {"moved": (origin if flip else -origin).tolist()}
    history = f"correlate {source} with {kernel}"
    written = None if target is None else _write(target, y, unit, applied, history, given=options["dtype"] is not None)
    counted = missing or options["nan"] != "propagate" or mask is not None
    row = summary(y, written, missing if counted else None)
    shapes = {name: " x ".join(map(str, shape)) for name, shape in (("input", x.shape), ("output", y.shape))}
    data = {"input": x.shape, "output": y.shape} | {name.replace(" ", "_"): one for name, one in row.items()}
    data |= {"missing": missing} | {f"{name}_results": count for name, count in not_finite(y).items()}
    data |= {"clipped": written.clipped if written else 0, "written_to": output}
    emit(as_json=as_json, data=data, tables=[Table("Correlated", [shapes | row | {"written to": output or "-"}])])


def _write(target: Output, y: np.ndarray, unit: Unit, applied: dict[str, Any], history: str, *, given: bool) -> Written:
    """Write a result with the notes of its input, and warn of what the file does not hold.

    Args:
        target, y, unit: the output, the result and the input.
        applied: options of the correlation.
        history: what was done, for a FITS header.
        given: whether the user chose the dtype.
    """
    x, moved = unit.array, _grids(applied, unit.array.shape, picture=unit.picture)
    header = None if unit.header is None else carried(unit.header, moved, x.ndim, history)
    samples = _has_samples(unit, y, applied.get("axes"))
    info = unit.info.after(moved, recoloured=samples and y.shape[-1:] != x.shape[-1:])
    like = y.dtype if given else x.dtype
    written = target.write_array(y, like, header, picture=unit.picture, samples=samples, exact=given, info=info)
    say_changed(y, like, written, target.ending)
    return written


def _has_samples(unit: Unit, y: np.ndarray, axes: Any) -> bool:
    """Return whether the last axis of a result holds the channels of a pixel, of a picture or of each of a stack."""
    named = unit.info.axes.endswith("S") and y.ndim == unit.array.ndim
    before_last = axes is not None and tuple(np.atleast_1d(axes) % y.ndim) == (y.ndim - 3, y.ndim - 2)
    few = y.ndim > 2 and 1 < y.shape[-1] <= FEW_CHANNELS
    return (named or before_last or (unit.picture and y.ndim == 3)) and few


OF_A_RUN = ("resume", "skip_bad", "scheduler")
STORES_ALONE = ("missing", "nodata", "memory", "compressed", *OF_A_RUN)
"""Options that apply to a store, and those of them that say how it is run."""
PAIRS = {"resume": "--resume/--anew", "compressed": "--compressed/--uncompressed"}
"""Options with two names."""


def _of_a_store(
    ctx: click.Context,
    source: str,
    kernel: str,
    output: str | None,
    options: dict[str, Any],
    *,
    flip: bool,
    as_json: bool,
) -> bool:
    """Correlate block by block and return True, or check the options for a correlation in memory.

    Blocks are for a store as INPUT or output, and for a file that can be read in blocks if `--memory` is given.
    """
    if is_store(source) or is_store(output) or (is_read_in_blocks(source) and _was_given(ctx, "memory")):
        given = {n: value for n, value in options.items() if _was_given(ctx, n) and n not in OF_A_RUN}
        given |= {"flip": True} if flip else {}
        correlate_store(source, kernel, output, given, as_json=as_json, **{name: options[name] for name in OF_A_RUN})
        return True
    for name in STORES_ALONE:
        if _was_given(ctx, name):
            words = PAIRS.get(name, f"--{name.replace('_', '-')}")
            reason = why_not_in_blocks(selected(source)[0])
            if name == "memory" and reason is not None:
                raise ConvolithError(
                    f"--memory was given, but INPUT is {source}, which cannot be read block by block: it {reason}, or "
                    "leave --memory out"
                )
            others = ", and to a .tif, .npy, .npz or .fits INPUT" if name == "memory" else ", or with --memory"
            raise ConvolithError(f"{words} was given; it applies to a store, such as scan.zarr{others}; leave it out")
    return False


def _is_one_picture(x: np.ndarray) -> bool:
    """Return whether an array of three axes or more is a single real picture, as FITS cubes of one plane are."""
    return x.ndim > 2 and x[..., :1, :1].size == 1 and not np.iscomplexobj(x)


def _is_signal(x: np.ndarray, kernel: np.ndarray | Conv) -> bool:
    """Return whether both have one axis, so that there is one way to read them."""
    return not isinstance(kernel, Conv) and x.ndim == kernel.ndim == 1


def _bare(kernel: np.ndarray | Conv, places: dict[str, Any]) -> np.ndarray | None:
    """Return a kernel without its axes of channels, or None if it has several channels or options of its own."""
    if isinstance(kernel, Conv):
        return None
    if kernel.ndim == 4 and kernel.shape[:2] == (1, 1):
        plane: np.ndarray = kernel[0, 0]
        return plane
    along_all = kernel.ndim == len(np.atleast_1d(places.get("axes", ()))) > 2
    return kernel if kernel.ndim == 1 or along_all else None


def _usual(kernel: np.ndarray, x: np.ndarray, places: dict[str, Any], *, picture: bool) -> dict[str, Any]:
    """Return the size of a kernel from a list or an array, and the padding that it has by default."""
    bare, plain = _bare(kernel, places), x.ndim == 2 or (x.ndim == 3 and picture) or _is_signal(x, kernel)
    if bare is None:
        return {"kernel_size": kernel.shape[2:], "padding": 0}
    return {"kernel_size": bare.shape, "padding": "same" if places or plain else 0}


def _grids(applied: dict[str, Any], shape: tuple[int, ...], *, picture: bool) -> dict[int, Grid]:
    """Return where the result's pixels lie among those of the input, by axis of the input."""
    kernel_size = tuple(applied["kernel_size"])
    axes = (0, 1) if applied.get("axes") is None and picture else applied.get("axes")
    places = range(len(shape) - len(kernel_size), len(shape)) if axes is None else np.atleast_1d(axes) % len(shape)
    size = tuple(shape[place] for place in places)
    geometry = (applied.get("stride", 1), applied.get("padding", 0), applied.get("dilation", 1))
    shifts = np.broadcast_to(applied.get("moved", 0), len(size))
    lying = zip(grids(size, kernel_size, *geometry), map(int, shifts), strict=True)
    moved = [grid._replace(start=grid.start + shift) for grid, shift in lying]
    return dict(zip(map(int, places), moved, strict=True))


def _through(
    x: np.ndarray,
    kernel: np.ndarray | Conv,
    given: dict[str, Any],
    engine: dict[str, Any],
    places: dict[str, Any],
    *,
    picture: bool,
) -> np.ndarray:
    """Correlate x with a constant kernel: each channel separately, or all channels together."""
    shape = (kernel.weight if isinstance(kernel, Conv) else kernel).shape
    single = len(shape) == 4 and shape[:2] == (1, 1)
    bare, plain = _bare(kernel, places), x.ndim == 2 or (x.ndim == 3 and picture) or _is_signal(x, kernel)
    if bare is not None and (places or plain) and not np.iscomplexobj(x) and not np.iscomplexobj(bare):
        if given.pop("groups", 1) != 1:
            raise ConvolithError("--groups was given; it applies to a kernel with channels; leave --groups out")
        mode = {} if "padding_mode" in given else {"padding_mode": "symmetric"}
        options = {"padding": "same"} | mode | given | engine | {"origin": places.get("origin", 0)}
        y: np.ndarray = filter_image(x, bare, axes=places.get("axes", (0, 1)[: x.ndim]), **options)
        return y
    k = _matched(kernel, x)
    if "origin" in places:
        raise ConvolithError(
            "--origin was given; it applies to a real kernel without channels and options of its own; leave it out"
        )
    if single and (plain or "axes" in places):
        usual = {} if isinstance(k, Conv) else {"padding": "same", "padding_mode": "symmetric"}
        return _along_axes(x, k, usual | given | engine, places.get("axes", (0, 1)))
    if places:
        raise ConvolithError("--axes was given; it applies to a kernel without channels; leave --axes out")
    if engine["mask"] is not None and picture and x.ndim == 3:
        engine = engine | {"mask": np.moveaxis(engine["mask"], -1, 0)}
    if single and not isinstance(k, Conv) and x.ndim > 2 and x.shape[-3] != shape[1]:
        end = x.ndim - (x.ndim > 3 and x.shape[-1] <= FEW_CHANNELS)  # colours come last
        other = f", for one picture with {x.shape[-1]} channels --axes 0,1" if x.ndim == 3 else ""
        raise ConvolithError(
            f"INPUT has shape {x.shape} and the kernel two axes; for a stack of {prod(x.shape[: end - 2])} pictures "
            f"pass --axes {end - 2},{end - 1}{other}"
        )
    if not isinstance(k, Conv) and k.ndim == x.ndim == 3 and not picture and len(x) != shape[1]:
        raise ConvolithError(
            f"INPUT has shape {x.shape} and KERNEL {shape}; for a kernel along all three axes pass --axes 0,1,2"
        )
    return _all_channels(x, k, given | engine, channels_last=picture and len(shape) == 4)


def _along_axes(x: np.ndarray, kernel: np.ndarray | Conv, options: dict[str, Any], axes: Any) -> np.ndarray:
    """Correlate along some axes of x with a kernel of one channel, separately for every place on the other axes."""
    places = np.atleast_1d(axes)
    last = range(-len(places), 0)

    def planes(array: np.ndarray) -> np.ndarray:
        moved = np.moveaxis(array, places, last)
        return moved.reshape(-1, 1, *moved.shape[-len(places) :])

    if options["mask"] is not None:
        options = options | {"mask": planes(np.broadcast_to(options["mask"], x.shape))}
    y: np.ndarray = correlate(planes(x), kernel, **options)
    others = [n for axis, n in enumerate(x.shape) if axis not in places % x.ndim]
    return np.moveaxis(y.reshape(*others, *y.shape[2:]), last, places)


def _missing(x: np.ndarray, mask: np.ndarray | None) -> int:
    """Return the number of missing pixels."""
    none = np.isnan(x) if x.dtype.kind in "fc" else np.zeros(x.shape, bool)
    if mask is None:
        return int(none.sum())
    try:
        return int((none | mask).sum())
    except ValueError:
        raise ConvolithError(f"--mask has shape {mask.shape}; expected that of INPUT, {x.shape}") from None


def _varying(x: np.ndarray, kernel: VaryingKernel, *, channels_last: bool) -> np.ndarray:
    """Apply a kernel that varies with position; the image is x."""
    if is_float(str(x.dtype)) and not np.iscomplexobj(x):
        sky = None if kernel.background is None else kernel.background.astype(x.dtype)
        kernel = replace(kernel, weights=kernel.weights.astype(x.dtype), background=sky)
    planes = np.moveaxis(x[..., None], -1, 0) if x.ndim == 2 else np.moveaxis(x, -1, 0) if channels_last else x
    each = kernel.weights.shape[1:3] == (1, 1) and channels_last
    y: np.ndarray = kernel.apply(planes[:, None] if each else planes)
    y = y[:, 0] if each else y
    if x.ndim == 2:
        return y[0] if len(y) == 1 else y
    return np.moveaxis(y, 0, -1) if channels_last else y


def _refuse_engine(ctx: click.Context) -> None:
    for name in ("engine", "accuracy", "flip", "nan", "mask", "dtype", "axes", "origin", "padding_value"):
        if _was_given(ctx, name):
            option = f"--{name.replace('_', '-')}"
            raise ConvolithError(
                f"{option} was given, but the kernel varies with position and has its own options; leave {option} out"
            )


def _was_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT


def _matched(kernel: np.ndarray | Conv, x: np.ndarray) -> np.ndarray | Conv:
    """Return the kernel in the float dtype of x, since files of images and kernels often differ in dtype."""
    weight = kernel.weight if isinstance(kernel, Conv) else kernel
    if not is_float(str(x.dtype)) or (np.iscomplexobj(weight) and not np.iscomplexobj(x)):
        return kernel
    with np.errstate(over="ignore"):
        narrow = weight.astype(x.dtype)
    if np.isfinite(weight).all() and not np.isfinite(narrow).all():
        raise ConvolithError(f"KERNEL has weights beyond {x.dtype.name}, the dtype of INPUT; pass INPUT as float64")
    if not isinstance(kernel, Conv):
        return narrow
    return Conv(weight.astype(x.dtype), None if kernel.bias is None else kernel.bias.astype(x.dtype), **kernel.options)


def _all_channels(x: np.ndarray, kernel: Any, options: dict[str, Any], *, channels_last: bool) -> np.ndarray:
    """Correlate all channels of x with a kernel with channels; the channels of images come last."""
    if not channels_last:
        y: np.ndarray = correlate(x, kernel, **options)
        return y
    y = correlate(np.moveaxis(x[..., None] if x.ndim == 2 else x, -1, 0), kernel, **options)
    return y[0] if len(y) == 1 else np.moveaxis(y, 0, -1)
