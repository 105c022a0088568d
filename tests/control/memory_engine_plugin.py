"""An engine in memory for servers in processes of their own, which find it as they find that of another package."""

from __future__ import annotations

from pathlib import Path

from greenroom.engines.base import EngineOptions, EnginePlugin
from greenroom.testing.memory_engine import MemoryEngine

PLUGIN = EnginePlugin(EngineOptions, lambda _: MemoryEngine())


def install(directory: Path) -> Path:
    """Make a directory that offers the engine to every Python that has it in its path."""
    facts = directory / "memory_engine_plugin-0.dist-info"
    facts.mkdir(parents=True)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: memory-engine-plugin\nVersion: 0\n")
    (facts / "entry_points.txt").write_text("[greenroom.engines]\nmemory = memory_engine_plugin:PLUGIN\n")
    (directory / "memory_engine_plugin.py").write_text(Path(__file__).read_text())
    return directory
