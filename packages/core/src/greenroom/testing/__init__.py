"""For tests: a pool in memory, and the conformance suites that every engine and every pool runs.

A subject is a few lines that inherit them::

    class TestExecution(ExecutionSuite):
        @pytest.fixture(scope="class")
        @classmethod
        def pool(cls):
            with greenroom.connect("bubblewrap:") as pool:
                yield pool

Needs pytest (`pip install 'greenroom[testing]'`).
"""

from greenroom.testing.backend import BareBackend
from greenroom.testing.engines import engine_pool
from greenroom.testing.execution import ExecutionSuite
from greenroom.testing.files import FileSuite
from greenroom.testing.isolation import IsolationSuite
from greenroom.testing.limits import LimitSuite
from greenroom.testing.memory import memory_pool
from greenroom.testing.suite import Suite

__all__ = [
    "BareBackend",
    "ExecutionSuite",
    "FileSuite",
    "IsolationSuite",
    "LimitSuite",
    "Suite",
    "engine_pool",
    "memory_pool",
]
