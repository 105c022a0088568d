"""A chat memory that keeps figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.memory import ChatMemoryBuffer

if TYPE_CHECKING:
    from llama_index.core.workflow import Context


class FigureMemory(ChatMemoryBuffer):
    """The default memory of agents, except that it can also be serialized if it contains images.

    The original cannot (llama-index-core 0.14.25), and a workflow's serialized state omits values that cannot be
    serialized. As each run starts with the serialized state of the previous run, a single figure would make an agent
    forget the whole conversation.
    """

    def to_dict(self, **_: Any) -> dict[str, Any]:
        return self.model_dump(mode="json")


async def keep_figures(ctx: Context[Any] | None) -> None:
    """Make the default memory of a workflow's agents keep images. Any other memory is not changed."""
    if ctx is None:
        return
    memory = await ctx.store.get("memory", default=None)
    if type(memory) is ChatMemoryBuffer:
        await ctx.store.set("memory", FigureMemory(**dict(memory)))  # with the same messages
