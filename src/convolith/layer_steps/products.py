"""Products of matrices that a network computes, as steps of a program: a 1x1 layer, one group for each matrix.

The first matrices are packed as the weights of such a layer in every call.
"""

from __future__ import annotations

from array import array

from convolith.engines.elementwise import NO_TAIL
from convolith.engines.pointwise import emit_packing
from convolith.engines.pointwise.engine import packing, ready, step_of
from convolith.engines.steps import Finish, Layout, Step, Steps
from convolith.jit import host, thread_count
from convolith.spec import ConvSpec

LINE = 64
"""Alignment of the packed matrices, in bytes."""


def steps(shape: tuple[int, ...], pitches: tuple[int, int], dtype: str) -> Steps:
    """Return the steps that multiply two batches of matrices, their operands 0 and 1.

    Args:
        shape: (N, rows of the first, columns of the first, columns of the second).
        pitches: distances of matrices in both, in elements; the products lie dense.
        dtype: dtype of all numbers.
    """
    batch, rows, inner, columns = shape
    spec = ConvSpec(
        batch=1,
        in_channels=batch * inner,
        out_channels=batch * rows,
        size=(columns,),
        kernel_size=1,
        groups=batch,
        dtype=dtype,
    )
    state = ready(host(), spec, thread_count())
    first = -(-state.scratch_bytes // LINE) * LINE
    region, sizes, threads, packed_bytes = packing(host(), spec, adjoint=False)
    packed = emit_packing.ARGUMENTS.new(sizes | {"kernel_group": pitches[0]})
    pack = Step(region, emit_packing.ARGUMENTS, packed, {"kernel": 0}, {}, {"packed": first}, threads)
    multiply = step_of(state, Layout(0, 0), Finish(None, NO_TAIL))
    values = array("q", multiply.values)
    multiply.block.update(values, {"x_group": pitches[1]})
    tensors = {name: tensor for name, tensor in multiply.tensors.items() if name != "weight"}
    places, scratch = {**multiply.operands, "x": 1}, {"scratch": 0, "weight": first}
    multiply = multiply._replace(values=values, operands=places, tensors=tensors, scratch=scratch)
    return Steps((pack, multiply), first + packed_bytes)
