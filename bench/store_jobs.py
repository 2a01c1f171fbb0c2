"""Jobs of `python -m bench big`, each in a process of its own: `python -m bench.store_jobs JOB JSON`.

A job prints its seconds, and the peak of memory in addition to what the process had after its imports.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], dict[str, Any] | None]
THREADS = 2
"""Threads of every contender."""


def gaussian(size: int) -> np.ndarray:
    """A float32 kernel that sums to 1; no product of two vectors, so that all compute the same sums."""
    line = np.hanning(size + 2)[1:-1]
    kernel = np.outer(line, line) * (1 + 0.1 * np.cos(np.arange(size**2).reshape(size, size)))
    return (kernel / kernel.sum()).astype(np.float32)


def walk(
    source: str, target: str, size: int, memory: str = "1GB", *, resume: bool = False, workers: int = 0, **options: Any
) -> Work:
    """Convolith, from store to store, in this process or in worker processes of one thread."""
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from contextlib import nullcontext

    from convolith import big

    kernel = gaussian(size)
    pool: Any = nullcontext()
    if workers:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        list(pool.map(time.sleep, [0.5] * workers))  # started, and then warm
        list(pool.map(_warm, range(workers)))

    def run() -> dict[str, Any]:
        plan = big.plan(source, kernel, target, memory=memory, padding_mode="symmetric", **options)
        with pool as executor:
            report = plan.run(executor, resume=resume, progress=False)
        read = report.read_bytes / (np.prod(plan.source.shape) * plan.source.dtype.itemsize)
        phases = {name: report.seconds[name] for name in ("read", "compute", "write")}
        return {"predicted": report.predicted_bytes, "reads": read, "limit": plan.memory, **phases}

    return run


def _warm(_: int) -> None:
    """Import what a worker needs."""
    from convolith import big

    big.plan(np.zeros((8, 8), np.float32), np.ones((3, 3), np.float32))
    time.sleep(0.5)


def copy(source: str, target: str, memory: str = "1GB") -> Work:
    """Every block as it is, by the same walk."""
    from concurrent.futures import ThreadPoolExecutor

    from convolith import big
    from convolith.big.stores.cache import Chunks
    from convolith.big.walk import walk as walked

    def run() -> None:
        plan = big.plan(source, np.ones((1, 1), np.float32), target, memory=memory)
        chunks, place = Chunks(plan.source, plan.layout.cache_bytes), plan.layout.place
        goal: Any = plan.target
        goal.create()

        def copied(numbers: tuple[int, ...]) -> None:
            goal.write(place(numbers), chunks.part(place(numbers))[0])

        with ThreadPoolExecutor(plan.layout.in_flight) as pool, goal.few_threads(THREADS):
            jobs = walked(plan.layout.order(), copied, pool, plan.layout.in_flight)
            for _, future in jobs:
                future.result()
        goal.finish(lambda _: None)

    return run


def zarr_copy(source: str, target: str) -> Work:
    """Every chunk as it is, by Zarr alone, by two threads."""
    from concurrent.futures import ThreadPoolExecutor
    from itertools import product

    import zarr

    def run() -> None:
        array = zarr.open_array(source, mode="r")
        made = zarr.create_array(
            target, shape=array.shape, chunks=array.chunks, dtype=array.dtype, compressors=array.compressors or None
        )

        def copied(corner: tuple[int, ...]) -> None:
            place = tuple(slice(start, start + c) for start, c in zip(corner, array.chunks, strict=True))
            made[place] = array[place]

        starts = product(*(range(0, n, c) for n, c in zip(array.shape, array.chunks, strict=True)))
        with ThreadPoolExecutor(THREADS) as pool, zarr.config.set({"threading.max_workers": THREADS}):
            list(pool.map(copied, starts))

    return run


def whole(source: str, target: str, size: int) -> Work:
    """Everything in memory: read, correlate, write."""
    import zarr

    import convolith as cl

    kernel = gaussian(size)

    def run() -> None:
        array = zarr.open_array(source, mode="r")
        y = cl.filter_image(array[...], kernel, padding_mode="symmetric")
        made = zarr.create_array(target, shape=y.shape, chunks=array.chunks, dtype=y.dtype, overwrite=True)
        made[...] = y

    return run


def _stored(made: Any, target: str) -> None:
    """Write a Dask array as its chunks are computed, by two threads."""
    import dask
    import dask.array as da
    import zarr

    goal = zarr.create_array(
        target, shape=made.shape, chunks=[n[0] for n in made.chunks], dtype=made.dtype, overwrite=True
    )
    with dask.config.set(scheduler="threads", num_workers=THREADS):
        da.store(made, goal, lock=False)


def dask_image(source: str, target: str, size: int) -> Work:
    """`dask_image.ndfilters.correlate`."""
    import dask.array as da
    from dask_image import ndfilters

    kernel = gaussian(size)
    return lambda: _stored(ndfilters.correlate(da.from_zarr(source), kernel, mode="reflect"), target)


def overlap(source: str, target: str, size: int, by: str = "cv2") -> Work:
    """`dask.array.map_overlap` over OpenCV, or over `cl.filter_image`."""
    import cv2
    import dask.array as da

    import convolith as cl

    kernel, depth = gaussian(size), size // 2

    def opencv(block: np.ndarray) -> np.ndarray:
        return cv2.filter2D(block, -1, kernel)

    def convolith(block: np.ndarray) -> np.ndarray:
        return cl.filter_image(block, kernel)  # type: ignore[no-any-return]  # an array, as its input

    function = opencv if by == "cv2" else convolith

    def run() -> None:
        array = da.from_zarr(source)
        _stored(da.map_overlap(function, array, depth=depth, boundary="reflect", dtype=array.dtype), target)

    return run


def vips(source: str, target: str, size: int, kind: str = "float") -> Work:
    """libvips, from tiled TIFF to tiled TIFF."""
    import pyvips

    pyvips.concurrency_set(THREADS)
    kernel = gaussian(size)

    def run() -> None:
        image = pyvips.Image.new_from_file(source, access="sequential")
        if kind == "integer":
            taps = np.rint(kernel / kernel.max() * 64).astype(int)
            made = image.conv(pyvips.Image.new_from_list(taps.tolist(), scale=int(taps.sum())), precision="integer")
        else:
            made = image.conv(pyvips.Image.new_from_list(kernel.astype(float).tolist()), precision="float")
        made.tiffsave(target, tile=True, tile_width=512, tile_height=512, bigtiff=True, compression="none")

    return run


def fit(source: str, target: str, size: int, memory: str = "1GB") -> Work:
    """The kernel between two stores of pairs."""
    from convolith import big

    def run() -> dict[str, Any]:
        found = big.fit(source, target, kernel_size=size, axes=(1, 2), memory=memory, progress=False)
        share = found.seconds["update"] / (found.seconds["update"] + found.seconds["read"] + found.seconds["solve"])
        return {"predicted": found.predicted_bytes, "updates": share}

    return run


JOBS: dict[str, Callable[..., Work]] = {
    job.__name__: job for job in (walk, copy, zarr_copy, whole, dask_image, overlap, vips, fit)
}


def resident(name: str, process: int | str = "self") -> int:
    """Return a line of what Linux says about the memory of a process, by default of this one, in bytes."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def main() -> None:
    """Run the job that the command line names."""
    import torch

    torch.set_num_threads(THREADS)
    name, arguments = sys.argv[1], json.loads(sys.argv[2])
    work = JOBS[name](**arguments)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of the imports
    before, start = resident("VmRSS"), time.perf_counter()
    found = work() or {}
    found |= {"seconds": time.perf_counter() - start, "peak": resident("VmHWM") - before}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
