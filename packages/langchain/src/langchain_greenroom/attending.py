"""Code that continues after an interrupt of the graph. Needs the extra `agents`."""

from __future__ import annotations

from collections.abc import Sequence

from greenroom import GreenroomError, SandboxLost, Session, Tool
from greenroom.adapters import RETRYABLE, Artifact, Attendance, OnOutput, ToolAnswer, Toolset
from langchain_greenroom.interrupts import Pauses


class Attending:
    """One execution in a step of a graph. Whenever its calls wait for a person, the graph is interrupted."""

    def __init__(
        self, toolset: Toolset, session: Session, pauses: Pauses, functions: Sequence[Tool], on_output: OnOutput
    ) -> None:
        self._toolset = toolset
        self._session = session
        self._pauses = pauses
        self._functions = functions
        self._on_output = on_output

    def run(self, code: str) -> ToolAnswer[Artifact]:
        """Run code, or continue with it, until it ends."""
        if self._pauses.is_resumed:
            self._pauses.replay()
        while True:
            attendance = self._attendance()
            try:
                if self._pauses.asked is None:
                    self._toolset.begin(attendance, code)
                else:
                    attendance.resume(self._pauses.asked)
                    if not self._pauses.know(attendance.calls()):
                        attendance.expect_nothing()
                if (execution := attendance.wait()) is not None:
                    return self._toolset.answer(execution)
                made = attendance.calls()
            except RETRYABLE as error:
                return self._failed(error)
            self._pauses.ask(made)

    async def arun(self, code: str) -> ToolAnswer[Artifact]:
        """As `run`."""
        if self._pauses.is_resumed:
            self._pauses.replay()
        while True:
            attendance = self._attendance()
            try:
                if self._pauses.asked is None:
                    self._toolset.begin(attendance, code)
                else:
                    attendance.resume(self._pauses.asked)
                    if not self._pauses.know(await attendance.acalls()):
                        attendance.expect_nothing()
                if (execution := await attendance.await_end()) is not None:
                    return self._toolset.answer(execution)
                made = await attendance.acalls()
            except RETRYABLE as error:
                return self._failed(error)
            self._pauses.ask(made)

    def _attendance(self) -> Attendance:
        pauses = self._pauses
        return self._toolset.attend(
            self._session, pauses.execution, self._functions, turn=pauses.turn, on_output=self._on_output
        )

    def _failed(self, error: GreenroomError) -> ToolAnswer[Artifact]:
        told = isinstance(error, SandboxLost) and self._pauses.asked is not None
        return ToolAnswer(self._pauses.told() if told else str(error), error)
