"""Every test is seeded, so that a red run is red again; one hypothesis profile for all, without deadlines."""

import gc
import os
from collections import Counter
from collections.abc import Iterator

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("search", hypothesis.settings.get_profile("default"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Take the mark `slow` off the first cases of tests that say `slow(quick=...)`: they cover the rest in short."""
    seen: Counter[str] = Counter()
    for item in items:
        marker = item.get_closest_marker("slow")
        if marker is not None and marker.kwargs.get("quick", 0):
            name = f"{item.path}::{item.originalname}"  # type: ignore[attr-defined]  # slow tests are functions
            seen[name] += 1
            if seen[name] <= marker.kwargs["quick"]:
                item.own_markers.remove(marker)


@pytest.fixture(autouse=True, scope="module")
def frozen() -> None:
    """What earlier modules leave behind is looked at by the garbage collector once, and not in every collection."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[None]:
    """A cluster of Dask leaves OMP_NUM_THREADS=1 to all later children, which then round otherwise than this process."""
    before = dict(os.environ)
    yield
    for name in [name for name in os.environ if name.endswith("_NUM_THREADS")]:
        if name in before:
            os.environ[name] = before[name]
        else:
            del os.environ[name]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeded before each test and not once: a test draws the same numbers alone, in its file and in the whole suite."""
    torch.manual_seed(0)
