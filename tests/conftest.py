"""One hypothesis profile for all tests: seeded, so that a red run is red again, and without deadlines."""

import os

import hypothesis
import torch

hypothesis.settings.register_profile(
    "default", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.register_profile("search", hypothesis.settings.get_profile("default"), derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

torch.manual_seed(0)
