"""Results on a disk: written block by block beside their place, and moved there when they are complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from math import ceil
from typing import Any

import numpy as np

from convolith.big.stores.chunk_files import ChunkFiles, chunk_files
from convolith.big.stores.places import Place, RemotePath, needed
from convolith.big.stores.publication import Marked, Publication, Renamed
from convolith.errors import ConvolithError

JOURNAL, LOCK = ".partial.journal", ".lock"
"""Endings of names: of the journal of an unfinished result, and of its lock file."""


class Target(ABC):
    """Place of a result, which is written block by block and appears there when it is complete.

    Attributes:
        path: file or folder that the result gets, or its name in an object store.
    """

    path: Place

    @property
    @abstractmethod
    def partial(self) -> Place:
        """Place of the unfinished result."""

    @property
    def journal(self) -> Place:
        """Path of the journal."""
        return self.path.with_name(self.path.name + JOURNAL)

    @property
    def lock(self) -> Place:
        """Path of the lock file."""
        return self.path.with_name(self.path.name + LOCK)

    @property
    @abstractmethod
    def finish_bytes(self) -> int:
        """Upper bound on the bytes of memory that `finish` takes."""

    @abstractmethod
    def create(self) -> None:
        """Make an empty result, in place of an unfinished one."""

    @abstractmethod
    def reopen(self) -> None:
        """Open the unfinished result of an interrupted run.

        Raises:
            ConvolithError: if it is not there, or is another one.
        """

    @abstractmethod
    def write(self, place: tuple[slice, ...], pixels: np.ndarray) -> Mapping[str, Any]:
        """Store a block, and return what it can be checked by.

        Raises:
            ConvolithError: a disk that is full or cannot be written.
        """

    @abstractmethod
    def holds(self, place: tuple[slice, ...], record: Mapping[str, Any]) -> bool:
        """Return whether a block is stored as it was written."""

    @abstractmethod
    def few_threads(self, count: int) -> AbstractContextManager[Any]:
        """Return a context in which the library that encodes chunks takes a number of threads."""

    @abstractmethod
    def finish(self, written: Callable[[int], object]) -> None:
        """Move the complete result to its place, where it replaces an earlier one.

        Args:
            written: function that is called with the bytes of each part, if parts are written.

        Raises:
            ConvolithError: a disk that is full or cannot be written; blocks and journal stay.
        """

    @abstractmethod
    def result(self) -> Any:
        """Return the finished array, opened for reading."""


class ZarrTarget(Target):
    """A Zarr array in a folder or in an object store.

    Args:
        path: the folder that the result gets, or its name in an object store.
        shape, chunks, dtype: of the array; with `inner`, the chunks are its shards.
        names: names of its axes, or None.
        attributes: attributes of the array; of the group around it, if `group` is given.
        fill_value: number that missing chunks stand for.
        group: name of the array within a group, or "" for an array alone.
        zarr_format: 2 or 3.
        inner: shape of the chunks within a shard, or None for an array without shards.
        compressors: as for `zarr.create_array`.
    """

    def __init__(
        self,
        path: Place,
        shape: Sequence[int],
        chunks: Sequence[int],
        dtype: np.dtype[Any],
        *,
        names: Sequence[str] | None = None,
        attributes: Mapping[str, Any] | None = None,
        fill_value: float = 0,
        group: str = "",
        zarr_format: int = 3,
        inner: Sequence[int] | None = None,
        compressors: Any = "auto",
    ) -> None:
        needed("zarr", "big")
        self.path = path
        self.publication: Publication
        if isinstance(path, RemotePath):
            self.publication = Marked(path)
        else:
            self.publication = Renamed(path, path.with_name(path.name + JOURNAL), checksum)
        self.shape, self.chunks, self.dtype = tuple(shape), tuple(chunks), np.dtype(dtype)
        self.names, self.attributes, self.fill_value = names, dict(attributes or {}), fill_value
        self.group, self.zarr_format, self.inner = group, zarr_format, inner
        self.compressors = compressors
        self.array: Any = None
        self.chunk_files: ChunkFiles | None = None

    @property
    def partial(self) -> Place:
        """Place of the unfinished result."""
        return self.publication.partial

    @property
    def finish_bytes(self) -> int:
        """Upper bound on the bytes of memory that `finish` takes: none, since it renames folders."""
        return 0

    def create(self) -> None:
        """Make an empty array, in place of an unfinished one."""
        zarr = needed("zarr", "big")
        self.publication.clear()
        place, attributes = str(self.partial), {**self.attributes, **self.publication.attributes}
        if self.group:
            zarr.open_group(place, mode="w", zarr_format=self.zarr_format, attributes=attributes)
            place, attributes = f"{place}/{self.group}", {}
        about: dict[str, Any] = {"attributes": attributes}
        if self.names and self.zarr_format == 3:
            about["dimension_names"] = list(self.names)
        elif self.names:
            about["attributes"] = {**attributes, "_ARRAY_DIMENSIONS": list(self.names)}
        if self.zarr_format == 2:
            about["chunk_key_encoding"] = {"name": "v2", "separator": "/"}  # as OME-Zarr 0.4 has it
        if self.inner is not None:
            about["shards"] = self.chunks
        self.array = zarr.create_array(
            place,
            shape=self.shape,
            chunks=self.chunks if self.inner is None else tuple(self.inner),
            dtype=self.dtype,
            fill_value=self.fill_value,
            zarr_format=self.zarr_format,
            overwrite=True,
            compressors=self.compressors,
            config={"write_empty_chunks": True},
            **about,
        )
        self.chunk_files = chunk_files(self.array)

    def reopen(self) -> None:
        """Open the array of an interrupted run.

        Raises:
            ConvolithError: if it is not there, or is another one.
        """
        zarr = needed("zarr", "big")
        self.publication.reopen()
        place = str(self.partial / self.group) if self.group else str(self.partial)
        try:
            with zarr.config.set({"array.write_empty_chunks": True}):
                found = zarr.open_array(place, mode="r+")
        except Exception as problem:
            raise ConvolithError(
                f"{self.partial} cannot be opened ({problem}); start anew with resume=False (--anew)"
            ) from problem
        if (found.shape, tuple(found.shards or found.chunks), found.dtype) != (self.shape, self.chunks, self.dtype):
            raise ConvolithError(f"{self.partial} is another array; start anew with resume=False (--anew)")
        self.array, self.chunk_files = found, chunk_files(found)

    def write(self, place: tuple[slice, ...], pixels: np.ndarray) -> Mapping[str, Any]:
        """Store a block, one chunk of the array or shard, and return what it can be checked by.

        Raises:
            ConvolithError: a disk that is full or cannot be written.
        """
        try:
            if self.chunk_files is not None:
                ((numbers, name),) = self._files(place).items()
                return {"files": {name: checksum(self.chunk_files.write(numbers, pixels))}}
            for name in self._files(place).values():  # or else Zarr would read a damaged one, to change it
                (self.partial / name).unlink(missing_ok=True)
            self.array[place] = pixels
            return {"files": self.sums(place)}
        except OSError as problem:
            raise unwritten(self.partial, place, problem) from problem

    def holds(self, place: tuple[slice, ...], record: Mapping[str, Any]) -> bool:
        """Return whether the files of a block are those that were written."""
        try:
            return bool(self.sums(place) == record.get("files"))
        except OSError:
            return False

    def sums(self, place: tuple[slice, ...]) -> dict[str, list[int]]:
        """Return size and checksum (CRC-32C) of the files of a block."""
        return {name: checksum((self.partial / name).read_bytes()) for name in self._files(place).values()}

    def _files(self, place: tuple[slice, ...]) -> dict[tuple[int, ...], str]:
        """Return the names of the files of a block within the folder, by the numbers of its chunks."""
        ranges = [
            range(part.start // chunk, ceil(part.stop / chunk)) for part, chunk in zip(place, self.chunks, strict=True)
        ]
        metadata = self.array.metadata
        names = {numbers: str(metadata.encode_chunk_key(numbers)) for numbers in product(*ranges)}
        return {numbers: f"{self.group}/{name}" if self.group else name for numbers, name in names.items()}

    def few_threads(self, count: int) -> AbstractContextManager[Any]:
        """Return a context in which the library that encodes chunks takes a number of threads."""
        settings = {"threading.max_workers": count, "async.concurrency": max(count, 2)}
        context: AbstractContextManager[Any] = needed("zarr", "big").config.set(settings)
        return context

    def finish(self, written: Callable[[int], object]) -> None:  # noqa: ARG002 - nothing is written
        """Let the complete result appear at its place."""
        self.publication.publish()

    def result(self) -> Any:
        """Return the finished array, opened for reading."""
        place = str(self.path / self.group) if self.group else str(self.path)
        return needed("zarr", "big").open_array(place, mode="r")


def checksum(content: bytes | np.ndarray) -> list[int]:
    """Return the size and the checksum (CRC-32C) of a file's content, or of a contiguous array."""
    size = len(content) if isinstance(content, bytes) else content.nbytes
    return [size, int(needed("google_crc32c", "big").value(content))]


def unwritten(place: Place, part: tuple[slice, ...], problem: OSError) -> ConvolithError:
    """Return the error of a block that cannot be written."""
    where = ", ".join(f"{one.start}:{one.stop}" for one in part)
    return ConvolithError(
        f"{place} could not be written at pixels [{where}] ({problem}); make room, and give the same call again to go "
        "on"
    )
