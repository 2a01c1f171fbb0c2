"""`python -m bench big`: arrays larger than memory, from store to store, each contender in a process of its own.

The data lie in the page cache: what is timed is decoding, computing, encoding and copying, not a disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import dask
import numpy as np

import convolith as cl
from bench.runs import Run, json_option
from bench.timing import PAUSE

Job = tuple[str, Mapping[str, Any]]
PARTS = ("copy", "whole", "memory", "dask", "overlap", "vips", "workers", "model", "fit", "kills")
MB = 1 << 20


def picture(side: int, seed: int = 0) -> np.ndarray:
    """A photograph again and again, with noise: float32 as calibrated pictures have it, which hardly compresses."""
    from skimage import data

    camera = data.camera().astype(np.float32)
    tiles = np.tile(camera, (-(-side // len(camera)), -(-side // len(camera))))[:side, :side]
    noise = np.random.default_rng(seed).standard_normal((512, side), np.float32)
    for start in range(0, side, 512):
        tiles[start : start + 512] += noise[: side - start] * np.sqrt(tiles[start : start + 512]) / 4
    return tiles


class Stores:
    """Arrays in a folder, made when a row asks for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def zarr(self, side: int, chunk: int = 1024, *, raw: bool = False) -> str:
        """A Zarr array of float32."""
        import zarr

        path = self.folder / f"{side}-{chunk}{'-raw' if raw else ''}.zarr"
        if not path.exists():
            made = zarr.create_array(
                str(path), shape=(side, side), chunks=(chunk, chunk), dtype="f4", compressors=None if raw else "auto"
            )
            made[...] = picture(side)
        return str(path)

    def pairs(self, count: int, k: int) -> tuple[str, str]:
        """Zarr arrays of pictures, and of the same blurred, with noise."""
        import zarr

        from bench.store_jobs import gaussian

        paths = [self.folder / f"pairs-{count}-{name}.zarr" for name in "xy"]
        if not paths[1].exists():
            about = {"shape": (count, 1024, 1024), "chunks": (1, 1024, 1024), "dtype": "f4", "overwrite": True}
            x, y = (zarr.create_array(str(path), **about) for path in paths)
            for number in range(count):
                one = picture(1024, number)
                x[number] = one
                noise = np.random.default_rng(number).standard_normal(one.shape, np.float32)
                y[number] = cl.filter_image(one, gaussian(k)) + noise
        return str(paths[0]), str(paths[1])

    def tiff(self, side: int, dtype: str) -> str:
        """A tiled TIFF."""
        import tifffile

        path = self.folder / f"{side}-{dtype}.tif"
        if not path.exists():
            pixels = picture(side).clip(0, 255).astype(dtype)
            tifffile.imwrite(path, pixels, tile=(512, 512), bigtiff=True)
        return str(path)

    def result(self, name: str, suffix: str = ".zarr") -> str:
        """Place of a result."""
        return str(self.folder / f"result-{name}{suffix}")


def measured(job: Job) -> dict[str, Any]:
    """Run a job in a process of its own."""
    name, arguments = job
    time.sleep(10 * PAUSE)
    command = [sys.executable, "-m", "bench.store_jobs", name, json.dumps(arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - our own
    if ended.returncode:
        raise click.ClickException(f"{name} {arguments}: {ended.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    if name != "fit":
        _remove(Path(arguments["target"]))
    return found


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def raced(jobs: Mapping[str, Job], rounds: int) -> dict[str, dict[str, Any]]:
    """Run jobs in turn; of each figure the median of the rounds."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    names = list(jobs)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(measured(jobs[name]))
    return {name: {key: median([one[key] for one in many]) for key in many[0]} for name, many in found.items()}


def walked(source: str, target: str, size: int, **options: Any) -> Job:
    """Convolith's walk."""
    return "walk", {"source": source, "target": target, "size": size, **options}


def copies(stores: Stores, side: int, rounds: int) -> list[dict[str, Any]]:
    """The walk against a copy by the same walk, and against one by Zarr alone."""
    rows = []
    for raw in (False, True):
        source = stores.zarr(side, raw=raw)
        jobs: dict[str, Job] = {"copy": ("copy", {"source": source, "target": stores.result("copy")})}
        jobs |= {f"k={k}": walked(source, stores.result(f"walk{k}"), k) for k in (3, 31)}
        jobs["zarr"] = ("zarr_copy", {"source": source, "target": stores.result("zarr")})
        jobs["copy again"] = ("copy", {"source": source, "target": stores.result("again")})
        times = raced(jobs, rounds)
        rows += [
            {
                "source": "raw" if raw else "zstd",
                "k": k,
                "walk, s": times[f"k={k}"]["seconds"],
                "copy, s": times["copy"]["seconds"],
                "walk / copy": times[f"k={k}"]["seconds"] / times["copy"]["seconds"],
                "walk / Zarr's copy": times[f"k={k}"]["seconds"] / times["zarr"]["seconds"],
                "chunks fetched": times[f"k={k}"]["reads"],
                "control": times["copy again"]["seconds"] / times["copy"]["seconds"],
            }
            for k in (3, 31)
        ]
    return rows


def against(jobs: Mapping[str, Job], rounds: int, **about: Any) -> dict[str, Any]:
    """A row of the walk, which is the first job, against a peer, which is the second."""
    times = raced(jobs, rounds)
    ours, peer = times.values()
    return {
        **about,
        "walk, s": ours["seconds"],
        "peer, s": peer["seconds"],
        "peer / walk": peer["seconds"] / ours["seconds"],
        "walk, MB": ours["peak"] / MB,
        "peer, MB": peer["peak"] / MB,
        "memory, walk / peer": ours["peak"] / peer["peak"],
    }


def wholes(stores: Stores, side: int, rounds: int) -> list[dict[str, Any]]:
    """The walk against reading, correlating and writing everything in memory."""
    source = stores.zarr(side)
    jobs: dict[str, Job] = {
        "walk": walked(source, stores.result("walk"), 31, memory="400MB"),
        "whole": ("whole", {"source": source, "target": stores.result("whole"), "size": 31}),
    }
    return [against(jobs, rounds, side=side, k=31)]


def memories(stores: Stores, side: int) -> list[dict[str, Any]]:
    """What was promised, predicted and measured."""
    rows = []
    for memory in ("256MB", "1GB", "4GB"):
        found = measured(walked(stores.zarr(side), stores.result("memory"), 31, memory=memory))
        rows.append(
            {
                "memory": memory,
                "predicted, MB": found["predicted"] / MB,
                "measured, MB": found["peak"] / MB,
                "measured / memory": found["peak"] / found["limit"],
                "predicted / measured": found["predicted"] / found["peak"],
                "chunks fetched": found["reads"],
            }
        )
    return rows


def dasks(stores: Stores, rounds: int) -> list[dict[str, Any]]:
    """Against dask-image, and `map_overlap` over OpenCV."""
    rows = []
    for side, k in ((8192, 7), (4096, 31), (2048, 101)):
        source = stores.zarr(side)
        for name, job, options in (("dask-image", "dask_image", {}), ("map_overlap, OpenCV", "overlap", {"by": "cv2"})):
            jobs: dict[str, Job] = {
                "walk": walked(source, stores.result("walk"), k),
                "peer": (job, {"source": source, "target": stores.result("peer"), "size": k, **options}),
            }
            few = 1 if job == "dask_image" and k > 7 else rounds
            rows.append(against(jobs, few, peer=name, side=side, k=k))
    return rows


def overlaps(stores: Stores, side: int, rounds: int) -> list[dict[str, Any]]:
    """Against `map_overlap` over the same engines."""
    rows = []
    for chunk in (1024, 256):
        source = stores.zarr(side, chunk)
        jobs: dict[str, Job] = {
            "walk": walked(source, stores.result("walk"), 7),
            "peer": ("overlap", {"source": source, "target": stores.result("peer"), "size": 7, "by": "convolith"}),
        }
        rows.append(against(jobs, rounds, side=side, chunks=chunk, k=7))
    return rows


def libvips(stores: Stores, rounds: int) -> list[dict[str, Any]]:
    """Against libvips, from tiled TIFF to tiled TIFF."""
    rows = []
    for side, k, dtype, kind in ((16384, 7, "uint8", "integer"), (8192, 31, "float32", "float")):
        source = stores.tiff(side, dtype)
        options = {"dtype": "same"} if dtype == "uint8" else {}
        jobs: dict[str, Job] = {
            "walk": walked(source, stores.result("walk", ".tif"), k, **options),
            "peer": ("vips", {"source": source, "target": stores.result("vips", ".tif"), "size": k, "kind": kind}),
        }
        rows.append(against(jobs, rounds, pixels=dtype, side=side, k=k))
    return rows


def workers(stores: Stores, side: int, rounds: int) -> list[dict[str, Any]]:
    """Two worker processes with one thread against one process with two."""
    source = stores.zarr(side)
    jobs: dict[str, Job] = {
        "threads": walked(source, stores.result("threads"), 31),
        "processes": walked(source, stores.result("processes"), 31, workers=2),
    }
    times = raced(jobs, rounds)
    ours, theirs = (times[name]["seconds"] for name in ("processes", "threads"))
    row = {
        "side": side,
        "k": 31,
        "two processes, s": ours,
        "two threads, s": theirs,
        "processes / threads": ours / theirs,
    }
    return [row | {"chunks fetched, processes": times["processes"]["reads"]}]


def fits(stores: Stores, rounds: int) -> list[dict[str, Any]]:
    """Fits of 20 and of 200 pairs: the memory that they take, and the share of the time in updates of sums."""
    found = {}
    for count in (20, 200):
        source, target = stores.pairs(count, 21)
        found[count] = raced({"fit": ("fit", {"source": source, "target": target, "size": 21})}, rounds)["fit"]
    return [
        {
            "pairs": count,
            "k": 21,
            "s": one["seconds"],
            "predicted, MB": one["predicted"] / MB,
            "measured, MB": one["peak"] / MB,
            "peak / peak of 20": one["peak"] / found[20]["peak"],
            "share of updates": one["updates"],
        }
        for count, one in found.items()
    ]


def model(stores: Stores, side: int, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a start, and of each block, fitted on four sizes and checked on a fifth."""
    sides = [side // 8, side // 4, side // 2, side * 3 // 4, side]
    rows = []
    for k in (3, 31):
        found = raced({str(n): walked(stores.zarr(n), stores.result(str(n)), k) for n in sides}, rounds)
        blocks = np.array([(-(-n // 1024)) ** 2 for n in sides], float)
        seconds = np.array([found[str(n)]["seconds"] for n in sides])
        weights = 1 / seconds[:4]  # relative errors count
        columns = np.stack([np.ones(4), blocks[:4]], 1) * weights[:, None]
        (start, each), *_ = np.linalg.lstsq(columns, seconds[:4] * weights, rcond=None)
        last = found[str(side)]
        rows.append(
            {
                "k": k,
                "start, s": start,
                "block, ms": 1e3 * each,
                **{f"{phase}, ms": 1e3 * last[phase] / blocks[-1] for phase in ("read", "compute", "write")},
                "sides": ", ".join(map(str, sides[:4])),
                "checked on": side,
                "predicted, s": start + each * blocks[-1],
                "measured, s": seconds[-1],
                "predicted / measured": (start + each * blocks[-1]) / seconds[-1],
            }
        )
    return rows


def digest(path: str) -> str:
    """The sum of the decoded pixels of a Zarr array."""
    import zarr

    return hashlib.sha256(zarr.open_array(path, mode="r")[...].tobytes()).hexdigest()


def kills(stores: Stores) -> list[dict[str, Any]]:
    """Kills of the main process, with runs that go on, and of workers: the same pixels, and how much was redone."""
    source, side = stores.zarr(4096, 256), 4096
    options = {"block": (256, 256)}
    measured_once = stores.result("once")
    command = [sys.executable, "-m", "bench.store_jobs", "walk"]
    _finished(command, {"source": source, "target": measured_once, "size": 31, **options})
    expected, blocks = digest(measured_once), (side // 256) ** 2
    target, rng, redone, killed = stores.result("killed"), np.random.default_rng(0), [], 0
    journal = Path(target + ".partial.journal")
    arguments = {"source": source, "target": target, "size": 31, "resume": True, **options}
    while killed < MAIN_KILLS:
        _killed_after(_stored(journal) + int(rng.integers(2, 12)), journal, [*command, json.dumps(arguments)])
        killed += 1
        redone.append(_unjournalled(Path(target + ".partial"), journal))
    _finished(command, arguments)
    rows = [{"killed": "main process", "kills": killed, "blocks": blocks, "same pixels": digest(target) == expected}]
    rows[0] |= {"stored and redone, at most": max(redone), "in flight": 2}
    target = stores.result("workers")
    rows.append(
        _killed_workers(source, target, options) | {"blocks": blocks, "same pixels": digest(target) == expected}
    )
    return rows


MAIN_KILLS, WORKER_KILLS = 20, 50
"""Numbers of kills of the main process and of workers."""
MOST_SECONDS = 240
"""Seconds after which no further worker is killed: each takes some to start again."""


def _finished(command: Sequence[str], arguments: Mapping[str, Any]) -> None:
    subprocess.run([*command, json.dumps(arguments)], check=True, stdout=subprocess.DEVNULL)  # noqa: S603 - our own


def _killed_after(blocks: int, journal: Path, command: Sequence[str]) -> None:
    """Start a process, and kill it once a journal has a number of blocks."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: S603 - our own
    while process.poll() is None and _stored(journal) < blocks:
        time.sleep(0.01)
    process.kill()
    process.wait()


def _stored(journal: Path) -> int:
    """Number of the blocks of a journal."""
    return max(0, len(journal.read_text().splitlines()) - 1) if journal.exists() else 0


def _unjournalled(partial: Path, journal: Path) -> int:
    """Number of chunks that are there, and that a resumed run computes again since no line says so."""
    return sum(1 for path in partial.glob("c/*/*") if path.is_file()) - _stored(journal)


def _killed_workers(source: str, target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run on a cluster while its workers are killed, one after the other."""
    import distributed

    from bench.store_jobs import gaussian
    from convolith import big
    from convolith.big.cluster import connected

    killed, over, end = 0, threading.Event(), time.monotonic() + MOST_SECONDS

    def killing() -> None:
        nonlocal killed
        rng, journal = np.random.default_rng(1), Path(target + ".partial.journal")
        before = 0
        while killed < WORKER_KILLS and time.monotonic() < end and not over.wait(float(rng.uniform(0.05, 0.5))):
            # one that is killed while it starts is given up by its nanny, and with the last of them the run would wait
            running = [one for one in cluster.workers.values() if one.status == distributed.core.Status.running]
            alive = [nanny.pid for nanny in running if nanny.pid]
            stored = _stored(journal)
            if alive and stored not in (
                0,
                before,
            ):  # something was stored since the last one, so that runs come to an end
                os.kill(alive[int(rng.integers(len(alive)))], signal.SIGKILL)
                killed, before = killed + 1, stored

    settings = {"distributed.scheduler.allowed-failures": 100}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=None, silence_logs="CRITICAL") as cluster,
        connected(cluster.scheduler_address) as (executor, in_flight),
    ):
        thread = threading.Thread(target=killing)
        thread.start()
        try:
            while True:
                plan = big.plan(source, gaussian(31), target, padding_mode="symmetric", **options)
                plan.run(executor, in_flight=in_flight, resume=False, progress=False)
                if killed >= WORKER_KILLS or time.monotonic() > end:
                    break
        finally:
            over.set()
            thread.join()
    return {"killed": "workers", "kills": killed, "in flight": in_flight}


@click.command()
@click.option("--parts", multiple=True, type=click.Choice(PARTS), help="Parts to run; by default all.")
@click.option("--side", default=16384, show_default=True, help="Side of the large arrays, in pixels.")
@click.option("--rounds", default=3, show_default=True, help="Runs of each job; the medians count.")
@click.option("--folder", type=click.Path(file_okay=False, path_type=Path), help="Folder of the arrays.")
@json_option
def big(parts: Sequence[str], side: int, rounds: int, folder: Path | None, path: Path | None) -> None:
    """Time correlations from store to store against copies, Dask and libvips, with the memory that they take."""
    place = Path(tempfile.mkdtemp(prefix="bench-big-")) if folder is None else folder
    place.mkdir(parents=True, exist_ok=True)
    stores, run = Stores(place), Run("big", rounds=rounds)
    tables = {
        "copy": ("Walks against copies", lambda: copies(stores, side, rounds)),
        "whole": ("Everything in memory", lambda: wholes(stores, side, rounds)),
        "memory": ("Memory", lambda: memories(stores, side)),
        "dask": ("Dask", lambda: dasks(stores, rounds)),
        "overlap": ("map_overlap over the same engines", lambda: overlaps(stores, side, rounds)),
        "vips": ("libvips", lambda: libvips(stores, rounds)),
        "workers": ("Worker processes", lambda: workers(stores, side, rounds)),
        "model": ("A model of the time", lambda: model(stores, side, rounds)),
        "fit": ("Fits", lambda: fits(stores, rounds)),
        "kills": ("Kills", lambda: kills(stores)),
    }
    try:
        for part in parts or PARTS:
            title, rows = tables[part]
            found = rows()
            run.add(title, found)
            run.controls += [row["control"] for row in found if "control" in row and row["k"] == 3]
            run.write(path)
        run.close(path, complete=not parts)
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
