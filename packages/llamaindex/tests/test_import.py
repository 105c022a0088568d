"""The package as others get it."""

import importlib.util
import subprocess
import sys


def test_importing_the_adapter_imports_its_own_framework_only() -> None:
    others = ("IPython", "aiodocker", "azure", "langchain", "langchain_core", "pandas", "semantic_kernel")
    code = f"import sys, llama_index.tools.greenroom; print(sorted(set({others!r}) & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_the_package_shares_the_framework_namespaces() -> None:
    for namespace in ("llama_index", "llama_index.tools"):
        spec = importlib.util.find_spec(namespace)
        assert spec is not None
        assert spec.origin is None
