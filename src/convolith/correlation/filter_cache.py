"""Cache of calls of `filter_image`: one that was seen before needs no reading of options, no checks and no planning."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from math import inf
from typing import Any, NamedTuple

import numpy as np
import torch

from convolith.arrays import Operands, as_tensor, like
from convolith.arrays import flip as flip_axes
from convolith.correlation import call_cache, overflow
from convolith.correlation.gradients import chooser
from convolith.correlation.result_dtypes import convert, holds_rounded, say_changed
from convolith.dtypes import COMPLEX, is_float
from convolith.engines import BY_NAME, buffers
from convolith.jit import thread_count
from convolith.planner import Plan, needs_kernel, plan
from convolith.planner.plan import compute, compute_rounded
from convolith.planner.prepared_kernels import Choose, PreparedKernel, prepared
from convolith.planner.store import generation
from convolith.spec import ConvSpec
from convolith.tensors import torch_dtype
from convolith.torch_private import dispatch_modes, needs_torch_operators

RECORDED = 4
"""Index of what autograd records in a call's key."""
KERNEL_BYTES = 1 << 12
"""Bytes of a kernel up to which a repeated call is found by all of them."""
STATE_BYTES = 1 << 20
"""Largest prepared kernel that is kept with a repeated call."""
MOST_REPEATS = 64


class FilterCall(NamedTuple):
    """How a call that was seen before is computed, in one layout."""

    places: tuple[int, ...] | None
    """Axes of the picture that come last in its planes; None if they are last already."""
    dtypes: tuple[torch.dtype, torch.dtype]
    """Dtypes of the planes and of the kernel in the computation."""
    plan: Plan
    choose: Choose | None
    """Function that plans for a kernel's values, if they may decide the engine."""
    flip: bool
    planes: tuple[int, ...]
    """Shape of the planes."""
    kernel: tuple[int, ...]
    """Shape of the kernel of the planes."""
    filtered: tuple[int, ...]
    """Shape of the filtered planes."""
    result: tuple[int, ...]
    """Shape of the result, before the axes of its planes move back."""
    wanted: str | None
    """Dtype of the result, if the caller named one."""
    rounds: bool
    """Whether it is one of the integers that engines may round to."""

    copying: float
    """Estimated time of bringing the picture into its planes and the result back, in seconds."""

    safe: float
    """Size of a kernel below which no weight and no sum exceeds its dtype: the sum of |k| for whole numbers, the
    largest |k| for floats that become narrower; infinite where no kernel does."""
    whole: str | None
    """Dtype of the result of whole numbers; None for floats."""
    padding_value: float
    narrow: bool
    """Whether floats of the result may be infinite since the picture became narrower, or they are of a half type."""

    def prepared(self, taps: torch.Tensor) -> PreparedKernel:
        """Return the plan and the engine's state for a kernel."""
        k = taps.to(self.dtypes[1]).reshape(self.kernel)
        return prepared(self.plan, flip_axes(k, range(2, k.ndim)) if self.flip else k, self.choose)

    def run(self, image: torch.Tensor, entry: PreparedKernel) -> torch.Tensor | None:
        """Filter a picture; None if the full path has to: NaN that would spread, results that are not finite."""
        x = image if image.dtype is self.dtypes[0] else image.to(self.dtypes[0])
        last = tuple(range(-len(self.places or ()), 0))
        if self.places is not None:
            x = x.movedim(self.places, last)
        x = x.reshape(self.planes)
        local = BY_NAME[entry.plan.engine].keeps_nonfinite_local(self.plan.spec)
        if not local and x.is_floating_point() and bool(x.sum().isnan()):
            return None
        y = self._rounded(entry.plan, entry.state, x) if self.rounds else None
        if y is None:
            y = convert(compute(entry.plan, entry.state, x, None), self.wanted)
        y = y.reshape(self.result)
        if self.places is not None:
            y = y.movedim(last, self.places)
        return None if self.narrow and not overflow.all_finite(y) else y.contiguous()

    def _rounded(self, chosen: Plan, state: Any, x: torch.Tensor) -> torch.Tensor | None:
        """Return the result as integers that the engine itself rounds; None if it does not."""
        wanted = str(self.wanted)
        y = buffers.empty(self.filtered, torch_dtype(wanted))
        changed = compute_rounded(chosen, state, x, y)
        if changed is None:
            return None
        say_changed(changed.clipped, changed.missing, y.numel(), wanted)
        return y


class Seen(NamedTuple):
    """A call that was seen before."""

    options: tuple[Any, ...]
    """Options as given, found to be valid."""
    ways: tuple[FilterCall, ...]
    """The layouts in which it can be computed, the fastest first; a kernel that recurs may make another faster."""


class Repeat(NamedTuple):
    """A call that was seen before with the same small kernel: only the values of the picture are new."""

    options: tuple[Any, ...]
    """Options as given, found to be valid."""
    call: FilterCall
    kernel: PreparedKernel


_repeats: dict[Any, Repeat] = {}


def forget() -> None:
    """Drop all repeated calls."""
    _repeats.clear()


def repeat_key(image: Any, kernel: Any, options: tuple[Any, ...]) -> Any:
    """Return the key of a call on NumPy arrays with a small kernel; None for others, and under torch's modes."""
    if type(image) is not np.ndarray or type(kernel) is not np.ndarray or kernel.nbytes > KERNEL_BYTES:
        return None
    if dispatch_modes() or needs_torch_operators() or torch.compiler.is_compiling():
        return None
    taps = kernel.tobytes()
    return (image.shape, image.dtype, kernel.shape, kernel.dtype, taps, options, thread_count(), generation())


def repeated(key: Any, image: Any) -> Any:
    """Return the result of a call that was seen before with the same kernel, or None."""
    repeat = call_cache.find(key, _repeats)
    if repeat is None:
        return None
    y = repeat.call.run(as_tensor("image", image), repeat.kernel)
    return None if y is None else y.numpy()


def key_of(image: Any, kernel: Any, options: tuple[Any, ...]) -> tuple[Any, Operands | None]:
    """Return the key of a call and its picture and kernel as tensors; None for calls that need the full path."""
    if torch.compiler.is_compiling() or not isinstance(image, np.ndarray | torch.Tensor):
        return None, None
    if isinstance(image, np.ma.MaskedArray) or not isinstance(kernel, np.ndarray | torch.Tensor):
        return None, None
    if image.dtype in (np.bool_, torch.bool) or kernel.dtype in (np.bool_, torch.bool):
        return None, None
    plain = Operands(as_tensor("image", image), as_tensor("kernel", kernel), None)
    return call_cache.key_of(*plain, (Seen, type(image), *options)), plain


def found(key: Any, plain: Operands | None, image: Any, kernel: Any, repeat: Any) -> Any:
    """Return the result of a call that was seen before, in the kind of array that the picture is, or None.

    Args:
        key, plain: the call's key and its operands, from `key_of`.
        image, kernel: the picture and the kernel as given.
        repeat: the call's key from `repeat_key`, under which it is found sooner from now on.
    """
    seen = call_cache.find(key)
    if seen is None or plain is None:
        return None
    call = seen.ways[0]
    if call.safe < inf and _may_exceed(call, plain, kernel):
        return None
    entry = call.prepared(plain.k)
    settled = entry.settled
    for other in seen.ways[1:] if entry.mark is not None or not call.plan.prepares else ():  # a kernel that recurs
        there = other.prepared(plain.k)
        settled = settled and there.settled
        if (there.plan.seconds or inf) + other.copying < (entry.plan.seconds or inf) + call.copying:
            call, entry = other, there
    y = call.run(plain.x, entry)
    if y is None:
        return None
    if repeat is not None and settled and entry.size <= STATE_BYTES and (call.whole is None or call.safe == inf):
        if len(_repeats) >= MOST_REPEATS:
            _repeats.clear()
        owned = entry if entry.mark is not None else call.prepared(plain.k.clone())  # not the caller's memory
        with suppress(TypeError):  # an option that cannot be hashed
            _repeats[repeat] = Repeat(repeat[call_cache.OPTIONS], call, owned)
    return like(y, image)


def _may_exceed(call: FilterCall, plain: Operands, kernel: Any) -> bool:
    """Return whether the full path has to look for values that the dtype of a computation does not hold."""
    size = overflow.weights(kernel)
    if call.whole is None:
        return size.finite and size.largest > call.safe
    return size.total >= call.safe and overflow.may_wrap(plain.x, plain.k, call.padding_value, call.whole)


def remember(key: Any, ways: Iterable[FilterCall]) -> None:
    """Cache a call that the full path has computed, with the layouts in which it can be."""
    call_cache.keep(key, Seen(key[call_cache.OPTIONS], tuple(ways)))


def repeatable(key: Any, planes: ConvSpec, how: dict[str, Any]) -> bool:
    """Return whether a call can be repeated without looking at its arguments again."""
    if key is None or needs_kernel(planes, how["accuracy"], how["engine"]):
        return False
    return key[RECORDED] is None and planes.out_dtype not in COMPLEX and planes.batch > 0


def way(
    shape: tuple[int, ...],
    planes: ConvSpec,
    places: tuple[int, ...],
    how: dict[str, Any],
    wanted: str | None,
    copying: float,
    given: tuple[torch.dtype, torch.dtype],
) -> FilterCall:
    """Return how a picture is filtered in one layout.

    Args:
        shape: shape of the picture.
        planes: the layer that computes its planes.
        places: axes of the picture that come last in the planes.
        how: `engine`, `accuracy` and `flip`.
        wanted: dtype of the result, if the caller named one.
        copying: estimated time of bringing the picture into this layout and back, in seconds.
        given: dtypes of the picture and of the kernel before they were converted.
    """
    x, k = torch_dtype(planes.dtype), torch_dtype(planes.kernel_dtype)
    whole = None if is_float(planes.out_dtype) else planes.out_dtype
    result = torch_dtype(planes.out_dtype if wanted is None else wanted)
    floats = overflow.safe_weights(given[1], k)
    safe = floats if whole is None else overflow.safe_total(x, float(planes.padding_value), whole)
    chosen = plan(planes, accuracy=how["accuracy"], engine=how["engine"])
    others = tuple(n for axis, n in enumerate(shape) if axis not in places)
    moves = places != tuple(range(len(shape)))[-len(places) :]
    return FilterCall(
        places=places if moves else None,
        dtypes=(x, k),
        plan=chosen,
        choose=None if chosen.by_name else chooser(chosen),
        flip=bool(how["flip"]),
        planes=planes.input_shape,
        kernel=planes.kernel_shape,
        filtered=planes.output_shape,
        result=(*others, *planes.output_shape[2:]),
        wanted=wanted,
        rounds=wanted is not None and holds_rounded(planes.out_dtype, wanted),
        copying=copying,
        safe=safe,
        whole=whole,
        padding_value=float(planes.padding_value),
        narrow=overflow.may_overflow(given[0], x, result),
    )
