"""Property tests take the same examples every day, and as long as the machine needs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("every run", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("every run")
