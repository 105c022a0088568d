"""What JSON takes in memory, found without parsing it: `[{},{},…` grows to 27 times its size when it is parsed.

The runner and the host weigh with the same scales, so what the runner passes on is never too heavy for the host.
"""

from __future__ import annotations

from itertools import accumulate

MAX_DEPTH = 200
"""Levels of nested arrays and objects; what is deeper exhausts the stack of whoever walks through it."""

_VALUE = 48  # bytes of memory per value beside its text: an empty dict takes 64, a short str 50, an int 28
_PIECE = 1 << 20
_BRACKETS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class TooDeep(ValueError):
    """The JSON is nested deeper than `MAX_DEPTH`."""


def weigh_json(body: bytes, limit: int) -> int:
    """Return about how many bytes the values in `body` take in memory, or some number over `limit` if they take more.

    What is not JSON weighs as the JSON at its beginning does, which is as far as a parser comes.

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
    # Much of that may be within strings, where it weighs nothing.
    values = nested = depth = 0
    in_string = False
    # An escaped quote ends no string; an escaped backslash escapes no quote.
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
