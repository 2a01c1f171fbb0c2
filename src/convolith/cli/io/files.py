"""Files of images, arrays and kernels; outputs are checked before the work and replaced when complete."""

from __future__ import annotations

import gzip
import json
import os
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import click
import numpy as np

from convolith.big.stores.places import FITS as PLAIN_FITS
from convolith.big.stores.places import PACKED_FITS, selected
from convolith.cli.io.expansion import check_arrays
from convolith.cli.io.fits import Unit, encode_fits, read_fits
from convolith.cli.io.picture_info import PictureInfo
from convolith.cli.io.pictures import encode_picture, imageio, read_image
from convolith.cli.io.tiff import TIFF, encode_tiff, exact_values
from convolith.conv import Conv
from convolith.errors import ConvolithError
from convolith.fitting import VaryingKernel
from convolith.storage import replacing

WRITTEN_IMAGES = (".png", *TIFF, ".jpg", ".jpeg")
IMAGES = (*WRITTEN_IMAGES, ".webp", ".bmp")
ARRAYS = (".npy", ".npz")
WRITTEN_FITS = (*PLAIN_FITS, ".fits.gz")
FITS = (*PLAIN_FITS, *PACKED_FITS)
READABLE = (*IMAGES, *ARRAYS, *FITS)
WRITABLE = (*WRITTEN_IMAGES, *ARRAYS, *WRITTEN_FITS)
EXACT = (*TIFF, *ARRAYS, *WRITTEN_FITS)
"""Endings of files that hold any numbers."""
SOUND = "save its samples first: numpy.save('x.npy', scipy.io.wavfile.read('x.wav')[1])"
PILLOW = "convert it first: PIL.Image.open('x').save('x.png')"
TEXT = "convert it first: numpy.save('x.npy', numpy.loadtxt('x', delimiter=','))"
CONVERSIONS = {
    **dict.fromkeys((".wav", ".flac", ".ogg", ".mp3", ".aiff"), SOUND),
    **dict.fromkeys((".gif", ".jp2", ".heic", ".avif", ".ppm", ".pgm", ".tga", ".ico"), PILLOW),
    **dict.fromkeys((".csv", ".txt", ".tsv", ".dat"), TEXT),
}
"""How files of other kinds become readable, by their endings."""
VARYING = ("weights", "background", "degree", "background_degree", "modulation", "frame")
NUMPY, ZIP = b"\x93NUMPY", b"PK"
"""First bytes of a .npy and of a .npz file."""
CONV_OPTIONS = ("stride", "padding", "dilation", "groups", "padding_mode", "transposed", "output_padding")


class Written(NamedTuple):
    """Number of clipped values of an array in a file, and the dtype that it is stored in."""

    clipped: int
    dtype: str


def _ending(path: Path) -> str:
    """Return the ending of a file's name in lower case: .fits.gz, or what follows the last point."""
    return next((end for end in (".fits.gz", ".fits.fz") if path.name.lower().endswith(end)), path.suffix.lower())


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
    path, name = selected(path)
    file = _existing(argument, path)
    if is_image(path):
        return read_image(argument, file)
    if is_fits(path):
        return read_fits(argument, file, name)
    arrays = _load(argument, file)
    if isinstance(arrays, np.ndarray):
        return Unit(_numbers(argument, path, arrays), None)
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name not in arrays:
        missing = "" if name is None else f" and no {name}"
        raise ConvolithError(
            f"{argument} is {path}, which holds {', '.join(arrays)}{missing}; name one: {path}:{min(arrays)}"
        )
    return Unit(_numbers(argument, path, arrays[name]), None)


def _numbers(argument: str, path: str, array: np.ndarray) -> np.ndarray:
    """Return an array of numbers; refuse text, dates and records."""
    if array.dtype.names:
        first = array.dtype.names[0]
        raise ConvolithError(
            f"{argument} is {path}, which holds records of {', '.join(array.dtype.names)}; expected numbers; store one "
            f"field, such as array[{first!r}]"
        )
    if array.dtype.kind not in "biufc":
        raise ConvolithError(
            f"{argument} is {path}, which holds values of dtype {array.dtype.name}; expected numbers; convert "
            "them first, such as by array.astype(float)"
        )
    return array


def read_kernel(argument: str, text: str, options: Mapping[str, Any], prefix: str = "") -> np.ndarray | Conv:
    """Read a kernel: a Conv from a file that a command wrote, or a bare weight from another file or a JSON list.

    FILE.npz:0 selects the first part of a chain that `decompose` wrote.

    A two-dimensional array has one channel: (height, width) becomes (1, 1, height, width).

    Args:
        argument: the name of the argument, for messages.
        text: the path or the list.
        options: stride, padding and the like from the command line; refused with a Conv, which has its own.
        prefix: what the names of these options begin with on the command line, such as `first-`.
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
            _refuse_options(text, options, prefix)
            return _as_conv(argument, arrays)
        if "0.weight" in arrays:
            raise ConvolithError(f"{argument} is {text}, which holds several convolutions; name one: {text}:0")
        if is_image(text):
            raise ConvolithError(f"{argument} is {text}, a picture; expected a .npy or .npz file or a list")
        weight = read_array(argument, text)
    return weight[None, None] if weight.ndim == 2 else weight


def _refuse_options(text: str, options: Mapping[str, Any], prefix: str = "") -> None:
    """Refuse options of the command line for a kernel that has its own."""
    for name in options:
        option = f"--{prefix}{name.replace('_', '-')}"
        raise ConvolithError(f"{option} was given, but {text} holds a kernel with its own options; leave {option} out")


def _listed(argument: str, text: str) -> np.ndarray:
    """Convert a JSON list of numbers to an array."""
    expected = f"{argument} is {text[:60]!r}; expected a nested list such as [[0,1],[2,3]] of numbers"
    try:
        nested = json.loads(text)
    except (ValueError, RecursionError) as error:
        if re.search(r"\b(nan|inf)", text, re.IGNORECASE):
            raise ConvolithError(f"{expected} that are finite") from None
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
    _refuse_options(text, options)
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
    parts = sorted({int(name.partition(".")[0]) for name in arrays if name.endswith(".weight")})
    if parts and int(number) not in parts:
        several = f"parts {', '.join(map(str, parts[:-1]))} and {parts[-1]}" if len(parts) > 1 else f"part {parts[0]}"
        raise ConvolithError(f"{argument} is {text}, but the file holds {several}; name one: {path}:{parts[0]}")
    return {name.removeprefix(f"{number}."): arrays[name] for name in arrays if name.startswith(f"{number}.")}


def _as_conv(argument: str, arrays: Any) -> Conv:
    try:
        options = {name: arrays[name].tolist() for name in CONV_OPTIONS}
    except KeyError as error:
        raise ConvolithError(f"{argument} holds a weight but no {error}; write it with compose or fit") from None
    return Conv(arrays["weight"], arrays.get("bias"), **options)


class Output:
    """An output file: checked to be writable before the work, replaced in one step when its contents are complete."""

    def __init__(self, path: str, endings: tuple[str, ...], option: str = "--output") -> None:
        """Check the path.

        Args:
            path: the file.
            endings: endings of names that are accepted.
            option: the option that names the file, for messages.
        """
        self.path, self.option = Path(path), option
        self.ending = _ending(self.path)
        if self.ending not in endings:
            raise ConvolithError(f"{option} is {path}; expected a name that ends in {', '.join(endings)}")
        if self.ending in IMAGES:
            imageio()
        _claim(self.path, option)
        try:
            if self.path.is_dir():
                raise ConvolithError(f"{option} is {path}, which is a folder; expected a file name")
            if not self.path.parent.is_dir():
                raise ConvolithError(f"{option} is {path}, but there is no folder {self.path.parent}; make it first")
            if self.path.exists() and not os.access(self.path, os.W_OK):
                raise ConvolithError(f"{option} is {path}, which is write-protected; choose another place")
            with tempfile.TemporaryFile(dir=self.path.parent):
                pass
        except OSError as error:
            raise ConvolithError(
                f"{option} is {path}, which cannot be written ({error}); choose another place"
            ) from None

    def refuse_input(self, source: str) -> None:
        """Refuse to overwrite the input file, since the result may lose its values."""
        if self.path.exists() and _is_file(source) and self.path.samefile(source):
            raise ConvolithError(f"{self.option} is {self.path}, the input itself; choose another name")

    def write(self, fill: Callable[[IO[bytes]], Any]) -> None:
        """Let `fill` write a temporary file in the folder of the output, then rename it to the output."""
        try:
            with replacing(self.path) as file:
                fill(file)
        except OSError as error:
            raise ConvolithError(
                f"{self.option} is {self.path}, which could not be written ({error}); choose another place"
            ) from None

    def write_array(
        self,
        array: np.ndarray,
        like: np.dtype[Any] | None = None,
        header: Any = None,
        *,
        picture: bool = True,
        samples: bool | None = None,
        exact: bool = False,
        info: PictureInfo | None = None,
    ) -> Written:
        """Write an array or an image; return the number of clipped values, and the dtype that the file holds.

        A FITS file gets the header, if there is one, and channels first, as its viewers expect.

        A .tif holds the values exactly; .png and .jpg are rounded and clipped to 8 bits, a grey .png to 16 bits if the
        input image, of dtype `like`, has 16.

        Args:
            array: the result.
            like: dtype of the input, or of the result if the user chose it; booleans are black and white.
            header: FITS header, or None.
            picture: whether a last axis of three axes is channels; otherwise a .tif has a page for each plane.
            samples: the same for a .tif and any number of axes, where it differs.
            exact: whether a .tif holds the dtype of the array; otherwise integers of 64 bits become narrower.
            info: notes that a picture gets: colour profile, resolution, names of axes.
        """
        info = PictureInfo() if info is None else info
        if self.ending in WRITTEN_FITS:
            encoded = encode_fits(np.moveaxis(array, -1, 0) if picture and array.ndim == 3 else array, header)
            encoded = gzip.compress(encoded, mtime=0) if self.ending.endswith(".gz") else encoded
            self.write(lambda file: file.write(encoded))
            return Written(0, str(array.dtype))
        if self.ending == ".npy":
            self.write(lambda file: np.save(file, array))
            return Written(0, str(array.dtype))
        if self.ending == ".npz":
            self.write(lambda file: np.savez(file, array=array))
            return Written(0, str(array.dtype))
        stack = not picture and array.ndim > 2 and not np.iscomplexobj(array)
        if self.ending not in TIFF or not stack:
            _check_picture(array, self.path, picture=picture)
        if self.ending in TIFF:
            values = array if exact else exact_values(array)
            ome = self.path.stem.lower().endswith(".ome")
            last = (picture and array.ndim == 3) if samples is None else samples
            pages = encode_tiff(values, info, samples=last, ome=ome)
            self.write(lambda file: file.write(pages))
            return Written(0, str(values.dtype))
        dtype = self._picture_dtype(array, like)
        values, clipped = _rounded(array * 255 if like == np.dtype(bool) else array, dtype)
        if info.samples is not None and info.samples[0] == "miniswhite":  # which these formats do not have
            grey = values if values.ndim == 2 else values[..., 0]
            np.subtract(np.iinfo(dtype).max, grey, out=grey)
        coded = encode_picture(values, self.ending, info)
        self.write(lambda file: file.write(coded))
        return Written(clipped, str(dtype))

    def _picture_dtype(self, array: np.ndarray, like: np.dtype[Any] | None) -> np.dtype[Any]:
        """Return the dtype of a .png or .jpg: 8 bits, or 16 for a grey .png of an input with as many."""
        name, colours = self.path.stem, array.ndim == 3 and array.shape[2] > 1
        if like is not None and like.kind not in "iub":
            raise ConvolithError(
                f"the input is {like}, which has no picture's range to round to; write {name}.tif or .npy"
            )
        deep = like == np.dtype(np.uint16)
        if deep and self.ending != ".png":
            raise ConvolithError(f"the input has 16 bits, which no .jpg holds; write {name}.tif")
        if deep and colours:
            raise ConvolithError(
                f"the result has 16 bits and colour, which cannot be written as .png; write {name}.tif"
            )
        if self.ending != ".png" and colours and array.shape[2] in (2, 4):
            raise ConvolithError(f"the result has an alpha channel, which no .jpg holds; write {name}.png")
        return np.dtype(np.uint16 if deep else np.uint8)


def _claim(path: Path, option: str) -> None:
    """Note an output of the running command.

    Raises:
        ConvolithError: another option of the command names the same file.
    """
    context = click.get_current_context(silent=True)
    if context is None:
        return
    claimed = context.meta.setdefault("convolith.outputs", {})
    whole = path.resolve()
    if whole in claimed:
        raise ConvolithError(
            f"{option} is {path}, which {claimed[whole]} names too; give each output a name of its own"
        )
    claimed[whole] = option


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
        folder = False
        with suppress(OSError, ValueError):  # a name that no file can have
            folder = Path(path).is_dir()
        reason = ", a folder; name a file in it" if folder else "; there is no such file"
        raise ConvolithError(f"{argument} is {path[:200]}{reason}")
    if not Path(path).stat().st_size:
        raise ConvolithError(f"{argument} is {path}, which cannot be read (it is empty, 0 bytes); is it complete?")
    return Path(path)


def _load(argument: str, file: Path) -> Any:
    """Read the array of a .npy file, or the arrays of a .npz file by name; all damage raises the same error."""
    if file.suffix.lower() not in ARRAYS:
        remedy = CONVERSIONS.get(file.suffix.lower(), "convert it to one of them")
        raise ConvolithError(f"{argument} is {file}; expected one of {', '.join(READABLE)}; {remedy}")
    if file.is_file() and not file.stat().st_size:
        raise ConvolithError(f"{argument} is {file}, which cannot be read (it is empty, 0 bytes); is it complete?")
    try:
        with file.open("rb") as stream:  # NumPy does not close a damaged file
            beginning = stream.read(len(NUMPY))
            stream.seek(0)
            if beginning != NUMPY and not beginning.startswith(ZIP):
                writer = "numpy.save" if file.suffix.lower() == ".npy" else "numpy.savez"
                raise ConvolithError(
                    f"{argument} is {file}, which cannot be read (it begins with {beginning!r}, not as a file of "
                    f"{writer} does); write it with {writer}"
                )
            check_arrays(argument, file, stream)
            loaded = np.load(stream, allow_pickle=False)
            arrays = loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except ConvolithError:
        raise
    except Exception as error:  # noqa: BLE001 - every layer of the format raises its own errors
        if "allow_pickle" in str(error):
            raise ConvolithError(
                f"{argument} is {file}, which holds Python objects; expected numbers; store array.astype(float)"
            ) from None
        raise ConvolithError(
            f"{argument} is {file}, which cannot be read ({error or type(error).__name__}); is it complete?"
        ) from None
    if isinstance(arrays, dict):
        arrays = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
        if not arrays:
            raise ConvolithError(f"{argument} is {file}, which holds no array; write it with numpy.savez")
    return arrays
