"""`python -m bench.stand_in HOW PROGRAM`: one engine with torch, or on NumPy arrays alone; its times as JSON.

HOW is `torch`, or `libgomp` or `threads`: a stand-in then takes the place of torch, with as much of it as generated
engines touch, and their code runs on the system's OpenMP library or on Python threads. PROGRAM is an engine's name, or
`fit`. `bench/without_torch.py` runs it, and docs/without-torch.md says what it shows; nothing of it is in the package.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import sys
import time
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

NAMES = (
    *("float16", "float32", "float64", "complex64", "complex128", "bool"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
CALLS = 30


class Dtype:
    """A dtype of torch, by the name that NumPy has for it too."""

    def __init__(self, name: str) -> None:
        self.name, self.itemsize = name, 2 if name == "bfloat16" else np.dtype(name).itemsize

    def __repr__(self) -> str:
        return f"torch.{self.name}"


DTYPES = {name: Dtype(name) for name in (*NAMES, "bfloat16")}


class Tensor:
    """A NumPy array with the methods of a tensor that engines call."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape, self.ndim = array.shape, array.ndim
        self.nbytes, self.itemsize = array.nbytes, array.itemsize
        self.dtype = DTYPES[array.dtype.name]

    def __getitem__(self, index: Any) -> Tensor:
        return Tensor(self.array[index])

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[index] = value.array if isinstance(value, Tensor) else value

    def __len__(self) -> int:
        return len(self.array)

    def stride(self, axis: int | None = None) -> Any:
        strides = tuple(step // self.array.itemsize for step in self.array.strides)
        return strides if axis is None else strides[axis]

    def data_ptr(self) -> int:
        return self.array.ctypes.data

    def element_size(self) -> int:
        return self.array.itemsize

    def numel(self) -> int:
        return self.array.size

    def is_contiguous(self) -> bool:
        return self.array.flags.c_contiguous

    def contiguous(self) -> Tensor:
        return self if self.is_contiguous() else Tensor(np.ascontiguousarray(self.array))

    def to(self, dtype: Dtype) -> Tensor:
        return self if dtype is self.dtype else Tensor(self.array.astype(dtype.name))

    def detach(self) -> Tensor:
        return self

    def numpy(self) -> np.ndarray:
        return self.array

    def view(self, *shape: Any) -> Tensor:
        return Tensor(self.array.view(shape[0].name) if isinstance(shape[0], Dtype) else self.array.reshape(*shape))

    def reshape(self, *shape: Any) -> Tensor:
        return Tensor(self.array.reshape(*shape))

    def movedim(self, source: int, destination: int) -> Tensor:
        return Tensor(np.moveaxis(self.array, source, destination))

    def narrow(self, axis: int, start: int, length: int) -> Tensor:
        return Tensor(self.array[(slice(None),) * axis + (slice(start, start + length),)])

    def copy_(self, other: Tensor) -> Tensor:
        self.array[...] = other.array
        return self

    def fill_(self, value: float) -> Tensor:
        self.array[...] = value
        return self


class _Everything(type):
    """Type of `Absent`: its attributes, calls and items are `Absent`; as a decorator it changes nothing."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent

    def __call__(cls, *args: Any, **options: Any) -> Any:
        if cls is not Absent:
            return super().__call__(*args, **options)
        return args[0] if len(args) == 1 and not options and callable(args[0]) else Absent

    def __getitem__(cls, _: Any) -> Any:
        return Absent


class Absent(metaclass=_Everything):
    """Whatever torch has and the stand-in lacks: modules may name it and derive from it, but it computes nothing."""


class StandIn(MetaPathFinder, Loader):
    """Finder of `torch` and all its modules."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002 - its interface
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == "torch" else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        vars(module).update({"__getattr__": lambda name: getattr(Absent, name), "__file__": os.devnull})
        return module

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "torch":
            vars(module).update(
                DTYPES,
                __version__="2.13",
                dtype=Dtype,
                Tensor=Tensor,
                empty=lambda shape, dtype=DTYPES["float32"], device=None: Tensor(np.empty(shape, dtype.name)),  # noqa: ARG005
                full=lambda shape, value, dtype, device=None: Tensor(np.full(shape, value, dtype.name)),  # noqa: ARG005
                tensor=lambda values, dtype, device=None: Tensor(np.array(values, dtype.name)),  # noqa: ARG005
                from_numpy=Tensor,
                get_num_threads=lambda: int(os.environ.get("CONVOLITH_BENCH_THREADS", "1")),
            )


def install(library: str) -> None:
    """Let the stand-in take the place of torch, and generated code run on a library's threads or on Python's."""
    sys.meta_path.insert(0, StandIn())
    from convolith.jit import threads

    if library != "threads":
        parallel = ctypes.CDLL(library).GOMP_parallel
        parallel.argtypes, parallel.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
        threads.openmp = lambda: parallel


LAYERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, int]]] = {
    "direct": ((1, 1, 1024, 1024), (1, 1, 7, 7), {"padding": 3}),
    "depthwise": ((1, 64, 112, 112), (64, 1, 3, 3), {"padding": 1, "stride": 2, "groups": 64}),
    "pointwise": ((1, 64, 56, 56), (64, 64, 1, 1), {}),
    "im2col": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1, "stride": 2}),
    "winograd_2x2": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "winograd_4x4": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "winograd_6x6": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "fft": ((1, 1, 256, 256), (1, 1, 31, 31), {}),
    "separable": ((1, 1, 256, 256), (1, 1, 31, 31), {}),
    "aten": ((1, 64, 56, 56), (64, 64, 3, 3), {"padding": 1}),
    "reference": ((1, 16, 56, 56), (16, 16, 3, 3), {"padding": 1}),
}
"""Shapes of x and k, and options, of a layer that each engine computes."""


def sums(x: np.ndarray, k: np.ndarray, padding: int = 0, stride: int = 1, groups: int = 1) -> np.ndarray:
    """Return the correlation in float64, summed tap by tap."""
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    x, k = x.reshape(len(x), groups, -1, *x.shape[2:]), k.astype(np.float64).reshape(groups, -1, *k.shape[1:])
    rows, columns = ((n - taps) // stride + 1 for n, taps in zip(x.shape[3:], k.shape[3:], strict=True))
    total = np.zeros((len(x), groups, k.shape[1], rows, columns))
    for i, j in np.ndindex(*k.shape[3:]):
        seen = x[..., i : i + stride * rows : stride, j : j + stride * columns : stride]
        total += np.einsum("ngcij,goc->ngoij", seen, k[..., i, j], optimize=True)
    return total.reshape(len(x), -1, rows, columns)


def layer_of(name: str) -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Return a function that computes an engine's layer by it, and one that computes the layer in float64."""
    import torch

    from convolith.engines import BY_NAME
    from convolith.spec import ConvSpec

    x_shape, k_shape, options = LAYERS[name]
    rng = np.random.default_rng(0)
    x, k = (rng.normal(size=shape).astype(np.float32) for shape in (x_shape, k_shape))
    if name == "separable":
        k[0, 0] = np.outer(np.hanning(33)[1:-1], np.hanning(33)[1:-1])
    spec = ConvSpec.of(x, k, **options)
    engine = BY_NAME[name]
    state = engine.prepare(spec, torch.from_numpy(k))
    given = torch.from_numpy(x)
    return lambda: engine.apply(state, given, None).numpy(), lambda: sums(x, k, **options)


def fit() -> tuple[Callable[[], np.ndarray], Callable[[], np.ndarray]]:
    """Return a function that fits a kernel, and one that returns the true kernel."""
    import convolith as cl

    x, kernel = np.random.default_rng(0).normal(size=(256, 256)), cl.kernels.gaussian(1)
    side = len(kernel)
    y = sums(x[None, None], kernel[None, None])[0, 0]
    return lambda: cl.fit(x, y, kernel_size=side).kernel[0, 0], lambda: kernel


def peak_megabytes() -> float:
    """Return the peak of this program's memory; `resource` would include that of the process that started it."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) * 1024 / 1e6


def main() -> None:
    """Run one program and print its time and its memory up to the first result, the time of a call and the error."""
    how, name = sys.argv[1:]
    if how != "torch":
        install(how if how == "threads" else "libgomp.so.1")
    try:
        run, expected = fit() if name == "fit" else layer_of(name)
        result = run()
        seconds, peak = time.process_time(), peak_megabytes()
        times = []
        for _ in range(CALLS):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        error = float(np.abs(result - expected()).max())
        found = {"seconds": seconds, "megabytes": peak, "milliseconds": 1e3 * min(times), "error": error}
    except Exception as problem:  # whatever the stand-in lacks
        if how == "torch":
            raise
        found = {"failed": f"{type(problem).__name__}: {problem}"}
    print(json.dumps(found | {"torch": "torch._C" in sys.modules}))


if __name__ == "__main__":
    main()
