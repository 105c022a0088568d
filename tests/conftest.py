"""The settings of all tests: the number of examples with which a property is tried."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# No test may depend on an idle machine, so none may fail because examples take long to make.
settings.register_profile("full", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.register_profile("quick", settings.get_profile("full"), max_examples=10)  # for `make check`
settings.load_profile("full")
