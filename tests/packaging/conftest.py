"""The wheels of all distributions, built once."""

from __future__ import annotations

from pathlib import Path

import pytest
from releasing.distributions import FOLDERS, build


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("wheels"), *FOLDERS)
