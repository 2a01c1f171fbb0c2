"""`plan`: how a correlation of an array that is larger than memory is computed, and its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from convolith.big.arguments import block_given
from convolith.big.blocks import Filter
from convolith.big.filters import filter_of
from convolith.big.layout import Layout, block_of, bytes_of, check_blocks, lay_out, readable
from convolith.big.running import BigReport, Run, is_here
from convolith.big.stores.journal import Journal, alone
from convolith.big.stores.metadata import moved
from convolith.big.stores.places import IN_MEMORY, Place, RemotePath, place_of
from convolith.big.stores.sources import TIFF, ZARR, ZARR_FILES, Source, open_source
from convolith.big.stores.targets import Target
from convolith.big.stores.tiff_target import Description, target_of
from convolith.errors import ConvolithError
from convolith.geometry import Axes, Padding
from convolith.report.html_page import fragment
from convolith.report.progress import Meter, State
from convolith.report.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class BigPlan:
    """A correlation from store to store, before it runs; `cl.big.plan` returns it. Print it for a table.

    Attributes:
        source: the source, with its `shape`, `dtype`, `axes` (names, or None) and `nodata`.
        target: the target, or None.
        filter: the correlation of one block, with its `kernel`, `engine` and `out_dtype`.
        layout: division of the result: its `shape`, the shape of a `block`, the number of `blocks`, and
            `predicted_bytes`, the peak of memory.
        memory: bytes that the run may take.
        fingerprint: everything that the result depends on, by which `run` recognises an interrupted run.
    """

    source: Source
    target: Target | None
    filter: Filter
    layout: Layout
    memory: int
    fingerprint: Mapping[str, Any]

    @property
    def read_bytes(self) -> int:
        """Bytes of decoded pixels that a run reads."""
        return int(prod(self.source.shape) * self.source.dtype.itemsize * self.layout.amplification)

    @property
    def written_bytes(self) -> int:
        """Bytes of pixels that a run writes."""
        return prod(self.layout.shape) * self.filter.out_dtype.itemsize

    @property
    def _taps(self) -> tuple[int, ...]:
        """Shape of the kernel, with channels if it mixes them."""
        shape = self.filter.kernel.shape
        return shape[2:] if self.filter.channels is None else shape

    def tables(self) -> list[Table]:
        """Return the plan as tables."""
        sizes = {
            "source": " x ".join(map(str, self.source.shape)) + f" {self.source.dtype}",
            "kernel": " x ".join(map(str, self._taps))
            + f" along axes {', '.join(map(str, self.filter.geometry.axes))}",
            "result": " x ".join(map(str, self.layout.shape)) + f" {self.filter.out_dtype}",
            "blocks": f"{self.layout.blocks:,} of " + " x ".join(map(str, self.layout.block)),
            "engine": self.filter.engine,
            "read": f"{readable(self.read_bytes)}, each pixel "
            + ("once" if self.layout.amplification == 1 else f"{self.layout.amplification:.3g} times"),
            "written": readable(self.written_bytes),
            "peak of memory": f"{readable(self.layout.predicted_bytes)} of {readable(self.memory)} that may be taken",
            "of which": f"{readable(self.layout.cache_bytes)} of chunks, {self.layout.in_flight} x "
            f"{readable(self.layout.job_bytes)} of blocks",
        }
        return [Table.of_properties("Plan", sizes)]

    def __repr__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def _repr_html_(self) -> str:
        """Return the tables as HTML for notebooks."""
        return fragment(self.tables())

    def run(
        self,
        executor: Executor | None = None,
        *,
        resume: bool = True,
        skip_bad: bool = False,
        progress: bool = True,
        in_flight: int | None = None,
        listener: Callable[[State], object] | None = None,
    ) -> BigReport:
        """Compute and store every block; the result appears at its place when it is complete.

        Args:
            executor: where blocks are computed: any executor of `concurrent.futures`, such as one of worker processes
                (started by "spawn"), or that of a `distributed.Client`. By default two threads of its own, each of
                which reads, computes and writes blocks with half of the cores. In worker processes each block takes one
                thread, and `memory` is per process.
            resume: whether to continue an interrupted run of this plan; False starts anew.
            skip_bad: whether blocks whose source cannot be read are filled with missing pixels and reported.
            progress: whether to show a progress bar on stderr.
            in_flight: number of blocks that are processed at a time. By default, for threads of this process, the
                `layout.in_flight` of the plan: 2, or 1 if memory is short; for worker processes, two for each core of
                this machine, those that wait for a worker included.
            listener: function that is called with the state of the run whenever a block, or a part of a TIFF file, is
                stored: `phase`, `done` of `total`, `bytes`, `bytes_per_second`, `seconds_left`.

        Returns:
            A `BigReport`: blocks, bytes, times, memory, and the pixels that were clipped or are missing.

        Raises:
            ConvolithError: no target, another process that writes to it, a journal of another plan, a source that has
                changed, a block that cannot be read or written, or, with worker processes, a source or a target in this
                process's memory. Blocks that were stored are kept, for `resume`.

        Example:
            >>> import os, tempfile
            >>> import numpy as np
            >>> import convolith as cl
            >>> target = os.path.join(tempfile.mkdtemp(), "blurred.zarr")
            >>> planned = cl.big.plan(np.ones((300, 400), np.float32), np.ones((5, 5)) / 25, target)
            >>> planned.run(progress=False).blocks
            1
        """
        if self.target is None:
            raise ConvolithError("the plan has no target; pass target= to plan a run")
        if not is_here(executor):
            self._check_places()
        with alone(self.target.lock):
            fingerprint = {**self.fingerprint, "sample": self.source.sample()}
            journal = Journal(self.target.journal, fingerprint, self.layout.counts)
            run = Run(self.source, self.target, self.filter, self.layout, journal)
            try:
                resumed = run.begin(resume=resume)
                report = run(executor, in_flight, resumed, skip_bad=skip_bad, progress=progress, listener=listener)
            finally:
                journal.close()
            with Meter("writing", self.written_bytes, shown=progress, listener=listener) as meter:
                self.target.finish(lambda count: meter.step(count, count))
            journal.remove()
        return report

    def _check_places(self) -> None:
        """Refuse places that other processes do not see."""
        places = {"source": self.source.path, "target": None if self.target is None else self.target.path}
        for name, place in places.items():
            if isinstance(place, RemotePath) and place.scheme == IN_MEMORY:
                raise ConvolithError(
                    f"{name} is {str(place)!r}, in the memory of this process, which those of the executor do not see; "
                    "leave executor= out, or choose a place that they share"
                )


def plan(
    source: Any,
    kernel: Any,
    target: str | Path | None = None,
    *,
    memory: str | int = "1GB",
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
    compressed: bool | None = None,
) -> BigPlan:
    """Plan a correlation of an array that is larger than memory, from store to store.

    The result is computed block by block: the part of the source that a block depends on is read, correlated and
    written. Decoded chunks of the source stay in memory as long as the following blocks need them. The result depends
    on the shape of the blocks, not on the memory, their order, or interruptions. Print the plan to see how much a run
    reads, writes and keeps in memory; its `run` computes the result.

    Args:
        source: a folder or a URL (such as "s3://...") with a Zarr array, or with an OME-Zarr image, whose finest level
            is read; a TIFF, .npy or FITS file; an open Zarr array, or anything that can be sliced and has a shape and a
            dtype.
        kernel: an array with one axis for each of `axes`, which filters every picture and channel separately, or
            (out_channels, in_channels / groups, *kernel_size), which mixes channels; or a `Conv`.
        target: folder of the Zarr array to write, or name of a TIFF file; an existing one is replaced once the result
            is complete. Or the URL of a Zarr array that does not exist yet (object stores cannot replace one array by
            another); its attribute `convolith_complete` is false until all blocks are written. None for a plan that is
            only printed.
        memory: bytes that a run may take in addition to what the process has: a number, or a text such as "2GB", which
            is 2 * 2^30 bytes.
        axes: the axes of the source that the kernel slides along, as numbers, or as names that the source has ("yx").
            By default its axes of space, or the last ones.
        channel_axis: the axis of the channels that a kernel with channels mixes; by default the one before `axes`.
        missing: effect of missing pixels (NaN, and `nodata`): "propagate" makes every result missing that reads one;
            "renormalise" leaves them out and scales the sum, as `nan="omit"` of `correlate` does; a number takes their
            place.
        nodata: number that stands for a missing pixel, in the source and in the result; by default the source's own.
        dtype: dtype of the result, "same" for the source's. By default that of the source, or float32 for integers.
            Integers are rounded half to even and clipped.
        bias, stride, dilation, groups, padding_mode, padding_value, flip, engine, accuracy: as for `correlate`.
        padding: as for `correlate`; by default "same", or "valid" for a kernel with channels.
        block: shape of the blocks and chunks of the result, or one size; by default near those of the source.
        compressed: whether the result is compressed, without loss: a Zarr array by Zstandard, a TIFF file by Deflate.
            By default it is, unless the source is a Zarr array or a TIFF file without compression.

    Returns:
        A `BigPlan`.

    Raises:
        ConvolithError: a source that cannot be read, axes that are not clear, a kernel that does not fit, a target that
            cannot be written or that holds the source, too little memory, and whatever `correlate` refuses.

    Example:
        >>> import numpy as np
        >>> import convolith as cl
        >>> image = np.zeros((3000, 4000), np.float32)
        >>> cl.big.plan(image, np.ones((5, 5)) / 25, memory="200MB").layout.blocks
        12
    """
    about = open_source(source)
    wanted = filter_of(
        about,
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
    return _planned(about, wanted, target, block, bytes_of(memory), compressed)


def _planned(
    source: Source,
    wanted: Filter,
    target: str | Path | None,
    block: Axes | None,
    memory: int,
    compressed: bool | None,  # noqa: FBT001 - as its caller's keyword
) -> BigPlan:
    """Choose the blocks, the engine and the layout of a filter."""
    geometry, channels = wanted.result_geometry(source.shape), wanted.channels
    shape, whole = geometry.output_shape, () if channels is None else (channels,)
    blocks = block_of(geometry, source.chunks, whole) if block is None else block_given(block, shape, whole)
    check_blocks(shape, blocks)
    window = wanted.window_shape(blocks, source.shape)
    engine, workspace = wanted.engine_of(window)
    chosen = wanted.with_engine(engine)
    job = chosen.job_bytes(source.dtype, window, blocks) + workspace
    layout = lay_out(geometry, source.decoded_chunks, source.dtype.itemsize, blocks, job, memory)
    goal: Target | None = None
    compressed = source.compressed if compressed is None else compressed
    if target is not None:
        about = f"correlate with a kernel of {wanted.kernel.shape}"
        attributes, group, names = moved(source, wanted.geometry, about, wanted.nodata)
        fill = wanted.nodata if wanted.nodata is not None else np.nan if wanted.out_dtype.kind == "f" else 0
        inner = source.chunks if getattr(source.array, "shards", None) else None
        slid, dtype = wanted.geometry.axes, wanted.out_dtype
        goal = target_of(
            Description(
                _linked(place_of(target, "target")),
                shape,
                blocks,
                dtype,
                names,
                slid,
                attributes,
                fill,
                group,
                inner,
                compressed,
            )
        )
        _check_target(goal, source)
        if goal.finish_bytes > layout.in_flight * job:
            layout = lay_out(geometry, source.decoded_chunks, source.dtype.itemsize, blocks, goal.finish_bytes, memory)
    fingerprint = {"source": source.fingerprint(), **chosen.fingerprint(), "shape": list(shape), "block": list(blocks)}
    fingerprint["compressed"] = compressed
    return BigPlan(source, goal, chosen, layout, memory, fingerprint)


def _linked(place: Place) -> Place:
    """Return the place that a link leads to, where the result is written, so that the link stays.

    Raises:
        ConvolithError: a name that no file can have.
    """
    if isinstance(place, RemotePath):
        return place
    try:
        place.with_name(place.name + ".partial.journal").exists()  # the longest of the names that a run writes
        return place.resolve() if place.is_symlink() else place
    except (OSError, RuntimeError, ValueError) as problem:
        raise ConvolithError(
            f"target is {str(place)[:200]!r}, which cannot be written ({problem}); choose another place"
        ) from problem


def _check_target(target: Target, source: Source) -> None:
    """Refuse a result that would replace its own source, or something that is no result, or that has no folder."""
    path = target.path
    if source.path is not None:
        ours, theirs = path.resolve(), source.path.resolve()
        if ours == theirs or ours in theirs.parents or theirs in ours.parents:
            raise ConvolithError(f"target is {str(path)!r}, which holds the source, or lies in it; choose another")
    if isinstance(path, RemotePath):
        return
    if not path.parent.is_dir():
        raise ConvolithError(f"target is {str(path)!r}, but there is no folder {path.parent}; create it")
    if path.suffix.lower() in TIFF or not path.exists() or path.suffix == ZARR:
        return
    if not path.is_dir() or (any(path.iterdir()) and not any((path / name).exists() for name in ZARR_FILES)):
        raise ConvolithError(
            f"target is {str(path)!r}, which is there and is no Zarr array, so that it is not replaced; remove it, or "
            "choose another name"
        )
