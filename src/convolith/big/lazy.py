"""`correlate` for Dask: the result is a Dask array, whose blocks are computed when Dask asks for them."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from itertools import product
from threading import Lock
from typing import Any

import numpy as np

from convolith.big.arguments import block_given
from convolith.big.blocks import Filter, computing
from convolith.big.filters import filter_of
from convolith.big.layout import block_of, check_blocks
from convolith.big.stores.cache import Chunks, Reading
from convolith.big.stores.places import needed
from convolith.big.stores.sources import Source, open_source
from convolith.big.windows import Window
from convolith.geometry import Axes, Padding

CACHE_BYTES = 256 << 20
"""Bytes of decoded chunks of a store that each process keeps for the blocks that read them next."""
MOST_SOURCES = 4
"""Number of stores whose chunks a process keeps."""


def correlate(
    x: Any,
    kernel: Any,
    *,
    axes: Any = None,
    channel_axis: int | None = None,
    missing: str | float = "propagate",
    nodata: float | None = None,
    dtype: Any = None,
    bias: Any = None,
    stride: Axes = 1,
    padding: Padding | None = None,
    dilation: Axes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
    padding_value: float = 0.0,
    flip: bool = False,
    engine: str = "auto",
    accuracy: str = "default",
    block: Axes | None = None,
) -> Any:
    """Return the correlation as a Dask array, whose blocks are computed when they are needed.

    If x is a store (a path, or an open Zarr array), each block of the result is one task that reads the pixels that it
    depends on by itself, so that no block waits for another. Pass the store itself, not `dask.array.from_zarr` of it.
    If x is a Dask array, each block depends on all chunks of x that it reads.

    Args:
        x: a Dask array, or a source as for `cl.big.plan`.
        kernel: an array or a `Conv`, as for `cl.big.plan`.
        axes, channel_axis, missing, nodata, dtype: as for `cl.big.plan`.
        bias, stride, padding, dilation, groups, padding_mode, padding_value: as for `cl.big.plan`.
        flip, engine, accuracy: as for `cl.big.plan`.
        block: shape of the result's chunks, or one size; by default near those of x.

    Returns:
        A Dask array of the result's shape, dtype and chunks.

    Raises:
        ConvolithError: as for `cl.big.plan`; Dask is not installed (extra `cluster`).

    Example:
        >>> import dask.array as da
        >>> import numpy as np
        >>> import convolith as cl
        >>> x = da.ones((300, 400), chunks=(100, 100), dtype=np.float32)
        >>> y = cl.big.correlate(x, np.ones((5, 5), np.float32), padding_mode="symmetric")
        >>> y.chunks[0], float(y[0, 0])
        ((300,), 25.0)
    """
    da = needed("dask.array", "cluster")
    source = open_source(x, "x")
    wanted = filter_of(
        source,
        kernel,
        axes=axes,
        channel_axis=channel_axis,
        missing=missing,
        nodata=nodata,
        dtype=dtype,
        bias=bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
        padding_value=padding_value,
        flip=flip,
        engine=engine,
        accuracy=accuracy,
    )
    geometry, whole = wanted.result_geometry(source.shape), () if wanted.channels is None else (wanted.channels,)
    shape = geometry.output_shape
    sizes = block_of(geometry, source.chunks, whole) if block is None else block_given(block, shape, whole)
    check_blocks(shape, sizes)
    wanted = wanted.with_engine(wanted.engine_of(wanted.window_shape(sizes, source.shape))[0])
    chunks = tuple(tuple(min(b, n - start) for start in range(0, n, b)) for b, n in zip(sizes, shape, strict=True))
    empty = np.empty((0,) * len(shape), wanted.out_dtype)
    if not isinstance(x, da.Array):
        task = Block(source, wanted, chunks)
        return da.map_blocks(task, chunks=chunks, dtype=wanted.out_dtype, meta=empty, name=task.name())
    return _of_parts(x, wanted, chunks, empty)


class Block:
    """The task of one block of a result: `block_id` is its number along each axis."""

    def __init__(self, source: Source, filter_: Filter, chunks: tuple[tuple[int, ...], ...]) -> None:
        self.source, self.filter, self.chunks = source, filter_, chunks

    def name(self) -> str:
        """Return a name that two tasks have if they give the same results, by which Dask knows them."""
        about = {"source": self.source.fingerprint(), "name": self.source.name, **self.filter.fingerprint()}
        text = json.dumps(about | {"chunks": self.chunks}, sort_keys=True, default=str)
        return f"correlate-{hashlib.sha256(text.encode()).hexdigest()[:32]}"

    def __call__(self, block_id: tuple[int, ...]) -> np.ndarray:
        window = _window(self.filter, self.source.shape, self.chunks, block_id)
        return Part(self.filter, window)(window.read(Reading(_kept(self.source))))


class Part:
    """The computation of one block from what its window covers."""

    def __init__(self, filter_: Filter, window: Window) -> None:
        self.filter, self.window = filter_, window

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        padded = self.filter.padded(self.window, np.asarray(pixels))
        with computing:
            return self.filter.compute(padded).pixels


def _window(
    filter_: Filter, shape: tuple[int, ...], chunks: tuple[tuple[int, ...], ...], numbers: Sequence[int]
) -> Window:
    """Return the window of a block, by its number along each axis."""
    starts = [sum(sizes[:number]) for sizes, number in zip(chunks, numbers, strict=True)]
    place = tuple(
        slice(start, start + sizes[number]) for start, sizes, number in zip(starts, chunks, numbers, strict=True)
    )
    return filter_.whole_channels(filter_.geometry.window(place), shape)


def _of_parts(x: Any, wanted: Filter, chunks: tuple[tuple[int, ...], ...], empty: np.ndarray) -> Any:
    """Return the correlation of a Dask array: a task for each block, with the part of the array that it reads."""
    da, delayed = needed("dask.array", "cluster"), needed("dask", "cluster").delayed
    blocks = np.empty([len(sizes) for sizes in chunks], object)
    for numbers in product(*(range(len(sizes)) for sizes in chunks)):
        window = _window(wanted, x.shape, chunks, numbers)
        part = x
        for axis, span in enumerate(window.spans):
            pieces = [part[(slice(None),) * axis + (slice(*one),)] for one in span.ranges]
            part = pieces[0] if len(pieces) == 1 else da.concatenate(pieces, axis)
        made = delayed(Part(wanted, window), pure=False, traverse=False)(part)
        shape = [sizes[number] for sizes, number in zip(chunks, numbers, strict=True)]
        blocks[numbers] = da.from_delayed(made, shape, meta=empty)
    return da.block(blocks.tolist())


_sources: OrderedDict[str, Chunks] = OrderedDict()
_opening = Lock()


def _kept(source: Source) -> Any:
    """Return what a block reads from: the chunks of a store, which this process keeps, or the array itself."""
    if source.decoded_chunks is None or source.path is None:
        return source.array
    name = f"{source.path} {source.fingerprint()}"
    with _opening:
        found = _sources.get(name)
        if found is None:
            found = _sources[name] = Chunks(source, CACHE_BYTES)
            while len(_sources) > MOST_SOURCES:
                _sources.popitem(last=False)
        return found
