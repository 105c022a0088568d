"""Tests of the spans of a call: below those of the caller and of the framework, and never a second one per tool."""

from __future__ import annotations

import pytest

from greenroom.testing.adapters.base import AdapterSuiteBase
from greenroom.testing.adapters.driver import AdapterDriver


class TracingTests(AdapterSuiteBase):
    """The spans that OpenTelemetry records for a tool's work. They need its SDK."""

    async def test_spans_are_below_those_of_the_caller(self, adapter: AdapterDriver, ann: str) -> None:
        pytest.importorskip("opentelemetry.sdk")
        from greenroom.testing.spans import caller, recorded_spans, texts_of  # noqa: PLC0415  needs the SDK

        with recorded_spans() as spans:
            with caller():
                await adapter.run(ann, "print('a secret of the code')")
                await adapter.call(ann, "upload_file", name="sales.csv")
            execute, allocate, upload = map(spans.one, ("execute code", "allocate session", "upload file"))
            # A framework that traces its tools does so itself.
            for work, tool in ((execute, "run_python"), (upload, "upload_file")):
                *tools, top = spans.ancestors(work)
                assert top == "caller"
                assert len(tools) == self.driver.makes_tool_spans
                assert all(name.startswith("execute_tool ") and name.endswith(tool) for name in tools)
            assert spans.ancestors(allocate) == ["execute code", *spans.ancestors(execute)]
            assert {span.name for span in spans.ours} == {"execute code", "allocate session", "upload file"}
            assert "secret" not in texts_of(spans.ours)
            assert "sales" not in texts_of(spans.ours)

    async def test_a_failure_of_the_code_marks_its_span(self, adapter: AdapterDriver, ann: str) -> None:
        pytest.importorskip("opentelemetry.sdk")
        from greenroom.testing.spans import recorded_spans, texts_of  # noqa: PLC0415

        with recorded_spans() as spans:
            await adapter.run(ann, "raise KeyError('a secret of the code')")
            execute = spans.one("execute code")
            assert execute.status.status_code.name == "ERROR"
            assert execute.status.description is None
            assert dict(execute.attributes or {})["error.type"] == "KeyError"
            assert "secret" not in texts_of(spans.ours)
