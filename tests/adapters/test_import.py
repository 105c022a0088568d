"""The common part of the adapters needs only the core."""

import subprocess
import sys


def test_importing_what_adapters_share_imports_no_framework() -> None:
    others = ("langchain_core", "llama_index", "semantic_kernel", "agent_framework", "azure", "IPython", "pytest")
    code = f"import sys, greenroom.adapters; print(sorted(set({others!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
