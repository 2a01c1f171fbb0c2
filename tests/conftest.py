"""Every test is seeded, so that a red run is red again; one hypothesis profile for all, without deadlines."""

import os

import hypothesis
import pytest
import torch

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("search", hypothesis.settings.get_profile("default"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seeded before each test and not once: a test draws the same numbers alone, in its file and in the whole suite."""
    torch.manual_seed(0)
