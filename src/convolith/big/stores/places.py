"""Places of stores: folders and files, or names in an object store, whose file systems are those of fsspec."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

from convolith.errors import ConvolithError

SCHEME, CHAIN = "://", "::"
LOCAL = ("file", "local")
"""Schemes of URLs that name a file of this machine."""
IN_MEMORY = "memory"
"""Scheme of URLs that name something in the memory of a process."""
STAMPS = ("size", "ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""Properties of an object that change when it is written, under the names that file systems have for them."""


NPZ = ".npz"
FITS = (".fits", ".fit", ".fts")
PACKED_FITS = (".fits.gz", ".fits.fz")
WITH_PARTS = (NPZ, *FITS, *PACKED_FITS)
"""Endings of files that hold several arrays."""
LEAST = {"zarr": "3.1.6", "tifffile": "2025.12", "fsspec": "2024.12", "dask": "2026.3", "distributed": "2026.3"}
"""Oldest versions of packages that are promised to work, as in `pyproject.toml`."""


def needed(module: str, extra: str) -> Any:
    """Import a module of an extra.

    Raises:
        ConvolithError: if it is not installed, or too old.
    """
    package = module.split(".")[0]
    try:
        found = import_module(module)
        version = str(getattr(import_module(package), "__version__", ""))
    except ImportError as problem:
        raise ConvolithError(
            f"{package} is not installed, which this needs; pip install 'convolith[{extra}]'"
        ) from problem
    least = LEAST.get(package)
    if least is not None and () < _numbers(version) < _numbers(least):
        raise ConvolithError(
            f"{package} has version {version}; expected {least} or later; pip install --upgrade 'convolith[{extra}]'"
        )
    return found


@cache
def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers at the beginning of a version."""
    numbers = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, numbers[0].split("."))) if numbers else ()


class RemotePath:
    """Name in an object store, with the part of `pathlib.Path` that stores need.

    Args:
        url: such as "s3://bucket/scan.zarr".
        argument: name of the argument in messages.
        inner: names below it.

    Raises:
        ConvolithError: fsspec, or what it needs for this scheme, is not installed; a scheme that it does not have.
    """

    def __init__(self, url: str, argument: str = "source", inner: str = "") -> None:
        self.url, self.argument, self.inner = url.rstrip("/"), argument, inner
        _ = self._opened

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """File system, and the path in it."""
        core = needed("fsspec.core", "remote")
        try:
            files, root = core.url_to_fs(self.url)
        except Exception as problem:
            reason = (str(problem).strip() or type(problem).__name__).splitlines()[0]
            raise ConvolithError(
                f"{self.argument} is {self.url!r}, whose file system cannot be opened: {reason}; expected a URL that "
                "fsspec takes, with the package that it needs for it"
            ) from problem
        return files, root.rstrip("/") + self.inner

    def __reduce__(self) -> Any:
        return RemotePath, (self.url, self.argument, self.inner)

    def __str__(self) -> str:
        return self.url + self.inner

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.url, self.argument, f"{self.inner}/{name}")

    @property
    def scheme(self) -> str:
        """Scheme of the URL."""
        return self.url.partition(SCHEME)[0]

    @property
    def name(self) -> str:
        """Last part of the name."""
        return str(self).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of the name."""
        return Path(self.name).suffix

    @property
    def parents(self) -> list[RemotePath]:
        """Names above it."""
        scheme, _, path = str(self).partition(SCHEME)
        parts = path.split("/")
        return [RemotePath(scheme + SCHEME + "/".join(parts[:n]), self.argument) for n in range(len(parts) - 1, 0, -1)]

    def resolve(self) -> RemotePath:
        """Return the name itself: object stores have no links."""
        return self

    def with_name(self, name: str) -> RemotePath:
        """Return the place of another name in the same folder."""
        return RemotePath(str(self).rpartition("/")[0] + "/" + name, self.argument)

    def exists(self) -> bool:
        """Return whether there is an object of this name, or any below it."""
        files, path = self._opened
        files.invalidate_cache()
        return bool(files.exists(path))

    def is_file(self) -> bool:
        """Return whether there is an object of this name."""
        files, path = self._opened
        return bool(files.isfile(path))

    def is_dir(self) -> bool:
        """Return whether there are objects below this name."""
        files, path = self._opened
        return bool(files.isdir(path))

    def names(self) -> list[str]:
        """Return the names of the objects directly below it, sorted."""
        files, path = self._opened
        files.invalidate_cache()
        return sorted(str(one).rstrip("/").rpartition("/")[2] for one in files.ls(path, detail=False))

    def all_names(self) -> list[str]:
        """Return the last parts of the names of all objects below it."""
        files, path = self._opened
        return [str(one).rpartition("/")[2] for one in files.find(path)]

    def read_bytes(self) -> bytes:
        """Return the object."""
        files, path = self._opened
        content: bytes = files.cat_file(path)
        return content

    def read_text(self) -> str:
        """Return the object as a text."""
        return self.read_bytes().decode()

    def write_text(self, text: str) -> None:
        """Write the object."""
        files, path = self._opened
        files.pipe_file(path, text.encode())

    def create_text(self, text: str) -> None:
        """Write the object if there is none.

        Raises:
            FileExistsError: there is one.
        """
        files, path = self._opened
        files.pipe_file(path, text.encode(), mode="create")

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Remove the object."""
        files, path = self._opened
        try:
            files.rm_file(path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def remove(self) -> None:
        """Remove the object, or all below this name."""
        files, path = self._opened
        if self.exists():
            files.rm(path, recursive=True)

    def stamp(self) -> list[str]:
        """Return what changes when the object is written."""
        files, path = self._opened
        about = files.info(path)
        return [f"{name} {about[name]}" for name in STAMPS if name in about]


Place = Path | RemotePath


def selected(text: str) -> tuple[str, str | None]:
    """Return the name of a file, and the name or the number of an array in it, as FILE.npz:NAME and FILE.fits:1 say."""
    ends = [text.lower().rfind(f"{ending}:") + len(ending) for ending in WITH_PARTS if f"{ending}:" in text.lower()]
    if not ends:
        return text, None
    with suppress(OSError, ValueError):  # a name that no file can have
        if Path(text).is_file():
            return text, None
    return text[: max(ends)], text[max(ends) + 1 :]


def place_of(place: str | Path, argument: str) -> Place:
    """Return the place that a path or a URL names.

    Raises:
        ConvolithError: something else; a URL whose file system cannot be opened.
    """
    if not isinstance(place, str | os.PathLike):
        raise ConvolithError(f"{argument} is {place!r}; expected a name of a file or a folder, or a URL")
    text = str(place)
    if isinstance(place, Path) or SCHEME not in text:
        return Path(place)
    scheme, _, rest = text.partition(SCHEME)
    return Path(rest) if scheme in LOCAL and CHAIN not in text else RemotePath(text, argument)


def stamp_of(place: Place) -> list[str]:
    """Return what changes when a file is written: its size and time."""
    if isinstance(place, RemotePath):
        return place.stamp()
    status = place.stat()
    return [f"size {status.st_size}", f"mtime {status.st_mtime_ns}"]


def names_below(place: Place) -> list[str]:
    """Return the last parts of the names of all files of a folder, or of all objects below a name."""
    if isinstance(place, RemotePath):
        return place.all_names()
    return [name for _, _, names in os.walk(place) for name in names]
