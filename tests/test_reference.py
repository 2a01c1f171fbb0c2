"""The oracle against the definition in Python loops: every option, exact integers."""

import numpy as np
import pytest
from hypothesis import given, settings

from bench import naive
from convolith import ConvSpec
from convolith.planner import plan
from tests.strategies import FLOATS, INTEGERS, arrays_for, specs


def oracle_against_loops(spec: ConvSpec) -> None:
    x, kernel, bias = (None if t is None else t.numpy() for t in arrays_for(spec))
    y = plan(spec, engine="reference")(x, kernel, bias)
    as_python = [None if a is None else a.astype(object) for a in (x, kernel, bias)]
    expected = naive.correlate(*as_python, spec)
    assert y.shape == spec.output_shape
    assert y.dtype == spec.out_dtype
    for position, value in expected.items():
        if y.dtype.kind in "iu":
            assert int(y[position]) % 2**64 == value % 2**64
        else:
            assert y[position] == pytest.approx(
                value, rel=1e-5 if y.dtype == np.float32 else 1e-11, abs=1e-5 if y.dtype == np.float32 else 1e-12
            )


@pytest.mark.slow
@settings(max_examples=130)
@given(specs(dtypes=FLOATS, max_axes=2))
def test_floats(spec):
    oracle_against_loops(spec)


@settings(max_examples=70)
@given(specs(dtypes=INTEGERS, max_axes=2))
def test_integers_are_exact_modulo_two_to_the_64(spec):
    oracle_against_loops(spec)


@settings(max_examples=20)
@given(specs(dtypes=("float64", "int64"), max_axes=3))
def test_three_axes(spec):
    oracle_against_loops(spec)
