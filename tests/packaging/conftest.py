"""The wheels of all distributions, built once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.packaging.installing import FOLDERS, ROOT, UV


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("wheels")
    for folder in FOLDERS:
        command = [UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--out-dir", target]
        subprocess.run([*command, ROOT / "packages" / folder], check=True)
    return target
