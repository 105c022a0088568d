"""The conformance suite of adapters, the same for every framework."""

from __future__ import annotations

from greenroom.testing.adapters.descriptions import DescriptionTests
from greenroom.testing.adapters.driver import AdapterDriver, ToolDescription, ToolResult
from greenroom.testing.adapters.executions import ExecutionTests
from greenroom.testing.adapters.files import FileTests
from greenroom.testing.adapters.sessions import SessionTests
from greenroom.testing.adapters.tracing import TracingTests


class AdapterSuite(DescriptionTests, SessionTests, ExecutionTests, FileTests, TracingTests):
    """An adapter's tools: their descriptions, sessions and spans, and their results for the model and the application.

    The tests that begin with `test_no_` cover faults found in other integrations of code sandboxes.

    A subject has a driver; its pool can have real sandboxes::

        class TestAdapter(AdapterSuite):
            driver = MyDriver
    """


__all__ = ["AdapterDriver", "AdapterSuite", "ToolDescription", "ToolResult"]
