"""Importing the adapter is cheap: it brings its own framework and nothing that calls do not need."""

import subprocess
import sys


def test_importing_the_adapter_imports_its_own_framework_only() -> None:
    others = ("langchain", "langgraph", "llama_index", "semantic_kernel", "azure", "IPython", "pandas")
    code = f"import sys, langchain_greenroom; print(sorted(set({others!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
