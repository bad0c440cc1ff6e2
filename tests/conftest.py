"""Settings of every test."""

import os

from hypothesis import HealthCheck, settings

from splittracr.experiment.contracts import NO_CLASS_CACHE

os.environ[NO_CLASS_CACHE] = (
    "1"  # a test measures classes itself, and leaves the user's cache alone
)

# Machines are shared and slow at times; a slow example is no failure. Time limits are pytest's.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")
