"""Performance limits of a machine, from which engines estimate their time."""

from __future__ import annotations

from dataclasses import dataclass

from convolith.dtypes import HALVES, is_float
from convolith.spec import ConvSpec

SERIAL_PRODUCTS = 200_000
"""Number of products below which one thread finishes before a second one has started."""


@dataclass(frozen=True)
class MachineLimits:
    """Rates of all threads together; the defaults are those of two cores with 256-bit vectors at 3 GHz."""

    float32_products_per_second: float = 90e9
    float64_products_per_second: float = 45e9
    memory_bytes_per_second: float = 22e9
    """Rate of copying between arrays that exceed the caches, counting reads and writes."""
    cache_bytes_per_second: float = 70e9
    """Rate of copying between arrays in the caches, counting reads and writes."""
    cache_bytes: float = 16e6
    fft_operations_per_second: float = 75e9
    """Rate of generated transforms: 5 N log2 N operations for N complex points; reads and writes count as steps."""
    call_seconds: float = 8e-6
    """Fixed overhead of any call, in seconds."""

    def products_per_second(self, dtype: str) -> float:
        """Return the rate of multiplications, each with an addition, for a working dtype."""
        return self.float32_products_per_second if dtype == "float32" else self.float64_products_per_second

    def moving_seconds(self, count: float) -> float:
        """Estimate the time to read or write a number of bytes."""
        rate = self.cache_bytes_per_second if count < self.cache_bytes else self.memory_bytes_per_second
        return count / rate


def sum_dtype_name(spec: ConvSpec) -> str:
    """Return the dtype that sets the product rate: float32 for float32, complex64 and half types, else float64."""
    single = is_float(spec.out_dtype) and (spec.out_dtype in HALVES or spec.out_dtype in ("float32", "complex64"))
    return "float32" if single else "float64"
