"""Every test is seeded, so that a red run is red again; one hypothesis profile for all, without deadlines."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

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
    shared = {node: _slow(node) for item in items for node in item.listchain()[:-1]}
    for item in items:  # those of a module or a class become the items' own
        item.own_markers += [marker for node in item.listchain()[-2::-1] for marker in shared[node]]
    for node, markers in shared.items():
        node.own_markers[:] = [marker for marker in node.own_markers if marker not in markers]
    seen: Counter[str] = Counter()
    for item in items:
        markers = _slow(item)
        if markers and markers[0].kwargs.get("quick", 0):
            name = item.nodeid.partition("[")[0]
            seen[name] += 1
            if seen[name] <= markers[0].kwargs["quick"]:
                item.own_markers[:] = [marker for marker in item.own_markers if marker not in markers]


def _slow(node: Any) -> list[pytest.Mark]:
    return [marker for marker in node.own_markers if marker.name == "slow"]


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
