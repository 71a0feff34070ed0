"""Property tests take the same examples every day, and as long as the machine needs; each worker one thread."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: there is a worker for every core
os.environ["TXCALC_CACHE"] = ""  # every test reads anew, but those of the cache
settings.register_profile("every run", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("every run")
