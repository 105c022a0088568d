"""Greenroom for LangChain: tools that run code in isolated, stateful sessions."""

from langchain_greenroom.tool import OUTPUT_EVENT, GreenroomTool, execution_of
from langchain_greenroom.toolkit import GreenroomToolkit

__all__ = ["OUTPUT_EVENT", "GreenroomTool", "GreenroomToolkit", "execution_of"]
