"""Files of images, arrays and kernels; outputs are checked before the work and replaced when complete."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from convolith.cli.io.expansion import check_arrays
from convolith.cli.io.fits import Unit, encode_fits, read_fits
from convolith.cli.io.pictures import TIFF, encode_pages, encode_picture, imageio, read_image
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.fitting import VaryingKernel
from convolith.storage import replacing

IMAGES = (".png", *TIFF, ".jpg", ".jpeg")
ARRAYS = (".npy", ".npz")
FITS = (".fits", ".fit", ".fts", ".fits.gz", ".fits.fz")
READABLE = (*IMAGES, *ARRAYS, *FITS)
WRITABLE = (*IMAGES, *ARRAYS, ".fits", ".fit", ".fts")
EXACT = (*TIFF, *ARRAYS, ".fits", ".fit", ".fts")
"""Endings of files that hold any numbers."""
VARYING = ("weights", "background", "degree", "background_degree", "modulation", "frame")
CONV_OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode", "transposed", "output_padding")


def is_image(path: str) -> bool:
    """Return whether the ending of a path is that of an image."""
    return Path(path).suffix.lower() in IMAGES


def is_fits(path: str) -> bool:
    """Return whether the ending of a path is that of a FITS file."""
    return path.lower().endswith(FITS)


def read_array(argument: str, path: str) -> np.ndarray:
    """Read an image, (H, W) or (H, W, channels), or the array in a .npy, .npz or FITS file.

    FILE.npz:NAME, FILE.fits:NAME or FILE.fits:1 selects one of several arrays; the default of a FITS file is the first.

    Raises:
        ConvolithError: a missing, damaged or truncated file, or one of another kind.
    """
    return read_picture(argument, path).array


def read_picture(argument: str, path: str) -> Unit:
    """Read a file as `read_array` does, with the header of a FITS file; the header of any other file is None."""
    name = None
    if ".npz:" in path and not _is_file(path):
        path, _, name = path.rpartition(":")
    if not _is_file(path) and is_fits(path.rpartition(":")[0]):
        path, _, name = path.rpartition(":")
    file = _existing(argument, path)
    if is_image(path):
        return read_image(argument, file)
    if is_fits(path):
        return read_fits(argument, file, name)
    arrays = _load(argument, file)
    if isinstance(arrays, np.ndarray):
        return Unit(arrays, None)
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name not in arrays:
        missing = "" if name is None else f" and no {name}"
        raise ConvolithError(
            f"{argument} is {path}, which holds {', '.join(arrays)}{missing}; name one: {path}:{min(arrays)}"
        )
    return Unit(arrays[name], None)


def read_kernel(argument: str, text: str, options: Mapping[str, Any]) -> np.ndarray | Conv:
    """Read a kernel: a Conv from a file that a command wrote, or a bare weight from another file or a JSON list.

    FILE.npz:0 selects the first part of a chain that `decompose` wrote.

    A two-dimensional array has one channel: (height, width) becomes (1, 1, height, width).

    Args:
        argument: the name of the argument, for messages.
        text: the path or the list.
        options: stride, padding and the like from the command line; refused with a Conv, which has its own.
    """
    if text.lstrip().startswith("["):
        weight = _listed(argument, text)
    else:
        arrays = _load(argument, Path(text)) if text.lower().endswith(".npz") and _is_file(text) else {}
        arrays = arrays or _part(argument, text)
        if set(VARYING) <= set(arrays):
            raise ConvolithError(
                f"{argument} is {text}, which holds a kernel that varies with position; `correlate` alone applies it"
            )
        if "weight" in arrays:
            if options:
                raise ConvolithError(f"{next(iter(options))} was given, but {text} holds a kernel with its own options")
            return _as_conv(argument, arrays)
        if "0.weight" in arrays:
            raise ConvolithError(f"{argument} is {text}, which holds several convolutions; name one: {text}:0")
        if is_image(text):
            raise ConvolithError(f"{argument} is {text}, a picture; expected a .npy or .npz file or a list")
        weight = read_array(argument, text)
    return weight[None, None] if weight.ndim == 2 else weight


def _listed(argument: str, text: str) -> np.ndarray:
    """Convert a JSON list of numbers to an array."""
    expected = f"{argument} is {text[:60]!r}; expected a nested list such as [[0,1],[2,3]] of numbers"
    try:
        nested = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConvolithError(f"{expected} ({error})") from None
    try:
        weight = np.array(nested)
    except (ValueError, OverflowError):
        raise ConvolithError(f"{expected} in rows of equal length") from None
    if weight.dtype.kind not in "iuf":  # text, objects, true, null, numbers of more than 64 bits
        raise ConvolithError(f"{expected} of at most 64 bits each")
    return weight


def conv_arrays(conv: Conv) -> dict[str, Any]:
    """Return a Conv as named arrays for a .npz file."""
    arrays = {"weight": np.asarray(conv.weight), **{name: np.asarray(getattr(conv, name)) for name in CONV_OPTIONS}}
    return arrays if conv.bias is None else arrays | {"bias": np.asarray(conv.bias)}


def varying_arrays(kernel: VaryingKernel) -> dict[str, Any]:
    """Return a kernel that varies as named arrays for a .npz file; None becomes an empty array."""
    names = (*VARYING, "stride", "padding", "dilation", "padding_mode")
    values = {name: getattr(kernel, name) for name in names}
    return {name: np.asarray([] if value is None else value) for name, value in values.items()}


def read_varying(argument: str, text: str, options: Mapping[str, Any]) -> VaryingKernel | None:
    """Read a kernel that varies from a file that `fit` wrote; return None if the file has another kernel.

    Args:
        argument: the name of the argument, for messages.
        text: the path.
        options: stride, padding and the like from the command line, which are refused.
    """
    if not (text.lower().endswith(".npz") and _is_file(text)):
        return None
    arrays = _load(argument, Path(text))
    if not set(VARYING) <= set(arrays):
        return None
    if options:
        raise ConvolithError(f"{next(iter(options))} was given, but {text} holds a kernel with its own options")
    names = ("degree", "background_degree", "modulation", "frame", "stride", "padding", "dilation", "padding_mode")
    try:
        values: dict[str, Any] = {name: arrays[name].tolist() if arrays[name].size else None for name in names}
    except KeyError as error:
        raise ConvolithError(f"{argument} is {text}, which holds no {error}; write it with fit") from None
    for name in ("frame", "stride", "dilation"):
        values[name] = None if values[name] is None else tuple(values[name])
    background = arrays["background"] if arrays["background"].size else None
    return VaryingKernel(arrays["weights"], background, **values)


def chain_arrays(parts: Sequence[Conv]) -> dict[str, Any]:
    """Return several Convs as named arrays for a .npz file: 0.weight, 0.stride, ..., 1.weight, ..."""
    return {f"{at}.{name}": array for at, part in enumerate(parts) for name, array in conv_arrays(part).items()}


def _part(argument: str, text: str) -> dict[str, Any]:
    """Return the arrays of one part of a chain, FILE.npz:0, without their number; empty for any other text."""
    path, _, number = text.rpartition(":")
    if not (number.isdigit() and path.lower().endswith(".npz") and _is_file(path)) or _is_file(text):
        return {}
    arrays = _load(argument, Path(path))
    return {name.removeprefix(f"{number}."): arrays[name] for name in arrays if name.startswith(f"{number}.")}


def _as_conv(argument: str, arrays: Any) -> Conv:
    try:
        options = {name: arrays[name].tolist() for name in CONV_OPTIONS}
    except KeyError as error:
        raise ConvolithError(f"{argument} holds a weight but no {error}; write it with compose or fit") from None
    return Conv(arrays["weight"], arrays.get("bias"), **options)


class Output:
    """An output file: checked to be writable before the work, replaced in one step when its contents are complete."""

    def __init__(self, path: str, endings: tuple[str, ...]) -> None:
        self.path = Path(path)
        suffix = self.path.suffix.lower()
        if suffix not in endings:
            raise ConvolithError(f"output is {path}; expected a name that ends in {', '.join(endings)}")
        if suffix in IMAGES:
            imageio()
        try:
            if self.path.is_dir():
                raise ConvolithError(f"output is {path}, which is a folder; expected a file name")
            if not self.path.parent.is_dir():
                raise ConvolithError(f"output is {path}, but there is no folder {self.path.parent}; make it first")
            if self.path.exists() and not os.access(self.path, os.W_OK):
                raise ConvolithError(f"output is {path}, which is write-protected; choose another place")
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise ConvolithError(f"output is {path}, which cannot be written ({error}); choose another place") from None

    def refuse_input(self, source: str) -> None:
        """Refuse to overwrite the input file, since the result may lose its values."""
        if self.path.exists() and _is_file(source) and self.path.samefile(source):
            raise ConvolithError(f"output is {self.path}, the input itself; choose another name")

    def write(self, fill: Callable[[IO[bytes]], Any]) -> None:
        """Let `fill` write a temporary file in the folder of the output, then rename it to the output."""
        try:
            with replacing(self.path) as file:
                fill(file)
        except OSError as error:
            raise ConvolithError(f"output is {self.path}, which could not be written ({error})") from None

    def write_array(
        self,
        array: np.ndarray,
        like: np.dtype[Any] | None = None,
        header: Any = None,
        *,
        picture: bool = True,
        exact: bool = False,
    ) -> int:
        """Write an array or an image; return the number of values that were clipped to the image's dtype.

        A FITS file gets the header, if there is one, and channels first, as its viewers expect.

        A .tif has 8 or 16 bits as the array, otherwise float32; .png and .jpg are rounded and clipped to 8 bits, a grey
        .png to 16 bits if the input image, of dtype `like`, has 16.

        Args:
            array: the result.
            like: dtype of the input, or of the result if the user chose it; booleans are black and white.
            header: FITS header, or None.
            picture: whether a last axis of three axes is channels; otherwise a .tif has a page for each plane.
            exact: whether a .tif holds the dtype of the array.
        """
        suffix, clipped = self.path.suffix.lower(), 0
        if is_fits(str(self.path)):
            encoded = encode_fits(np.moveaxis(array, -1, 0) if picture and array.ndim == 3 else array, header)
            self.write(lambda file: file.write(encoded))
            return 0
        if suffix == ".npy":
            self.write(lambda file: np.save(file, array))
            return 0
        if suffix == ".npz":
            self.write(lambda file: np.savez(file, array=array))
            return 0
        if suffix in TIFF and not picture and array.ndim > 2 and not np.iscomplexobj(array):
            pages = encode_pages(array if exact else _tiff_values(array))
            self.write(lambda file: file.write(pages))
            return 0
        _check_picture(array, self.path, picture=picture)
        if suffix in TIFF:
            array = array if exact else _tiff_values(array)
        else:
            if like == np.dtype(bool):
                array = array * 255
            if like is not None and like.kind not in "iub":
                raise ConvolithError(
                    f"the input is {like}, which has no picture's range to round to; write {self.path.stem}.tif or .npy"
                )
            if like == np.dtype(np.uint16) and suffix != ".png":
                raise ConvolithError(f"the input has 16 bits, which no .jpg holds; write {self.path.stem}.tif")
            deep = like == np.dtype(np.uint16)
            if deep and array.ndim == 3 and array.shape[2] > 1:
                raise ConvolithError(
                    f"the result has 16 bits and colour, which cannot be written as .png; write {self.path.stem}.tif"
                )
            if suffix in (".jpg", ".jpeg") and array.ndim == 3 and array.shape[2] in (2, 4):
                raise ConvolithError(
                    f"the result has an alpha channel, which no .jpg holds; write {self.path.stem}.png"
                )
            array, clipped = _rounded(array, np.dtype(np.uint16 if deep else np.uint8))
        encoded = encode_picture(array, suffix)
        self.write(lambda file: file.write(encoded))
        return clipped


def _tiff_values(array: np.ndarray) -> np.ndarray:
    """Return an array in the dtype that a .tif has by default: uint8 and uint16 stay, all others become float32."""
    return array if array.dtype in (np.uint8, np.uint16) else array.astype(np.float32)


def _check_picture(array: np.ndarray, path: Path, *, picture: bool) -> None:
    stack = array.ndim == 3 and not picture
    if stack or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 2, 3, 4)):
        pages = " or .tif" if stack else ""
        raise ConvolithError(
            f"the result has shape {array.shape}, which is no picture; write {path.stem}.npy{pages} instead"
        )
    if np.iscomplexobj(array):
        raise ConvolithError(f"the result is complex, which no picture holds; write {path.stem}.npy instead")


def _rounded(array: np.ndarray, dtype: np.dtype[Any]) -> tuple[np.ndarray, int]:
    """Round and clip an array to an integer dtype; return it and the number of clipped values (NaN becomes 0)."""
    limits = np.iinfo(dtype)
    values = np.nan_to_num(np.rint(array.astype(np.float64)), nan=0.0, posinf=np.inf, neginf=-np.inf)
    clipped = int(((values < limits.min) | (values > limits.max) | ~np.isfinite(array)).sum())
    result = values.clip(limits.min, limits.max).astype(dtype)
    return (result[..., 0] if result.ndim == 3 and result.shape[2] == 1 else result), clipped


def _is_file(path: str) -> bool:
    try:
        return Path(path).is_file()
    except OSError:  # not a valid file name
        return False


def _existing(argument: str, path: str) -> Path:
    if not _is_file(path):
        raise ConvolithError(f"{argument} is {path[:200]}; there is no such file")
    return Path(path)


def _load(argument: str, file: Path) -> Any:
    """Read the array of a .npy file, or the arrays of a .npz file by name; all damage raises the same error."""
    if file.suffix.lower() not in ARRAYS:
        raise ConvolithError(f"{argument} is {file}; expected one of {', '.join(READABLE)}")
    try:
        with file.open("rb") as stream:  # NumPy does not close a damaged file
            check_arrays(argument, file, stream)
            loaded = np.load(stream, allow_pickle=False)
            arrays = loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except ConvolithError:
        raise
    except Exception as error:  # noqa: BLE001 - every layer of the format raises its own errors
        raise ConvolithError(
            f"{argument} is {file}, which cannot be read ({error or type(error).__name__}); is it complete?"
        ) from None
    if isinstance(arrays, dict):
        arrays = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
        if not arrays:
            raise ConvolithError(f"{argument} is {file}, which holds no array")
    return arrays
