"""For tests: pools in memory, and the conformance suites that every engine, pool and adapter runs.

A subject is a few lines that inherit them::

    class TestExecution(ExecutionSuite):
        @pytest.fixture(scope="class")
        @classmethod
        def pool(cls):
            with greenroom.connect("bubblewrap:") as pool:
                yield pool

Needs pytest (`pip install 'greenroom[testing]'`).
"""

import importlib.util

if importlib.util.find_spec("pytest") is None:
    raise ModuleNotFoundError(
        "greenroom.testing needs pytest. Install it: pip install 'greenroom[testing]'.", name="pytest"
    )

from greenroom.testing.adapters import AdapterDriver, AdapterSuite, ToolDescription, ToolResult
from greenroom.testing.attacks import AttackSuite, ShellAttackSuite
from greenroom.testing.backend import BareBackend
from greenroom.testing.cells import CellSuite
from greenroom.testing.children import python_in_children
from greenroom.testing.engines import engine_pool
from greenroom.testing.execution import ExecutionSuite
from greenroom.testing.files import FileSuite
from greenroom.testing.isolation import IsolationSuite
from greenroom.testing.javascript import JavaScriptSuite
from greenroom.testing.limits import LimitSuite
from greenroom.testing.memory import memory_pool
from greenroom.testing.parking import ParkSuite
from greenroom.testing.scripted import ENDLESS_CODE, RecordedRun, ScriptedBackend, scripted_pool, wait_until
from greenroom.testing.shell import ShellPoolSuite, ShellSuite
from greenroom.testing.suite import Suite
from greenroom.testing.texts import TextSuite
from greenroom.testing.tool_limits import HostileToolSuite, ToolLimitSuite
from greenroom.testing.tools import ToolSuite

__all__ = [
    "ENDLESS_CODE",
    "AdapterDriver",
    "AdapterSuite",
    "AttackSuite",
    "BareBackend",
    "CellSuite",
    "ExecutionSuite",
    "FileSuite",
    "HostileToolSuite",
    "IsolationSuite",
    "JavaScriptSuite",
    "LimitSuite",
    "ParkSuite",
    "RecordedRun",
    "ScriptedBackend",
    "ShellAttackSuite",
    "ShellPoolSuite",
    "ShellSuite",
    "Suite",
    "TextSuite",
    "ToolDescription",
    "ToolLimitSuite",
    "ToolResult",
    "ToolSuite",
    "engine_pool",
    "memory_pool",
    "python_in_children",
    "scripted_pool",
    "wait_until",
]
