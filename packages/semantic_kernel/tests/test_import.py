"""Importing the adapter is cheap: it brings its own framework and nothing that calls do not need."""

import subprocess
import sys


def test_importing_the_adapter_imports_its_own_framework_only() -> None:
    others = ("IPython", "aiodocker", "langchain", "langchain_core", "llama_index", "pandas")
    code = f"import sys, greenroom_semantic_kernel; print(sorted(set({others!r}) & set(sys.modules)))"
    # The kernel's own imports warn of each other.
    assert subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True) == "[]\n"
