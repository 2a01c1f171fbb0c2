"""Everything that depends on torch's private names: one guarded function for each, with what happens without it.

Also, since torch does not do it, calls of its operators in a forked child process.
"""

from __future__ import annotations

import contextvars
import copy
import json
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial, wraps
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch
import torch.fx
from torch.autograd import forward_ad
from torch.nn.modules.batchnorm import _NormBase as NormBase
from torch.nn.modules.conv import _ConvNd as ConvolutionBase
from torch.nn.modules.conv import _ConvTransposeNd as TransposedBase
from torch.utils import _python_dispatch, _pytree
from torch.utils._python_dispatch import TorchDispatchMode

from convolith.errors import ConvolithError, caller

OLDEST = (2, 10)
"""Oldest version of torch that the tests pass with, as in `pyproject.toml`."""


def check_version(version: str) -> None:
    """Refuse a torch that is too old: what follows would fail with names that it lacks."""
    found = tuple(map(int, re.findall(r"\d+", version)[:2]))
    if found < OLDEST:
        least = ".".join(map(str, OLDEST))
        raise ConvolithError(
            f"torch has version {version}; expected {least} or newer; pip install --upgrade 'torch>={least}'"
        )


check_version(torch.__version__)

T = TypeVar("T")
P = ParamSpec("P")
_count_modes: Callable[[], int] = getattr(torch._C, "_len_torch_dispatch_stack", int)
_tracing_state: Callable[[], Any] = getattr(torch._C, "_get_tracing_state", lambda: None)
_functorch_is_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", bool)

AUTOCAST_DEVICES = frozenset(
    device for device in ("cpu", "cuda", "xpu", "mps", "hpu", "mtia", "xla") if torch.amp.is_autocast_available(device)
)
"""Devices that have autocast; `is_autocast_available` itself cannot be compiled before torch 2.11."""

__all__ = ("AUTOCAST_DEVICES", "ConvolutionBase", "NormBase", "TorchDispatchMode", "TransposedBase")
"""Constants, and base classes of torch's own modules and modes; functions follow."""


def dispatch_modes() -> int:
    """Return how many dispatch modes (fake tensors, counters) are active; 0 where torch does not say."""
    return int(_count_modes())


def is_traced_or_transformed() -> bool:
    """Return whether `torch.jit.trace`, a functorch transform or forward-mode differentiation is active."""
    return _tracing_state() is not None or _functorch_is_active() or forward_ad._current_level >= 0


def needs_torch_operators() -> bool:
    """Return whether autocast, a tracer or a transform is active, which only torch's own operators satisfy."""
    return (  # written out: it runs in every call
        _tracing_state() is not None
        or _functorch_is_active()
        or forward_ad._current_level >= 0
        or torch.is_autocast_enabled("cpu")
    )


def version_of(tensor: torch.Tensor) -> int:
    """Return how many times a tensor was written to; 0 where torch does not count: in inference mode, and compiled."""
    return 0 if torch.compiler.is_compiling() or tensor.is_inference() else tensor._version


def versions_of(tensors: list[torch.Tensor]) -> list[int]:
    """Return how many times each of some tensors was written to."""
    return [tensor._version for tensor in tensors]  # in every call of a network


def is_view(tensor: torch.Tensor) -> bool:
    """Return whether autograd regards a tensor as a view, which restricts writing to it in place."""
    return bool(tensor._is_view())


def without_batch(y: torch.Tensor) -> torch.Tensor:
    """Return the one element of a batch, in the same memory, as a tensor that autograd does not regard as a view."""
    operator = getattr(torch.ops.aten, "_unsafe_view", None)
    return y[0].clone() if operator is None else operator(y, y.shape[1:])


def output_padding_of(module: torch.nn.Module, x: torch.Tensor, output_size: list[int] | None) -> tuple[int, ...]:
    """Return a transposed convolution's output padding, which follows from `output_size` where that is given."""
    layer: Any = module
    if output_size is None:
        return tuple(layer.output_padding)
    axes = len(layer.kernel_size)
    return tuple(
        layer._output_padding(x, output_size, layer.stride, layer.padding, layer.kernel_size, axes, layer.dilation)
    )


# Fake tensors --------------------------------------------------------------------------------------------------------


@cache
def _fake_tensors() -> Any:
    """Return torch's module of fake tensors, which takes long to import and is needed by counting alone."""
    from torch._subclasses import fake_tensor

    return fake_tensor


def fake_mode() -> Any:
    """Return a mode in which operators give tensors that have a shape and no memory, whatever they are given."""
    return _fake_tensors().FakeTensorMode(allow_non_fake_inputs=True)


def fake_of(tensor: torch.Tensor, fake: Any) -> torch.Tensor:
    """Return the fake tensor of a plain tensor, as `from_tensor` does, in a fraction of its time.

    Args:
        tensor: strided, a leaf, of no subclass but Parameter, and with memory of its own.
        fake: a mode of `fake_mode`.
    """
    made: torch.Tensor = _fake_tensors().FakeTensor(fake, _without_memory(tensor), tensor.device)
    made.requires_grad = tensor.requires_grad
    if isinstance(tensor, torch.nn.Parameter):
        made._is_param = True  # as torch marks it
    return made


def fake_constant(tensor: torch.Tensor, fake: Any) -> torch.Tensor:
    """Return the fake tensor of a plain tensor whose values are known until something is written into it.

    Args:
        tensor: as for `fake_of`; its values are copied.
        fake: a mode of `fake_mode`.
    """
    with unmodified_dispatch():
        constant = tensor.detach().clone()
    made: torch.Tensor = _fake_tensors().FakeTensor(fake, _without_memory(tensor), tensor.device, constant=constant)
    fake.fake_tensor_converter.add_constant_storage_mapping(made)
    return made


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    with unmodified_dispatch():
        return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")


@contextmanager
def unmodified_dispatch() -> Iterator[None]:
    """While inside, no dispatch mode of this thread sees an operator."""
    guard = torch._C._DisableTorchDispatch()
    try:
        yield
    finally:
        del guard


def is_unknown_value(problem: BaseException) -> bool:
    """Return whether an operator of fake tensors wanted values, which they do not have."""
    name = type(problem).__name__
    return "DataDependent" in name or "DynamicOutput" in name


def wants_memory(problem: BaseException) -> bool:
    """Return whether an operator or the model's own code wanted the memory of a fake tensor, which has none."""
    if isinstance(problem, TypeError):  # arguments of other types, among which its message names fake tensors
        return False
    said = str(problem)
    return "Fake" in type(problem).__name__ or any(words in said for words in _SAID_OF_MEMORY)


_SAID_OF_MEMORY = (
    *("fake tensor", "Meta tensor", "meta tensor", "'Meta' backend", "data pointer", "tensor subclasses"),
    "Could not run '",
)
"""What torch's messages have that speak of a tensor without memory."""


# Dispatch modes of several threads -----------------------------------------------------------------------------------

_FLAGS = (
    "_is_in_torch_dispatch_mode",
    "_is_in_non_infra_torch_dispatch_mode",
    "_is_in_any_mode_without_ignore_compile_internals",
)
"""Names of torch's flags for "some thread is in a dispatch mode", which its compiler reads."""
_SET_IN_C = "set_is_in_mode_without_ignore_compile_internals"
_modes_lock = threading.Lock()
_modes_entered = 0
_flags_before: dict[str, bool] = {}


def _new_lock() -> None:
    """Replace the lock in a child process, where the thread that held it may not exist."""
    global _modes_lock, _modes_entered
    _modes_lock, _modes_entered = threading.Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


@contextmanager
def dispatch_mode(mode: Any) -> Iterator[Any]:
    """Enter a dispatch mode in this thread.

    Torch keeps its flags for the whole process, and each mode restores what it found: modes of two threads that overlap
    would leave them set for good, and `torch.compile` would then compile nothing. Here the last mode restores them.
    """
    global _modes_entered
    with _modes_lock:
        if not _modes_entered:
            _flags_before.update(_flags())
        mode.__enter__()
        _modes_entered += 1
    try:
        yield mode
    finally:
        with _modes_lock:
            _modes_entered -= 1
            flags = _flags() if _modes_entered else dict(_flags_before)
            mode.__exit__(None, None, None)
            _restore_flags(flags)


def _flags() -> dict[str, bool]:
    return {name: getattr(_python_dispatch, name) for name in _FLAGS if hasattr(_python_dispatch, name)}


def _restore_flags(flags: dict[str, bool]) -> None:
    vars(_python_dispatch).update(flags)
    in_c = getattr(_python_dispatch, _SET_IN_C, None)
    if in_c is not None and _FLAGS[2] in flags:
        in_c(flags[_FLAGS[2]])


class _OtherThreads(logging.Filter):
    """Lets through what threads log that are not in `without_log`."""

    quiet = threading.local()

    def filter(self, record: logging.LogRecord) -> bool:  # noqa: ARG002 - the base's own
        return not getattr(self.quiet, "depth", 0)


_other_threads = _OtherThreads()


@contextmanager
def without_log() -> Iterator[None]:
    """While inside, fake tensors log nothing of this thread: they would log each refusal with a traceback."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    logger.addFilter(_other_threads)  # added once, and without effect on other threads
    quiet = _OtherThreads.quiet
    quiet.depth = getattr(quiet, "depth", 0) + 1
    try:
        yield
    finally:
        quiet.depth -= 1


def mapped_tree(function: Callable[[Any], Any], tree: Any) -> Any:
    """Return nested lists, tuples, dicts and registered containers with a function applied to each of their leaves."""
    return _pytree.tree_map(function, tree)


def flattened(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested containers, and their structure for `unflattened`."""
    return _pytree.tree_flatten(tree)


def unflattened(leaves: list[Any], structure: Any) -> Any:
    """Return nested containers of a structure with other leaves."""
    return _pytree.tree_unflatten(leaves, structure)


def leaves_of(tree: Any) -> list[Any]:
    """Return the leaves of nested lists, tuples, dicts and registered containers."""
    return _pytree.tree_leaves(tree)


def exported_trees(module: Any) -> tuple[str, str]:
    """Return the structures of the arguments and of the results of an exported graph, as JSON.

    Raises:
        TypeError or its like: a container of a type that torch cannot write.
    """
    return _pytree.treespec_dumps(module._in_spec), _pytree.treespec_dumps(module._out_spec)


def imports(tree: str) -> bool:
    """Return whether torch would import a module to read a structure of containers that is given as JSON."""

    def look(value: Any) -> bool:
        if isinstance(value, list):
            return any(map(look, value))
        if not isinstance(value, dict):
            return False
        if "__enum__" in value or value.get("type") == "collections.defaultdict":
            return True
        try:  # what a container knows of itself is JSON in JSON
            inner = json.loads(value["context"])
        except (KeyError, TypeError, ValueError):
            inner = None
        return look(inner) or any(map(look, value.values()))

    return look(json.loads(tree))


def fixed_size(size: Any) -> int | None:
    """Return a size of an exported graph, or None if it may have other values."""
    return int(size) if isinstance(size, int) or str(size).isdigit() else None


def take_trees(graph: torch.fx.Graph, names: list[str], trees: tuple[str, str]) -> None:
    """Let a graph take and give containers, as an exported one does.

    Args:
        graph: a graph whose inputs are the leaves of its arguments.
        names: names of these inputs.
        trees: what `exported_trees` gave.
    """
    inputs, outputs = map(_pytree.treespec_loads, trees)
    info = torch.fx.graph._PyTreeInfo(names, inputs, outputs)
    graph.set_codegen(torch.fx.graph._PyTreeCodeGen(info))


# The backward pass ---------------------------------------------------------------------------------------------------


def last_node() -> int:
    """Return the number of the node of the backward pass that this thread made last."""
    return int(torch._C._autograd._get_sequence_nr()) - 1


def running_node() -> int | None:
    """Return the number of the node that runs in this thread's backward pass, or None where none runs."""
    node = torch._C._current_autograd_node()
    return None if node is None else int(node._sequence_nr())


def has_onednn() -> bool:
    """Return whether torch was built with oneDNN."""
    return bool(getattr(torch._C, "_has_mkldnn", False))


def storage_identity(storage: torch.UntypedStorage) -> int:
    """Return a number that tells a storage from all others that exist."""
    return int(storage._cdata)


def sparse_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return indices and values of a sparse tensor, coalesced or not."""
    return [tensor._indices(), tensor._values()]


def allocations(call: Callable[[], Any]) -> list[int]:
    """Call a function and return the bytes that this thread's allocator gave (above 0) and took back, in order.

    Torch's first profiler tells of them; its second one writes to the standard error when it starts and stops, and only
    one of the process can run.
    """
    profiler: Any = torch.autograd
    shapes, memory, stack, flops, modules = False, True, False, False, False
    others = torch._C._profiler._ExperimentalConfig()
    options = (profiler.ProfilerState.CPU, shapes, memory, stack, flops, modules, others)
    profiler._enable_profiler_legacy(profiler.ProfilerConfig(*options))
    try:
        call()
    finally:
        events = [event for thread in profiler._disable_profiler_legacy() for event in thread]
    return [int(event.cpu_memory_usage()) for event in events if event.kind() == "memory_alloc"]


def with_generator(operator: Any, args: tuple[Any, ...], keywords: dict[str, Any], generator: torch.Generator) -> Any:
    """Call an operator that draws random numbers, from a generator instead of torch's own, which all threads share.

    Where an operator takes no generator (those of a few distributions), torch's own is put back after it.
    """
    packet = operator.overloadpacket
    wanted = _arguments(operator) | {"generator"}
    for overload in (operator, *(getattr(packet, name) for name in packet.overloads())):
        if _arguments(overload) == wanted:
            return overload(*args, **{"generator": generator, **keywords})
    if operator is torch.ops.aten.native_dropout.default and args[2] is not False and 0 < args[1] < 1:
        kept = torch.empty_like(args[0], dtype=torch.bool).bernoulli_(1 - args[1], generator=generator)
        return args[0] * kept / (1 - args[1]), kept
    with torch.random.fork_rng(devices=[]):
        return operator(*args, **keywords)


def _arguments(operator: Any) -> set[str]:
    return {argument.name for argument in operator._schema.arguments}


def draws(operator: Any) -> bool:
    """Return whether an operator draws random numbers."""
    return torch.Tag.nondeterministic_seeded in operator.tags


def operator_name(operator: Any) -> str:
    """Return an operator's name with its namespace and without its overload, such as "aten::add"."""
    return str(operator._schema.name)


def opens_files(operator: Any) -> bool:
    """Return whether an operator reads or writes files, as `torch.from_file` does."""
    return operator_name(operator).startswith("debugprims::") or "filename" in _arguments(operator)


def has_tensors(operator: Any) -> bool:
    """Return whether an operator takes or gives tensors."""
    schema = operator._schema
    return any("Tensor" in str(value.type) for value in (*schema.arguments, *schema.returns))


# Modules -------------------------------------------------------------------------------------------------------------


def script_copy(module: torch.jit.ScriptModule, tensor_copy: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return a copy of a scripted module with parts of its own, and with other tensors in the place of its own."""
    recursive: Any = torch.jit._recursive
    made = recursive.wrap_cpp_module(_shallow(module._c))
    for ours, theirs in zip(made.modules(), module.modules(), strict=True):
        for store, tensors in ((ours._parameters, theirs._parameters), (ours._buffers, theirs._buffers)):
            for name, tensor in list(tensors.items()):
                if tensor is not None:
                    store[name] = tensor_copy(tensor)
    return made


def _shallow(scripted: Any) -> Any:
    made = copy.copy(scripted)
    for name, part in torch._C.ModuleDict(scripted).items():
        made.setattr(name, _shallow(part))
    return made


def uncompiled(function: Any) -> Any:
    """Return what `torch.compile` was given to make a function, or the function itself where it is not compiled."""
    original = getattr(function, "_torchdynamo_orig_callable", None)
    return original if callable(original) else function


def is_overload(value: Any) -> bool:
    """Return whether a value is one of torch's operators in one of its signatures, as `torch.ops.aten.relu.default`."""
    return isinstance(value, torch._ops.OpOverload)


GRAPH_ASSERT = torch._assert
"""The function by which a graph, and what is exported from it, checks a condition."""


def writes(operator: Any) -> bool:
    """Return whether an operator writes to one of its arguments."""
    return any(a.alias_info is not None and a.alias_info.is_write for a in operator._schema.arguments)


def depends_on_values(operator: Any) -> bool:
    """Return whether the shape of an operator's result, or what it returns to Python, depends on values."""
    return bool({torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(operator.tags))


def not_writing(operator: Any) -> Any:
    """Return the operator that gives a new tensor instead of writing to its first argument, or None."""
    name, overload = operator_name(operator), operator._overloadname
    space, _, plain = name.partition("::")
    if not plain.endswith("_") or plain.startswith("__"):
        return None
    packet = getattr(getattr(torch.ops, space), plain[:-1], None)
    found = getattr(packet, overload, None)
    return None if found is None or writes(found) else found


def view_of(operator: Any) -> Any:
    """Return the operator that makes a view where another one gives its argument other axes in place, or None."""
    space, _, name = operator_name(operator).partition("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
    wanted = [(argument.name, str(argument.type)) for argument in operator._schema.arguments]
    for overload in () if packet is None else packet.overloads():
        found = getattr(packet, overload)
        if [(a.name, str(a.type)) for a in found._schema.arguments] == wanted and is_alias(found) and not writes(found):
            return found
    return None


def is_alias(operator: Any) -> bool:
    """Return whether an operator's results are views of an argument."""
    return any(r.alias_info is not None for r in operator._schema.returns)


# Forked child processes ----------------------------------------------------------------------------------------------
#
# An OpenMP team belongs to the thread that started it. After a fork, torch's operators hang on the forked thread, which
# waits for a team that the child does not have; a thread that the child starts gets its own team.

_forked = False
_own_thread: ThreadPoolExecutor | None = None
"""Thread that a forked child started itself, on which torch's operators get their own OpenMP threads."""


class _Modes(NamedTuple):
    """Settings of torch that each thread has of its own."""

    inference: bool
    gradients: bool
    autocast: bool
    autocast_dtype: torch.dtype


def _after_fork() -> None:
    global _forked, _own_thread
    _forked, _own_thread = True, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def is_forked() -> bool:
    """Return whether this process is a forked child."""
    return _forked


def on_own_thread(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function that runs torch's operators; on the thread that was forked, by a thread that the child started.

    Gradients, inference mode, autocast and context variables (as of `np.errstate`) are those of the caller, and
    warnings point to its line. A call that torch compiles, traces or transforms stays on the caller's thread.
    """
    global _own_thread
    if not _forked or torch.compiler.is_compiling():  # which cannot look at threads
        return function(*arguments)
    if threading.current_thread() is not threading.main_thread():  # the forked thread is the main one
        return function(*arguments)
    if dispatch_modes() or is_traced_or_transformed():
        return function(*arguments)
    if _own_thread is None:
        _own_thread = ThreadPoolExecutor(1, "convolith-fork")
    modes = _Modes(
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
    )
    context = contextvars.copy_context()
    context.run(caller.set, sys._getframe(1))
    future = _own_thread.submit(context.run, _in_modes, modes, function, arguments)
    try:
        return future.result()
    except BaseException:
        if not future.done():  # Ctrl-C: later calls do not wait for this one
            _own_thread = None
        raise


def _in_modes(modes: _Modes, function: Callable[..., T], arguments: tuple[Any, ...]) -> T:
    """Call a function with the caller's settings."""
    autocast = torch.autocast("cpu", enabled=modes.autocast, dtype=modes.autocast_dtype)
    with torch.inference_mode(modes.inference), torch.set_grad_enabled(modes.gradients), autocast:
        return function(*arguments)


def safe_in_forks(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that does not hang in a forked child: see `on_own_thread`."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        if not _forked:
            return function(*arguments, **options)
        return on_own_thread(partial(function, *arguments, **options))

    return call
