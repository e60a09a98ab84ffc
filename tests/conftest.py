"""Hypothesis profiles: `dev` by default, `ci` with HYPOTHESIS_PROFILE=ci. Timing is never a test, so no deadlines."""

import os

from hypothesis import HealthCheck, settings

# The first example of a property may compile kernels, which says nothing about the property.
settings.register_profile("dev", deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("dev"), max_examples=100, derandomize=True, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))
