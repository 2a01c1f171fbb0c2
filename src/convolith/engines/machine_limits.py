"""What a machine can do, as engines reckon with it when they estimate their own time."""

from __future__ import annotations

from dataclasses import dataclass

from convolith.dtypes import HALVES, is_float
from convolith.spec import ConvSpec


@dataclass(frozen=True)
class MachineLimits:
    """Rates of all threads together; the defaults are those of two cores with 256-bit vectors at 3 GHz."""

    float32_products_per_second: float = 90e9
    float64_products_per_second: float = 45e9
    memory_bytes_per_second: float = 22e9
    """Copying between arrays that no cache holds, reads and writes counted."""
    cache_bytes_per_second: float = 70e9
    """Copying between arrays in the caches."""
    cache_bytes: float = 16e6
    fft_operations_per_second: float = 75e9
    """Operations of generated transforms, 5 N log2 N for N complex points, reading and writing counted as steps."""
    call_seconds: float = 8e-6
    """What any call takes before it computes."""

    def products_per_second(self, dtype: str) -> float:
        """Multiplications, each with an addition, of a working dtype."""
        return self.float32_products_per_second if dtype == "float32" else self.float64_products_per_second

    def moving_seconds(self, count: float) -> float:
        """Of a number of bytes, read or written."""
        rate = self.cache_bytes_per_second if count < self.cache_bytes else self.memory_bytes_per_second
        return count / rate


def sum_dtype_name(spec: ConvSpec) -> str:
    """float32 for float32 and half types, float64 otherwise: what the rate of products depends on."""
    single = is_float(spec.out_dtype) and (spec.out_dtype in HALVES or spec.out_dtype in ("float32", "complex64"))
    return "float32" if single else "float64"
