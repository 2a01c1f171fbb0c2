"""Results on a disk: written block by block beside their place, and moved there when they are complete."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import product
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from convolith.big.sources import needed
from convolith.errors import ConvolithError

PARTIAL, JOURNAL, LOCK, BEFORE = ".partial", ".partial.journal", ".lock", ".before"
"""Endings of names: of the unfinished result, its journal, its lock file, and an earlier result that is replaced."""


class ZarrTarget:
    """A Zarr array in a folder.

    Args:
        path: the folder that the result gets.
        shape, chunks, dtype: of the array.
        names: names of its axes, or None.
        attributes: attributes of the array; of the group around it, if `group` is given.
        fill_value: number that missing chunks stand for.
        group: name of the array within a group, or "" for an array alone.
        zarr_format: 2 or 3.
    """

    def __init__(
        self,
        path: Path,
        shape: Sequence[int],
        chunks: Sequence[int],
        dtype: np.dtype[Any],
        *,
        names: Sequence[str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        fill_value: float = 0,
        group: str = "",
        zarr_format: int = 3,
    ) -> None:
        self.zarr = needed("zarr", "big")
        self.path, self.partial = path, path.with_name(path.name + PARTIAL)
        self.shape, self.chunks, self.dtype = tuple(shape), tuple(chunks), np.dtype(dtype)
        self.names, self.attributes, self.fill_value = names, dict(attributes or {}), fill_value
        self.group, self.zarr_format = group, zarr_format
        self.array: Any = None

    @property
    def journal(self) -> Path:
        """Path of the journal."""
        return self.path.with_name(self.path.name + JOURNAL)

    @property
    def lock(self) -> Path:
        """Path of the lock file."""
        return self.path.with_name(self.path.name + LOCK)

    def create(self) -> None:
        """Make an empty array, in place of an unfinished one."""
        if self.partial.exists():
            shutil.rmtree(self.partial)
        place = str(self.partial)
        if self.group:
            self.zarr.open_group(place, mode="w", zarr_format=self.zarr_format, attributes=self.attributes)
            place = f"{place}/{self.group}"
        names: dict[str, Any] = {"attributes": {} if self.group else self.attributes}
        if self.names and self.zarr_format == 3:
            names["dimension_names"] = list(self.names)
        elif self.names:
            names["attributes"] = {**names["attributes"], "_ARRAY_DIMENSIONS": list(self.names)}
        self.array = self.zarr.create_array(
            place,
            shape=self.shape,
            chunks=self.chunks,
            dtype=self.dtype,
            fill_value=self.fill_value,
            zarr_format=self.zarr_format,
            overwrite=True,
            config={"write_empty_chunks": True},
            **names,
        )

    def reopen(self) -> None:
        """Open the array of an interrupted run.

        Raises:
            ConvolithError: if it is not there, or is another one.
        """
        place = str(self.partial / self.group) if self.group else str(self.partial)
        try:
            with self.zarr.config.set({"array.write_empty_chunks": True}):
                found = self.zarr.open_array(place, mode="r+")
        except Exception as problem:
            raise ConvolithError(
                f"{self.partial} cannot be opened ({problem}); start anew with resume=False (--anew)"
            ) from problem
        if (found.shape, tuple(found.chunks), found.dtype) != (self.shape, self.chunks, self.dtype):
            raise ConvolithError(f"{self.partial} is another array; start anew with resume=False (--anew)")
        self.array = found

    def write(self, place: tuple[slice, ...], pixels: np.ndarray) -> dict[str, Any]:
        """Store a block, whole chunks of the array, and return what it can be checked by."""
        self.array[place] = pixels
        return {"files": self.sums(place)}

    def holds(self, place: tuple[slice, ...], record: Mapping[str, Any]) -> bool:
        """Return whether the files of a block are those that were written."""
        try:
            return bool(self.sums(place) == record.get("files"))
        except OSError:
            return False

    def sums(self, place: tuple[slice, ...]) -> dict[str, list[int]]:
        """Return size and checksum (CRC-32C) of the files of a block."""
        crc = needed("google_crc32c", "big")
        found = {}
        for name in self._files(place):
            content = (self.partial / name).read_bytes()
            found[name] = [len(content), int(crc.value(content))]
        return found

    def _files(self, place: tuple[slice, ...]) -> list[str]:
        """Return the names of the files of a block, within the folder."""
        ranges = [
            range(part.start // chunk, ceil(part.stop / chunk)) for part, chunk in zip(place, self.chunks, strict=True)
        ]
        metadata = self.array.metadata
        names = [metadata.encode_chunk_key(numbers) for numbers in product(*ranges)]
        return [f"{self.group}/{name}" if self.group else str(name) for name in names]

    def few_threads(self, count: int) -> Any:
        """Return a context in which the library that encodes chunks takes a number of threads."""
        return self.zarr.config.set({"threading.max_workers": count, "async.concurrency": max(count, 2)})

    def finish(self) -> None:
        """Move the complete result to its place; one that was there before is removed afterwards."""
        before = self.path.with_name(self.path.name + BEFORE)
        if self.path.exists():
            self.path.rename(before)
        self.partial.rename(self.path)
        if before.is_dir():
            shutil.rmtree(before)
        else:
            before.unlink(missing_ok=True)

    def result(self) -> Any:
        """Return the finished array, opened for reading."""
        return self.zarr.open_array(str(self.path / self.group) if self.group else str(self.path), mode="r")
