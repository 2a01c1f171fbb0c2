"""Opening of the sources of a fit: what their axes are, and whether x and y fit together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, NamedTuple

import numpy as np

from convolith.big.arguments import IMAGE_AXES, axis_numbers
from convolith.big.fitting.stacks import WEIGHING, Aligned, Roles, Stack
from convolith.big.layout import SIDES
from convolith.big.stores.metadata import unit_of
from convolith.big.stores.sources import Source, open_source
from convolith.big.windows import Geometry, geometry_of
from convolith.errors import ConvolithError
from convolith.fitting.data.problem import check_output
from convolith.fitting.data.shapes import inner_part
from convolith.fitting.data.units import warn_of_units
from convolith.geometry import per_axis
from convolith.spec import ConvSpec


class SourceOptions(NamedTuple):
    """Options that say what the sources are read as.

    Attributes:
        axes, channel_axis, pair_axis, nodata, origin: as for `fit`.
        marks: `mask`, `x_mask`, `weights` and `variance` of `fit`, those that are given.
    """

    axes: Any
    channel_axis: Any
    pair_axis: Any
    nodata: Any
    origin: Any
    marks: Mapping[str, Any] = {}


def stacks_of(x: Any, y: Any, kernel_size: Any, given: SourceOptions, options: dict[str, Any]) -> list[Stack]:
    """Open the sources of x and y.

    Args:
        x, y: a source each, or a list of as many sources.
        kernel_size: as for `fit`, or a function that gives it for the least length of x along each axis.
        given: what the axes and the pixels are.
        options: stride, padding, dilation and padding_mode.

    Raises:
        ConvolithError: sources that cannot be read, or that do not fit together.
    """
    several = isinstance(x, list | tuple)
    if several != isinstance(y, list | tuple) or (several and len(x) != len(y)):
        counts = [f"{len(part)} sources" if isinstance(part, list | tuple) else "one source" for part in (x, y)]
        raise ConvolithError(f"x is {counts[0]} but y {counts[1]}; expected lists of as many sources, or one each")
    names = [("x", "y")] if not several else [(f"x[{n}]", f"y[{n}]") for n in range(len(x))]
    pairs = list(zip(x, y, strict=True)) if several else [(x, y)]
    if not pairs:
        raise ConvolithError("x is an empty list; expected at least one source")
    opened = [
        (open_source(one, name), open_source(other, other_name))
        for (one, other), (name, other_name) in zip(pairs, names, strict=True)
    ]
    roles = [
        _roles(*both, None if callable(kernel_size) else kernel_size, given, name)
        for both, name in zip(opened, names, strict=True)
    ]
    if callable(kernel_size):
        shapes = [
            [source.shape[axis] for axis in own.axes] for (source, _), (own, _) in zip(opened, roles, strict=True)
        ]
        for (one, other), (own, of_y) in zip(opened, roles, strict=True):
            if [one.shape[axis] for axis in own.axes] != [other.shape[axis] for axis in of_y.axes]:
                raise ConvolithError(
                    f'y has shape {other.shape} but x {one.shape}; kernel_size="auto" expects both of one size; pass a '
                    "number"
                )
        if len({len(shape) for shape in shapes}) > 1:
            raise ConvolithError(
                "the sources of x have different numbers of axes that the kernel slides along; pass axes, as many for "
                "each"
            )
        kernel_size = kernel_size([min(lengths) for lengths in zip(*shapes, strict=True)])
    marks = _marks(given.marks, len(opened), several=several)
    stacks = [
        _stack(*both, *own, kernel_size, given, options, name, about)
        for both, own, name, about in zip(opened, roles, names, marks, strict=True)
    ]
    channels = {(stack.spec.in_channels, stack.spec.out_channels, len(stack.spec.size)) for stack in stacks}
    if len(channels) > 1:
        raise ConvolithError(
            f"the sources have {' and '.join(f'{a} -> {b} channels' for a, b, _ in sorted(channels))}; expected the "
            "same channels and axes in all of them"
        )
    return stacks


def _roles(x: Source, y: Source, kernel_size: Any, given: SourceOptions, names: tuple[str, str]) -> tuple[Roles, Roles]:
    """Return the roles of the axes of x and y, one of which may lack the axis of the channels."""
    more = len(y.shape) - len(x.shape)
    larger, name = (y, names[1]) if more > 0 else (x, names[0])
    count = len(larger.shape)
    axes = _spatial(larger, kernel_size, given.axes, name)
    rest = [axis for axis in range(count) if axis not in axes]
    channel = None
    if given.channel_axis is not None:
        (channel,) = axis_numbers("channel_axis", given.channel_axis, larger, name)
    pairs = tuple(axis for axis in rest if axis != channel)
    if given.pair_axis is not None:
        along = axis_numbers("pair_axis", given.pair_axis, larger, name)
        others = [axis for axis in pairs if axis not in along]
        if len(others) > 1 or (others and channel is not None) or not {*along} <= {*pairs}:
            raise ConvolithError(
                f"pair_axis is {given.pair_axis!r}, but {name} has shape {larger.shape}, of which the kernel slides "
                f"along axes {axes}; expected all others but that of the channels"
            )
        channel, pairs = others[0] if others else channel, tuple(sorted(along))
    if channel in axes:
        raise ConvolithError(
            f"channel_axis is {given.channel_axis!r}, along which the kernel slides (axes {axes}); expected another "
            "axis"
        )
    own = Roles(axes, channel, pairs)
    if more and (abs(more) > 1 or channel is None):
        raise ConvolithError(
            f"{names[0]} has shape {x.shape} but {names[1]} {y.shape}; expected as many axes, or one more for the "
            "channels of one of them, with channel_axis="
        )
    roles = (own.without_channel() if more > 0 else own), (own.without_channel() if more < 0 else own)
    warn_of_units(unit_of(x), unit_of(y))
    if not more and x.axes and y.axes and x.axes != y.axes:
        raise ConvolithError(
            f"{names[0]} has axes {' '.join(x.axes)} but {names[1]} {' '.join(y.axes)}; expected the same order"
        )
    return roles


def _spatial(source: Source, kernel_size: Any, axes: Any, name: str) -> tuple[int, ...]:
    """Return the axes that a kernel slides along: those given, those with names of space, or the last ones."""
    wanted = len(kernel_size) if isinstance(kernel_size, Sequence | np.ndarray) else None
    if axes is not None:
        places = axis_numbers("axes", axes, source, name)
        if len(places) != (wanted or len(places)) or len(places) > len(SIDES):
            raise ConvolithError(
                f"axes is {axes!r} and kernel_size {kernel_size!r}; expected an axis for each entry of kernel_size, 1 "
                f"to {len(SIDES)}"
            )
        return places
    count = len(source.shape)
    named = [n for n, axis in enumerate(source.axes or ()) if axis in IMAGE_AXES]
    if named and (wanted or 1) <= len(named):
        return tuple(named[-(wanted or len(named)) :])
    wanted = min(2, count) if wanted is None else wanted
    if not 1 <= wanted <= min(count, len(SIDES)):
        raise ConvolithError(
            f"kernel_size has {wanted} entries but {name} has shape {source.shape}; expected one for each axis that "
            f"the kernel slides along, 1 to {min(count, len(SIDES))}"
        )
    return tuple(range(count - wanted, count))


def _stack(
    x: Source,
    y: Source,
    x_roles: Roles,
    y_roles: Roles,
    kernel_size: Any,
    given: SourceOptions,
    options: dict[str, Any],
    names: tuple[str, str],
    marks: Mapping[str, Source],
) -> Stack:
    """Check that x and y have the shapes of a correlation; a y as large as x loses its border, as in `fit`."""
    counts = [tuple(source.shape[a] for a in own.pairs) for source, own in ((x, x_roles), (y, y_roles))]
    if counts[0] != counts[1]:
        raise ConvolithError(
            f"{names[0]} has shape {x.shape} but {names[1]} {y.shape}; expected the same number of pairs along axes "
            f"{x_roles.pairs}"
        )
    size, size_y = (tuple(s.shape[a] for a in own.axes) for s, own in ((x, x_roles), (y, y_roles)))
    axes = len(size)
    spec = ConvSpec(
        batch=prod(counts[0]),
        in_channels=1 if x_roles.channel is None else x.shape[x_roles.channel],
        out_channels=1 if y_roles.channel is None else y.shape[y_roles.channel],
        size=size,
        kernel_size=per_axis("kernel_size", kernel_size, axes, 1),
        dtype="float64",
        **options,
    )
    origin = per_axis("origin", given.origin, axes, -max(size))
    plain = max(spec.stride) == 1 and isinstance(options["padding"], str) and options["padding"] == "valid"
    first_x = first_y = (0,) * axes
    if plain and size_y == size and (spec.output_size != size or any(origin)):
        border = inner_part(size, spec.kernel_size, spec.dilation, origin)
        first_x, first_y = (tuple(part.start for part in parts) for parts in (border.of_x, border.of_y))
        spec = replace(spec, size=tuple(part.stop - part.start for part in border.of_x))
    elif any(origin):
        raise ConvolithError(
            f"origin is {origin} with a y of spatial size {size_y} and an x of {size}; it applies to a y as large as "
            "x, with padding 'valid' and stride 1; elsewhere give padding as (before, after) pairs"
        )
    else:
        check_output(spec, (spec.batch, spec.out_channels, *size_y))
    geometry = _windows(x, x_roles, spec, options)
    values = given.nodata if isinstance(given.nodata, tuple | list) else (given.nodata, given.nodata)
    if len(values) != 2:
        raise ConvolithError(f"nodata is {given.nodata!r}; expected a number, or one for x and one for y")
    nodata = (_nodata(x, values[0], names[0]), _nodata(y, values[1], names[1]))
    aligned = {}
    for name, mark in marks.items():
        on_x = name == "x_mask"
        own = _aligned(name, mark, x if on_x else y, x_roles if on_x else y_roles, names[not on_x])
        aligned[name] = Aligned(mark, own, _windows(mark, own, spec, options) if on_x else None)
    return Stack(x, y, x_roles, y_roles, spec, geometry, first_x, first_y, nodata, aligned)


def _windows(source: Source, roles: Roles, spec: ConvSpec, options: dict[str, Any]) -> Geometry:
    """Return how the kernel slides over the part of a source that counts."""
    shape = list(source.shape)
    for axis, n in zip(roles.axes, spec.size, strict=True):
        shape[axis] = n
    return geometry_of(shape, spec.kernel_size, roles.axes, **options)


def _marks(given: Mapping[str, Any], count: int, *, several: bool) -> list[dict[str, Source]]:
    """Open what is said about the pixels of each of several sources: one of each kind for all, or as many."""
    result: list[dict[str, Source]] = [{} for _ in range(count)]
    for name, value in given.items():
        each = several and isinstance(value, list | tuple)
        if each and len(value) != count:
            raise ConvolithError(f"{name} is {len(value)} sources; expected one, or one for each of {count}")
        values = value if each else [value]
        opened = [open_source(one, f"{name}[{n}]" if each else name) for n, one in enumerate(values)]
        for source in opened:
            if name not in WEIGHING and source.dtype.kind == "f":
                raise ConvolithError(
                    f"{name} has dtype {source.dtype}; expected booleans or integers, not 0 where a pixel is left out"
                )
        for number, marks in enumerate(result):
            marks[name] = opened[number if each else 0]
    return result


def _aligned(name: str, mark: Source, onto: Source, roles: Roles, whose: str) -> Roles:
    """Return the roles of the axes of what is said about the pixels of a source."""
    shape = onto.shape
    ways = {shape: roles}
    if roles.channel is not None:
        ways = ways if name not in WEIGHING else {}
        ways[tuple(n for axis, n in enumerate(shape) if axis != roles.channel)] = roles.without_channel()
    order = sorted(roles.axes)
    ways.setdefault(tuple(shape[axis] for axis in order), Roles(tuple(order.index(a) for a in roles.axes), None, ()))
    if mark.shape not in ways:
        expected = " or ".join(map(str, ways))
        raise ConvolithError(f"{name} has shape {mark.shape}, but {whose} {shape}; expected {expected}")
    return ways[mark.shape]


def _nodata(source: Source, given: Any, name: str) -> float | None:
    """Return the number that stands for a missing pixel: the given one, or the source's own."""
    if given is None:
        return source.nodata
    if not isinstance(given, int | float | np.number):
        raise ConvolithError(f"nodata is {given!r}; expected a number, or one for x and one for y")
    if source.dtype.kind in "iu":
        limits = np.iinfo(source.dtype)
        if not float(given).is_integer() or not limits.min <= given <= limits.max:
            raise ConvolithError(
                f"nodata is {given}, which the dtype {source.dtype} of {name} does not hold; expected an integer from "
                f"{limits.min} to {limits.max}"
            )
    return float(given)
