"""Settings of every test."""

from hypothesis import HealthCheck, settings

# Machines are shared and slow at times; a slow example is no failure. Time limits are pytest's.
settings.register_profile(
    "project", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("project")
