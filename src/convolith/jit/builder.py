"""Builder of one LLVM IR function: integers with Python's operators, typed pointers, vectors, loops and branches.

Python integers are constants wherever a 64-bit integer is expected; arithmetic between them is done immediately.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, reduce
from typing import Any

from llvmlite import ir

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F16, F32, F64 = ir.HalfType(), ir.FloatType(), ir.DoubleType()
POINTER = ir.PointerType()
VOID = ir.VoidType()
Number = Any
"""Int of the function, or a Python int."""


@dataclass(frozen=True)
class Int:
    """64-bit integer of the function under construction."""

    code: FunctionBuilder
    value: ir.Value

    def __add__(self, other: Number) -> Number:
        return self if isinstance(other, int) and other == 0 else self._signed("add", other)

    def __sub__(self, other: Number) -> Number:
        return self if isinstance(other, int) and other == 0 else self._signed("sub", other)

    def __rsub__(self, other: Number) -> Int:
        return self.code.integer(other)._signed("sub", self)

    def __mul__(self, other: Number) -> Number:
        if isinstance(other, int) and other in (0, 1):
            return self if other else 0
        return self._signed("mul", other)

    __radd__ = __add__
    __rmul__ = __mul__

    def __floordiv__(self, other: Number) -> Number:
        """Return the quotient of two numbers that are not negative."""
        return self if isinstance(other, int) and other == 1 else self._plain("udiv", other)

    def __mod__(self, other: Number) -> Number:
        """Return the remainder of two numbers that are not negative."""
        return 0 if isinstance(other, int) and other == 1 else self._plain("urem", other)

    def __lt__(self, other: Number) -> ir.Value:
        return self.code.ir.icmp_signed("<", self.value, self.code.integer(other).value)

    def __le__(self, other: Number) -> ir.Value:
        return self.code.ir.icmp_signed("<=", self.value, self.code.integer(other).value)

    def __ge__(self, other: Number) -> ir.Value:
        return self.code.ir.icmp_signed(">=", self.value, self.code.integer(other).value)

    def below(self, other: Number) -> ir.Value:
        """Return whether this number is at least 0 and less than `other`, which is not negative."""
        return self.code.ir.icmp_unsigned("<", self.value, self.code.integer(other).value)

    def equals(self, other: Number) -> ir.Value:
        """Return whether both numbers are equal."""
        return self.code.ir.icmp_signed("==", self.value, self.code.integer(other).value)

    def _signed(self, operation: str, other: Number) -> Int:
        result = getattr(self.code.ir, operation)(self.value, self.code.integer(other).value, flags=["nsw"])
        return Int(self.code, result)

    def _plain(self, operation: str, other: Number) -> Int:
        return Int(self.code, getattr(self.code.ir, operation)(self.value, self.code.integer(other).value))


@dataclass(frozen=True)
class Pointer:
    """Address of elements of one type; addition advances it by elements."""

    code: FunctionBuilder
    value: ir.Value
    element: ir.Type

    def __add__(self, elements: Number) -> Pointer:
        if isinstance(elements, int) and elements == 0:
            return self
        offset = self.code.integer(elements).value
        return Pointer(self.code, self.code.ir.gep(self.value, [offset], source_etype=self.element), self.element)

    def __sub__(self, elements: Number) -> Pointer:
        return self + (-elements if isinstance(elements, int) else 0 - elements)

    def moved(self, shift: Int) -> Pointer:
        """Return the address at a number of bytes from this one, in whatever memory."""
        number = self.code.ir.ptrtoint(self.value, I64)
        return Pointer(self.code, self.code.ir.inttoptr(self.code.ir.add(number, shift.value), POINTER), self.element)

    def load(self) -> ir.Value:
        """Load the element at the address."""
        return self.code.ir.load(self.value, typ=self.element, align=itemsize(self.element))

    def integer(self) -> Int:
        """Load the 64-bit integer at the address."""
        return Int(self.code, self.load())

    def vector(self, lanes: int) -> ir.Value:
        """Load the next `lanes` elements; the address needs the alignment of one element only."""
        return self.code.ir.load(self.value, typ=ir.VectorType(self.element, lanes), align=itemsize(self.element))

    def store(self, value: ir.Value) -> None:
        """Store an element, or a vector of elements."""
        self.code.ir.store(value, self.value, align=itemsize(self.element))

    def store_past_caches(self, value: ir.Value) -> None:
        """Store a vector that is not read soon, bypassing the caches, at a multiple of its bytes (of 64 at most).

        Other threads see the store in order only after a fence.
        """
        stored = self.code.ir.store(value, self.value, align=min(64, itemsize(self.element) * value.type.count))
        stored.set_metadata("nontemporal", self.code.module.add_metadata([ir.Constant(I32, 1)]))

    def masked_vector(self, lanes: int, mask: ir.Value) -> ir.Value:
        """Load the elements whose mask lane is set; the other lanes are zero and are not read."""
        kind = ir.VectorType(self.element, lanes)
        arguments = [self.value, ir.Constant(I32, itemsize(self.element)), mask, zero(kind)]
        return self.code.intrinsic(f"llvm.masked.load.{suffix(kind)}.p0", kind, arguments)

    def masked_store(self, value: ir.Value, mask: ir.Value) -> None:
        """Store the lanes whose mask is set."""
        arguments = [value, self.value, ir.Constant(I32, itemsize(self.element)), mask]
        self.code.intrinsic(f"llvm.masked.store.{suffix(value.type)}.p0", VOID, arguments)

    def prefetch(self, *, write: bool = False, level: int = 1) -> None:
        """Prefetch the cache line of the address into a level of the caches; the address need not be valid."""
        hints = [ir.Constant(I32, number) for number in (int(write), 4 - level, 1)]
        self.code.intrinsic("llvm.prefetch.p0", VOID, [self.value, *hints])

    def cast(self, element: ir.Type) -> Pointer:
        """Return the address as a pointer to elements of another type."""
        return Pointer(self.code, self.value, element)


@dataclass
class Loop:
    """Loop under construction: its index, and the values carried from one iteration to the next."""

    index: Int
    values: list[ir.Value]

    def carry(self, values: Sequence[ir.Value]) -> None:
        """Set the `values` of the next iteration and of the code after the loop."""
        self._next = list(values)


class FunctionBuilder:
    """Function under construction, `void name(arguments)`; code is appended to its current basic block."""

    def __init__(self, module: ir.Module, name: str, arguments: Sequence[ir.Type], *, internal: bool = False) -> None:
        self.module = module
        self.function = ir.Function(module, ir.FunctionType(VOID, list(arguments)), name)
        self.function.attributes.add("nounwind")
        if internal:
            self.function.linkage = "internal"
            self.function.attributes.add("noinline")
        self.ir = ir.IRBuilder(self.function.append_basic_block("entry"))

    def argument(self, number: int, element: ir.Type | None = None) -> Any:
        """Return an argument: a pointer to elements of a type, or an integer."""
        value = self.function.args[number]
        return Int(self, value) if element is None else Pointer(self, value, element)

    def scratch(self, element: ir.Type, count: int) -> Pointer:
        """Return memory for some elements, which lasts as long as the function's call."""
        address = self.ir.ptrtoint(self.ir.alloca(element, size=count), I64)  # an address of no particular type
        return Pointer(self, self.ir.inttoptr(address, POINTER), element)

    def slots(self, pointer: Pointer, elements: Sequence[ir.Type | None]) -> list[Any]:
        """Load consecutive 8-byte slots: pointers to elements of the given types, or integers where None."""
        values: list[Any] = []
        for number, element in enumerate(elements):
            slot = pointer.cast(I64) + number
            if element is None:
                values.append(slot.integer())
            else:
                values.append(Pointer(self, self.ir.load(slot.value, typ=POINTER, align=8), element))
        return values

    def integer(self, number: Number) -> Int:
        """Convert a Python int to a constant Int."""
        return number if isinstance(number, Int) else Int(self, ir.Constant(I64, number))

    def minimum(self, a: Number, b: Number) -> Int:
        """Return the smaller of two integers."""
        first, second = self.integer(a), self.integer(b)
        return Int(self, self.ir.select(first < second, first.value, second.value))

    def maximum(self, a: Number, b: Number) -> Int:
        """Return the larger of two integers."""
        first, second = self.integer(a), self.integer(b)
        return Int(self, self.ir.select(first < second, second.value, first.value))

    def choose(self, condition: ir.Value, a: Any, b: Any) -> Any:
        """Return `a if condition else b`, for integers or pointers; both are computed."""
        if isinstance(a, Pointer):
            return Pointer(self, self.ir.select(condition, a.value, b.value), a.element)
        return Int(self, self.ir.select(condition, self.integer(a).value, self.integer(b).value))

    def every(self, *conditions: ir.Value) -> ir.Value:
        """Return whether all conditions hold; all are computed."""
        return reduce(self.ir.and_, conditions)

    def splat(self, scalar: ir.Value, lanes: int) -> ir.Value:
        """Return a vector with the scalar in every lane."""
        kind = ir.VectorType(scalar.type, lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        first = self.ir.insert_element(undefined, scalar, ir.Constant(I32, 0))
        return self.ir.shuffle_vector(first, undefined, lane_numbers((0,) * lanes))

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Return the given lanes of the concatenation of two vectors."""
        return self.ir.shuffle_vector(a, b, lane_numbers(tuple(lanes)))

    def lanes_below(self, count: Number, lanes: int) -> ir.Value:
        """Return a mask of the lanes whose number is less than `count`."""
        bounded = self.ir.trunc(self.maximum(self.minimum(count, lanes), 0).value, I32)
        return self.ir.icmp_signed("<", lane_numbers(tuple(range(lanes))), self.splat(bounded, lanes))

    def bits_between(self, low: Number, high: Number) -> Int:
        """Return an integer whose bits 0 to 63 are set where their number is at least `low` and less than `high`."""

        def below(count: Number) -> ir.Value:  # shifts by 0 to 63, since a shift by 64 is undefined
            bounded = self.maximum(self.minimum(count, 64), 0)
            some = self.ir.lshr(ir.Constant(I64, -1), (64 - self.maximum(bounded, 1)).value)
            return self.ir.select(bounded >= 1, some, ir.Constant(I64, 0))

        return Int(self, self.ir.and_(below(high), self.ir.not_(below(low))))

    def lanes_of_bits(self, bits: Int, first: Number, lanes: int) -> ir.Value:
        """Return a mask of the lanes whose bit is set; lane 0 corresponds to bit number `first`."""
        chosen = self.ir.trunc(self.ir.lshr(bits.value, self.integer(first).value), ir.IntType(lanes))
        return self.ir.bitcast(chosen, ir.VectorType(ir.IntType(1), lanes))

    def lanes_between(self, low: Number, high: Number, lanes: int) -> ir.Value:
        """Return a mask of the lanes whose number is at least `low` and less than `high`."""
        return self.lanes_of_bits(self.bits_between(low, high), 0, lanes)

    def multiply_add(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return `a * b + c`, rounded once where the processor supports it."""
        if is_integer(a.type):
            return self.ir.add(c, self.ir.mul(a, b))
        return self.intrinsic(f"llvm.fmuladd.{suffix(a.type)}", a.type, [a, b, c])

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return `a + b`, for floats or for integers modulo their width."""
        return self.ir.add(a, b) if is_integer(a.type) else self.ir.fadd(a, b)

    def sum_of(self, vector: ir.Value) -> ir.Value:
        """Return the sum of a vector's floats, added in lane order."""
        arguments = [ir.Constant(vector.type.element, 0.0), vector]
        return self.intrinsic(f"llvm.vector.reduce.fadd.{suffix(vector.type)}", vector.type.element, arguments)

    def intrinsic(self, name: str, result: ir.Type, arguments: Sequence[ir.Value]) -> ir.Value:
        """Call an LLVM intrinsic, which is declared on its first use."""
        known = self.module.globals.get(name)
        if known is None:
            known = ir.Function(self.module, ir.FunctionType(result, [a.type for a in arguments]), name)
        return self.ir.call(known, list(arguments))

    def call(self, callee: FunctionBuilder, *arguments: Any) -> None:
        """Call another function of the module."""
        values = [a.value if isinstance(a, Int | Pointer) else self.integer(a).value for a in arguments]
        self.ir.call(callee.function, values)

    def keep_order(self) -> None:
        """Keep the compiler from moving loads and stores across this point; no instruction is generated."""
        self.ir.fence("seq_cst", "singlethread")

    def fence(self) -> None:
        """Make earlier stores, including those that bypass the caches, visible before later stores."""
        self.ir.fence("seq_cst")

    def fetch_add(self, counter: Pointer) -> Int:
        """Fetch the counter and add one to it, atomically: each thread gets a different number."""
        return Int(self, self.ir.atomic_rmw("add", counter.value, ir.Constant(I64, 1), "monotonic"))

    @contextmanager
    def loop(self, start: Number, stop: Number, step: Number = 1, values: Sequence[ir.Value] = ()) -> Iterator[Loop]:
        """Generate `for index in range(start, stop, step)`, with values carried between iterations."""
        before = self.ir.block
        head, body, after = (self.ir.append_basic_block(part) for part in ("head", "body", "after"))
        self.ir.branch(head)
        self.ir.position_at_end(head)
        index = self.ir.phi(I64)
        index.add_incoming(self.integer(start).value, before)
        carried = [self.ir.phi(value.type) for value in values]
        for phi, value in zip(carried, values, strict=True):
            phi.add_incoming(value, before)
        loop = Loop(Int(self, index), list(carried))
        loop.carry(carried)
        self.ir.cbranch(loop.index < stop, body, after)
        self.ir.position_at_end(body)
        yield loop
        index.add_incoming((loop.index + step).value, self.ir.block)
        for phi, value in zip(carried, loop._next, strict=True):
            phi.add_incoming(value, self.ir.block)
        self.ir.branch(head)
        self.ir.position_at_end(after)

    @contextmanager
    def when(self, condition: ir.Value) -> Iterator[None]:
        """Run the code generated inside the context only if the condition holds."""
        with self.ir.if_then(condition):
            yield

    @contextmanager
    def tasks(
        self,
        counter: Pointer,
        count: Number,
        chunk: Number,
        *,
        start: Number = 0,
        shares: Number = 0,
        share: Number = 0,
    ) -> Iterator[Int]:
        """Take numbers from `start` to below `count` from a shared counter (zero before), until all are taken.

        The first `shares` pieces have `share` numbers each, so that threads that arrive in the same order take the same
        numbers in every call; later pieces have `chunk` numbers.
        """
        head, body, after = (self.ir.append_basic_block(part) for part in ("next", "task", "done"))
        self.ir.branch(head)
        self.ir.position_at_end(head)
        ticket = self.fetch_add(counter)
        late = ticket >= shares
        first = self.choose(late, (ticket - shares) * chunk + self.integer(shares) * share, ticket * share) + start
        self.ir.cbranch(first < count, body, after)
        self.ir.position_at_end(body)
        with self.loop(first, self.minimum(first + self.choose(late, chunk, share), count)) as task:
            yield task.index
        self.ir.branch(head)
        self.ir.position_at_end(after)

    def finish(self) -> None:
        """Generate the return instruction."""
        self.ir.ret_void()


def zero(kind: ir.Type) -> ir.Constant:
    """Return the zero of a type."""
    return ir.Constant(kind, None)


@cache
def lane_numbers(numbers: tuple[int, ...]) -> ir.Constant:
    """Return a vector of 32-bit integers, made once for each: llvmlite makes and prints every lane by itself."""
    return ir.Constant(ir.VectorType(I32, len(numbers)), list(numbers))


def constant(kind: ir.VectorType, number: float) -> ir.Constant:
    """Return a vector constant with a number in every lane."""
    return ir.Constant(kind, [number] * kind.count)


def is_integer(kind: ir.Type) -> bool:
    """Return whether a type, or a vector's element type, is an integer."""
    return isinstance(getattr(kind, "element", kind), ir.IntType)


def itemsize(element: ir.Type) -> int:
    """Return the bytes of one element."""
    if isinstance(element, ir.IntType):
        return int(element.width) // 8
    return {F16: 2, F32: 4, F64: 8}[element]


def suffix(kind: ir.Type) -> str:
    """Return the name of a type in LLVM's intrinsics, such as v8f32."""
    element = getattr(kind, "element", kind)
    letter = "i" if isinstance(element, ir.IntType) else "f"
    return (f"v{kind.count}" if isinstance(kind, ir.VectorType) else "") + f"{letter}{8 * itemsize(element)}"
