"""What every adapter to a framework does, whatever the framework calls it."""

from __future__ import annotations

from greenroom.testing.adapters.descriptions import DescriptionTests
from greenroom.testing.adapters.driver import AdapterDriver, ToolDescription, ToolResult
from greenroom.testing.adapters.executions import ExecutionTests
from greenroom.testing.adapters.files import FileTests
from greenroom.testing.adapters.sessions import SessionTests


class AdapterSuite(DescriptionTests, SessionTests, ExecutionTests, FileTests):
    """An adapter's tools: what they are, whose session they work in, what the model and the application get.

    Other integrations of code sandboxes have faults; the tests that begin with `test_no_` keep them away.

    A subject has a driver; its pool may be one of real sandboxes::

        class TestAdapter(AdapterSuite):
            driver = MyDriver
    """


__all__ = ["AdapterDriver", "AdapterSuite", "ToolDescription", "ToolResult"]
