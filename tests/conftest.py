"""Settings shared by all tests."""

import os

from hypothesis import HealthCheck, settings

# Modest by default: the suite runs on two cores. `HYPOTHESIS_PROFILE=thorough` searches longer.
settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("thorough", parent=settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

os.environ.setdefault("OMP_NUM_THREADS", "2")
