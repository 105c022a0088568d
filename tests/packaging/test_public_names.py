"""The public names: each package has them, documents them, and loads little for them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

import pytest

import greenroom

CORE = ["greenroom", "greenroom.adapters", "greenroom.cli", "greenroom.local", "greenroom.testing"]
ADAPTERS = {
    "langchain_greenroom": "langchain_core",
    "llama_index.tools.greenroom": "llama_index.core",
    "greenroom_semantic_kernel": "semantic_kernel",
    "greenroom_agent_framework": "agent_framework",
}
LATER = [
    "aiodocker",
    "aiohttp",
    "azure",
    "cryptography",
    "httpx",
    "jwt",
    "nbformat",
    "rich",
    "starlette",
    "typer",
    "uvicorn",
]
INSIDE = ["IPython", "matplotlib", "numpy", "pandas"]

# Tells of a package, in a process of its own: its modules, and the names that it does not have or does not explain.
LOOK = """
import importlib, inspect, json, sys
package = importlib.import_module(sys.argv[1])
loaded = list(sys.modules)
unexplained = [] if package.__doc__ else [package.__name__]
for name in getattr(package, "__all__", []):
    value = getattr(package, name)
    if inspect.isclass(value) or inspect.isfunction(value):
        text = (vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__) or ""
        if not text.strip() or text.startswith(f"{name}("):  # that which a dataclass makes
            unexplained.append(name)
print(json.dumps({"loaded": loaded, "unexplained": unexplained}))
"""


def look(package: str) -> dict[str, list[str]]:
    program = [sys.executable, "-I", "-W", "ignore", "-c", LOOK, package]
    run = subprocess.run(program, capture_output=True, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


def loaded_of(found: list[str], names: list[str]) -> list[str]:
    return [name for name in names if name in found]


@pytest.mark.parametrize("package", [*CORE, *ADAPTERS])
def test_every_public_name_is_there_and_explained(package: str) -> None:
    assert look(package)["unexplained"] == []


def test_every_public_member_is_explained() -> None:
    unexplained: list[str] = []
    for name in greenroom.__all__:
        value = getattr(greenroom, name)
        if isinstance(value, type):
            members = [member for member in vars(value) if not member.startswith("_")]
            fields = getattr(value, "__dataclass_fields__", {})
            unexplained += [
                f"{name}.{member}"
                for member in members
                if member not in fields and getattr(value, member) is not None and not getattr(value, member).__doc__
            ]
    assert unexplained == []


def test_importing_greenroom_loads_little() -> None:
    loaded = look("greenroom")["loaded"]
    frameworks = list(ADAPTERS.values())
    assert loaded_of(loaded, [*frameworks, *ADAPTERS, *LATER, *INSIDE]) == []
    assert len(loaded) < 350, "it was 290 once, most of them pydantic's and asyncio's"


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_an_adapter_loads_only_its_own_framework(adapter: str) -> None:
    if importlib.util.find_spec(ADAPTERS[adapter]) is None:
        pytest.skip(f"{ADAPTERS[adapter]} is not installed")
    loaded = look(adapter)["loaded"]
    others = [name for name in [*ADAPTERS.values(), *ADAPTERS] if name not in {adapter, ADAPTERS[adapter]}]
    assert loaded_of(loaded, others) == []


def test_the_command_line_prints_its_version() -> None:
    command = [sys.executable, "-m", "greenroom", "--version"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert ran.stdout == f"{greenroom.__version__}\n"


def test_the_public_names_are_pinned() -> None:
    assert set(greenroom.__all__) == {
        "AccessDenied", "AzureDetails", "AzureRangeWarning", "CallDeferred", "ContainerType", "CustomContainer",
        "EngineUnavailable", "Estimate", "Event", "Execution", "ExecutionCancelled", "ExecutionError",
        "ExecutionFailed", "ExecutionHandle", "ExecutionTimedOut", "FileMissing", "FileRefused", "ForkFailed",
        "GreenroomError", "Headers", "Image",
        "ImageMissing", "InvalidRequest", "MadeCall", "NotCarried", "Output", "Place", "PoolClosed", "PoolFull",
        "PoolSettings",
        "PoolStatus", "PoolUsage", "Probe", "Progress", "ReadyReason", "RegistryCredentials", "RemoteFile",
        "RequestFailed", "Response", "SandboxLost", "ServiceFailed", "Session", "SessionInfo", "SessionPool",
        "SessionUsage", "StreamText", "StreamedResponse", "Tool", "ToolLimits", "UsageSource", "aconnect",
        "build_image", "connect",
        "current_call", "estimate", "session",
    }  # fmt: skip
