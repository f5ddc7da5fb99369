"""Anybody's text, made harmless for a terminal: names, errors and arguments may hold whatever was sent."""

from __future__ import annotations

import re

#: Controls of the terminal (C0, DEL, C1), what turns the direction of writing (``gpj.exe`` then looks like
#: ``exe.jpg``), and what UTF-8 has no bytes for.
_BAD = r"\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_UNPRINTABLE = re.compile(f"[{_BAD}]")
_NOT_IN_A_LINE = re.compile(rf"[{_BAD}\t\n\u2028\u2029]")


def printable(text: str, in_a_line: bool = False) -> str:
    r"""`text` so that a terminal shows it and does nothing else: ``\x1b[2J`` as these six characters.

    Line breaks and tabs stay, unless it is to stand `in_a_line`.
    """
    return (_NOT_IN_A_LINE if in_a_line else _UNPRINTABLE).sub(_escape, text)


def printable_json(text: str) -> str:
    """JSON of the same value, all of it printable: C1 and what turns the direction may stand in it as they are."""
    return _UNPRINTABLE.sub(_escape_in_json, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _escape_in_json(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"
