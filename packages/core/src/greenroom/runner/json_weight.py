"""Estimate the memory that JSON takes once parsed, without parsing it: `[{},{},…` grows to 27 times its size.

The supervisor and the host use the same estimate, so the host never refuses what an honest supervisor sends.
"""

from __future__ import annotations

from itertools import accumulate

MAX_DEPTH = 200
"""Levels of nested arrays and objects; deeper nesting exhausts the stack of code that walks through it."""

_VALUE = 48  # bytes of memory per value in addition to its text: an empty dict takes 64, a short str 50, an int 28
_PIECE = 1 << 20
_BRACKETS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class TooDeep(ValueError):
    """The JSON is nested deeper than `MAX_DEPTH`."""


def weigh_json(body: bytes, limit: int) -> int:
    """Return about how many bytes the values in `body` take in memory, or some number over `limit` if they take more.

    If `body` is not JSON, the number covers at least the part that a parser would read before it fails.

    Raises:
        TooDeep: it is nested deeper than `MAX_DEPTH`.
    """
    size = len(body)
    if size > limit:
        return size
    nested = body.count(b"[") + body.count(b"{")
    values = nested + body.count(b",") + body.count(b":")
    if size + _VALUE * values <= limit and nested <= MAX_DEPTH:
        return size + _VALUE * values
    # Many of these characters can be within strings, where they cost nothing extra.
    values = nested = depth = 0
    in_string = False
    # An escaped quote does not end a string, and an escaped backslash does not escape a quote.
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    for start in range(0, len(plain), _PIECE):
        parts = plain[start : start + _PIECE].split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        brackets = outside.translate(_BRACKETS, _NO_BRACKETS)
        levels = accumulate(memoryview(brackets).cast("b"), initial=depth)
        depth, nested = _last_and_highest(list(levels))
        if nested > MAX_DEPTH:
            raise TooDeep(f"JSON is nested deeper than {MAX_DEPTH} levels")
        values += outside.count(b",") + outside.count(b":") + outside.count(b"[") + outside.count(b"{")
        if size + _VALUE * values > limit:
            break
    return size + _VALUE * values


def _last_and_highest(levels: list[int]) -> tuple[int, int]:
    return levels[-1], max(levels)
