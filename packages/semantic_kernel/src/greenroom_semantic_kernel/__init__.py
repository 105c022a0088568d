"""Greenroom for Semantic Kernel: a plugin that runs a model's Python in isolated, stateful sessions."""

from greenroom_semantic_kernel.plugin import GreenroomPlugin
from greenroom_semantic_kernel.results import DownloadText, ExecutionText, execution_of, executions, image_contents

__all__ = ["DownloadText", "ExecutionText", "GreenroomPlugin", "execution_of", "executions", "image_contents"]
