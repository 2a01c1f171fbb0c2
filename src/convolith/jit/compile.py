"""Compilation of recipes to machine code, cached on disk and in this process."""

from __future__ import annotations

import hashlib
import inspect
import marshal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import llvmlite
import llvmlite.binding as llvm
from llvmlite import ir

from convolith.jit import cache as disk
from convolith.jit import threads
from convolith.jit.target import Target
from convolith.version import __version__

PACKAGE = "convolith."
ENTRY = "region"
"""Name of the function that a recipe must define."""
Recipe = Callable[[ir.Module, Target, Any], None]
"""Function that generates a module's functions for a target, from parameters that their repr identifies."""


class RoutineKey(NamedTuple):
    """Everything that a routine depends on."""

    recipe: Recipe
    target: Target
    parameters: Any
    ordered: bool
    """Whether instructions stay in the order in which they were written."""


_routines: dict[RoutineKey, Routine] = {}
_lock = threading.Lock()


class Routine:
    """Compiled code that threads run together; pickled as its recipe, since addresses are valid in one process only."""

    def __init__(self, asked: RoutineKey) -> None:
        self._asked = asked
        self._engine = _load(asked)  # owner of the machine code
        self._address = int(self._engine.get_function_address(ENTRY))
        self._alone = threads.Region(self._address)

    @property
    def address(self) -> int:
        """Address of the machine code, in this process."""
        return self._address

    def run(self, arguments: int, count: int) -> None:
        """Call the code with the address of its arguments on `count` threads, but on no more than torch uses now."""
        count = min(count, threads.thread_count())
        if count == 1:
            self._alone(arguments)
        else:
            threads.run(self._address, arguments, count)

    def __reduce__(self) -> tuple[Any, ...]:
        return _routine, (self._asked,)


def routine(recipe: Recipe, target: Target, parameters: Any, *, ordered: bool = False) -> Routine:
    """Return the code that a recipe generates, compiled at most once, and not at all if it is stored on disk.

    Args:
        recipe: a function of a module, which generates `region` from the parameters.
        target: the processor.
        parameters: a hashable value with a complete repr.
        ordered: whether instructions stay in the order in which they were written.
    """
    return _routine(RoutineKey(recipe, target, parameters, ordered))


def _routine(key: RoutineKey) -> Routine:
    known = _routines.get(key)
    if known is not None:
        return known
    with _lock:
        known = _routines.get(key)
        if known is None:
            known = _routines[key] = Routine(key)
    return known


def _load(asked: RoutineKey) -> Any:
    """Return the LLVM engine that holds the code, from the disk or from the compiler."""
    recipe, target, parameters, ordered = asked
    key = name_of(recipe, target, parameters, ordered=ordered)
    code = disk.read(key)
    machine = _machine(target)
    if code is None:
        module = llvm.parse_assembly(written(recipe, target, parameters))
        module.verify()
        with _in_written_order() if ordered else nullcontext():
            code = machine.emit_object(module)
        disk.write(key, code)
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return engine


@contextmanager
def _in_written_order() -> Iterator[None]:
    """Keep instructions in the order in which they were written, for recipes that count their registers.

    LLVM's scheduler would move loads earlier until a tile that fills the registers spills: a quarter of its
    instructions were then spills. The option is global to the process, so it is restored.
    """
    llvm.set_option("", "-enable-misched=false")
    try:
        yield
    finally:
        llvm.set_option("", "-enable-misched=true")


def written(recipe: Recipe, target: Target, parameters: Any) -> str:
    """Return the LLVM IR of a recipe as text."""
    module = ir.Module(name="convolith")
    module.triple = target.triple
    recipe(module, target, parameters)
    return str(module)


def name_of(recipe: Recipe, target: Target, parameters: Any, *, ordered: bool = False) -> str:
    """Return the key of a stored object: a digest of everything that its IR and its compilation depend on.

    The IR is a function of the recipe's source, the target and the parameters; the key uses these, since generating
    the IR takes longer than loading the object.
    """
    fields = [recipe.__qualname__, repr(target), repr(parameters), str(ordered)]
    parts = [source_digest(recipe), *fields, llvmlite.__version__, str(llvm.llvm_version_info)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@cache
def source_digest(recipe: Recipe) -> str:
    """Return a digest of the source that generates a recipe's IR: its module and, recursively, the modules it uses."""
    modules: set[str] = {__name__}
    waiting = [recipe.__module__]
    while waiting:
        name = waiting.pop()
        if name not in modules:
            modules.add(name)
            used = {getattr(value, "__module__", "") or "" for value in vars(sys.modules[name]).values()}
            waiting += [module for module in used if module.startswith(PACKAGE)]
    return hashlib.sha256(b"".join(_source(sys.modules[name]) for name in sorted(modules))).hexdigest()


def _source(module: ModuleType) -> bytes:
    """Return the source of a module, or its compiled code if it has no source (.pyc, frozen)."""
    try:
        return inspect.getsource(module).encode()
    except (OSError, TypeError):
        code = getattr(module.__loader__, "get_code", lambda _: None)(module.__name__)
        return marshal.dumps(code) + __version__.encode()


def _machine(target: Target) -> Any:
    llvm_target = llvm.Target.from_triple(target.triple)
    return llvm_target.create_target_machine(
        cpu=target.cpu, features=target.features, opt=3, reloc="pic", codemodel="jitdefault", jit=True
    )
