"""Decide which code needs a person's approval before it runs."""

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
"""Modules that only compute, and access nothing outside of the session."""

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
"""Names through which code can reach objects that its text does not name."""
_REACHING_ATTRIBUTES = frozenset(("eval", "exec", "query", "attrgetter", "methodcaller", "system", "popen"))


def code_needs_approval(
    code: str,
    *,
    functions: Iterable[str] = (),
    free: Iterable[str] = (),
    modules: Iterable[str] = COMPUTING_MODULES,
) -> bool:
    """Return whether a person should look at Python code before it runs.

    Code needs no approval if it is plain Python that only computes: it imports only `modules`, runs no commands and no
    magics, calls none of the application's functions except the free ones, and uses no names that it constructs at run
    time. If in doubt, code needs approval. This saves people's time; it does not isolate code. The sandbox does, and
    code that needs no approval has access to everything in the session.

    Args:
        code: the model's code.
        functions: the names of the application's functions that the code can call.
        free: the names of those that need no approval.
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
