"""Scripts of skills, run in sessions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

# At run time too: the framework reads the types of runners.
from agent_framework import Content, FileSkill, FileSkillScript, FunctionInvocationContext, MiddlewareFailure

from greenroom import Execution, GreenroomError, InvalidRequest, adapters
from greenroom.adapters import brief
from greenroom_agent_framework.tools import GreenroomTools

_PROGRAMS = {".py": "python3", ".sh": "bash"}


class GreenroomScriptRunner:
    """Runs the scripts of file-based skills in the session of the conversation, instead of on this machine::

        runner = GreenroomScriptRunner(tools)
        skills = SkillsProvider.from_paths("skills", script_runner=runner)
        agent = Agent(client, tools=tools, context_providers=[skills])

    A script finds its skill's files beside it, and the tools' files in `/mnt/data`. It runs in a separate process: it
    shares files with the code of `run_python`, but not variables.
    """

    def __init__(self, tools: GreenroomTools | None = None) -> None:
        """
        Args:
            tools: the agent's tools, whose sessions the scripts share; by default `GreenroomTools()`.
        """
        self._tools = GreenroomTools() if tools is None else tools

    async def __call__(
        self,
        skill: FileSkill,
        script: FileSkillScript,
        args: dict[str, Any] | list[str] | None = None,
        *,
        ctx: FunctionInvocationContext | None = None,
    ) -> list[Content]:
        """Run a Python script. The result is its output, with its `greenroom.Execution` for the application.

        Args:
            skill: the skill; its directory is copied into the session.
            script: a file in that directory.
            args: the script's arguments.
            ctx: the invocation of the framework's tool that runs scripts; it determines the session.

        Raises:
            MiddlewareFailure: the script could not be run, for a reason that no model can fix.
        """
        try:
            return self._tools.contents_of(await self._run(skill, script, args, ctx))
        except adapters.RETRYABLE as error:
            return [Content.from_text(str(error))]
        except GreenroomError as error:
            raise MiddlewareFailure(str(error)) from error

    async def _run(
        self,
        skill: FileSkill,
        script: FileSkillScript,
        args: dict[str, Any] | list[str] | None,
        ctx: FunctionInvocationContext | None,
    ) -> Execution:
        path = Path(script.full_path)
        program = _PROGRAMS.get(path.suffix)
        if program is None:
            raise InvalidRequest(f"A script must end with {' or '.join(_PROGRAMS)}, not {path.name!r}.")
        if isinstance(args, dict) or not all(isinstance(each, str) for each in cast("list[object]", args or [])):
            raise InvalidRequest(f"The arguments of a script must be a list of strings, not {brief(args)}.")
        place = f"skills/{skill.frontmatter.name}"
        session = await self._tools.session_of(ctx)
        await session.aupload(skill.path, place)
        inside = path.relative_to(Path(skill.path)).as_posix()
        return await session.ashell([program, f"{adapters.DATA_DIR}/{place}/{inside}", *(args or ())])
