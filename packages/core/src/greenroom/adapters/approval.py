"""Which code a person need not look at before it runs."""

from __future__ import annotations

import ast
from collections.abc import Iterable

COMPUTING_MODULES = frozenset(
    (
        *("array", "bisect", "calendar", "cmath", "collections", "copy", "dataclasses", "datetime", "decimal", "enum"),
        *("fractions", "functools", "heapq", "itertools", "json", "math", "operator", "random", "re", "statistics"),
        *("string", "textwrap", "time", "typing", "unicodedata", "zoneinfo", "numpy", "pandas", "matplotlib"),
    )
)
"""Modules that compute, and reach nothing outside of the session by themselves."""

_REACHING = frozenset(
    (
        *(
            "__import__",
            "breakpoint",
            "compile",
            "delattr",
            "eval",
            "exec",
            "exit",
            "get_ipython",
            "getattr",
            "globals",
        ),
        *("help", "input", "locals", "open", "quit", "setattr", "vars", "ToolError"),
    )
)
"""Names with which code reaches what its text does not name."""
_REACHING_ATTRIBUTES = frozenset(("eval", "exec", "query", "attrgetter", "methodcaller", "system", "popen"))


def code_needs_approval(
    code: str,
    *,
    functions: Iterable[str] = (),
    free: Iterable[str] = (),
    modules: Iterable[str] = COMPUTING_MODULES,
) -> bool:
    """Return whether a person should look at Python code before it runs.

    They need not if all of it is plain Python that computes: it imports `modules` only, runs no commands and no magics,
    calls no functions of the application except those that are free, and does nothing by names that are made up as it
    runs. Whatever cannot be told needs approval.

    It saves people's time, as they see what is worth their look. It is no wall: the sandbox is, and code that was let
    through has what the session has.

    Args:
        code: what a model wrote.
        functions: the names of the application's functions that the code can call.
        free: those of them that need no approval.
        modules: the top-level modules that code may import.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return True
    guarded = {*functions} - {*free} | _REACHING
    allowed = frozenset(modules)
    try:
        return any(_reaches(node, guarded, allowed) for node in ast.walk(tree))
    except RecursionError:
        return True


def _reaches(node: ast.AST, guarded: Iterable[str], modules: Iterable[str]) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.partition(".")[0] not in modules for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        named = any(_is_reaching(alias.name) for alias in node.names)
        return bool(node.level) or named or (node.module or "").partition(".")[0] not in modules
    if isinstance(node, ast.Name):
        return node.id in guarded or node.id.startswith("__")
    if isinstance(node, ast.Attribute):
        return _is_reaching(node.attr) or node.attr in guarded
    return False


def _is_reaching(attribute: str) -> bool:
    return attribute.startswith("_") or attribute in _REACHING_ATTRIBUTES
