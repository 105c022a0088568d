"""Make untrusted values safe in texts that people, models and terminals read."""

from __future__ import annotations

import re
import reprlib

# Complete terminal sequences (ECMA-48): CSI; OSC, DCS and the other strings; two-character ones. The rest of an
# incomplete sequence is text, as its escape character is removed.
_SEQUENCE = re.compile(
    r"""
    \x1b (?:
        \[ [0-?]* [ -/]* [@-~]
        | [\]PX^_] [^\x07\x1b]* (?: \x07 | \x1b\\ )?
        | [\x20-/]* [0-OQ-WYZ\\`-~]
    )?
    """,
    re.VERBOSE,
)
_LAYOUT = "\t\n\r"
_CONTROLS = dict.fromkeys(code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _LAYOUT)

# Some readers take U+2028 and U+2029 for ends of lines; halves of surrogate pairs cannot be encoded.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(name: str) -> str:
    """Return the name if all of it can be printed, else its `repr`, without line breaks or terminal sequences."""
    return name if name.isprintable() else repr(name)


def without_controls(text: str) -> str:
    """Return the text without control characters and terminal sequences; tabs and the ends of lines stay."""
    return _SEQUENCE.sub("", text).translate(_CONTROLS)


def visible(text: str) -> str:
    """Return the text without terminal sequences, and with control characters as escapes such as `\\x00`."""
    return _INVISIBLE.sub(lambda found: repr(found[0])[1:-1], _SEQUENCE.sub("", text))


def one_line(text: str) -> str:
    """Return the text as one line, without terminal sequences; unprintable characters are escapes, as `\\u202e`."""
    if text.isprintable():
        return text
    text = _SEQUENCE.sub("", text).replace("\t", " ")
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class _Brief(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = 200
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]  the name differs between versions
        return super().repr_int(x, level) if x.bit_length() < 1000 else f"<int of {x.bit_length()} bits>"


_BRIEF = _Brief()


def brief(value: object) -> str:
    """The `repr` of a value for an error message: bounded, whatever the value is."""
    return _BRIEF.repr(value)
