"""What holds for all tests: how many examples a property is tried with."""

from __future__ import annotations

from hypothesis import settings

# For `make check`; the profile without a name has 100 examples.
settings.register_profile("quick", max_examples=10)
