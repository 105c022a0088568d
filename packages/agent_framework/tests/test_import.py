"""Importing the adapter is cheap: it brings its own framework and nothing that calls do not need."""

import subprocess
import sys
from importlib.metadata import version

import greenroom


def test_importing_the_adapter_imports_its_own_framework_only() -> None:
    others = ("langchain", "langchain_core", "llama_index", "semantic_kernel", "azure", "IPython", "pandas", "openai")
    code = f"import sys, greenroom_agent_framework; print(sorted(set({others!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_version_is_the_one_of_the_core() -> None:
    assert version("greenroom-agent-framework") == greenroom.__version__
