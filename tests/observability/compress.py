"""Rules and routes in compressed time: what takes minutes in production takes seconds in a test.

Every *duration* is divided: ``for``, ``interval``, and in expressions the ranges in brackets and the offsets. Nothing
else is changed: neither thresholds (``> 120`` seconds stays 120 seconds; the test has tasks that are so old) nor
metrics, labels and functions. So each rule is evaluated as it stands, over a shorter past. There is one exception:
``increase(a[5m])`` is what ``rate(a[5m]) * 300`` is, and as that it stays, or its threshold would mean something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: Keys whose values are durations: of rules and groups, and of Alertmanager's routes.
_KEYS = frozenset({"for", "keep_firing_for", "interval", "group_wait", "group_interval", "repeat_interval"})
_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
_PART = re.compile(r"(\d+)(ms|[smhdwy])")
_DURATION = rf"(?:{_PART.pattern})+".replace("(\\d+)(ms|", "\\d+(?:ms|")
#: Text in quotes; an increase of a counter; a range or a subquery; an offset.
_TOKEN = re.compile(
    rf"""(?P<text>"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`[^`]*`)"""
    rf"""|\bincrease\(\s*(?P<counter>[\w:]+(?:\{{[^}}]*\}})?)\s*\[(?P<whole>{_DURATION})\]\s*\)"""
    rf"""|\[\s*(?P<range>{_DURATION})\s*(?P<colon>:)?\s*(?P<step>{_DURATION})?\s*\]"""
    rf"""|\boffset\s+(?P<sign>-?)\s*(?P<offset>{_DURATION})\b"""
)


def milliseconds(duration: str) -> int:
    """``1h30m``; ValueError for what Prometheus would not take."""
    if not re.fullmatch(_DURATION, duration):
        raise ValueError(f"{duration!r} is no duration")
    return sum(int(number) * _UNITS[unit] for number, unit in _PART.findall(duration))


def shorter(duration: str, factor: float) -> str:
    """A duration divided by `factor`, in whole milliseconds, at least one. Nothing stays nothing."""
    found = milliseconds(duration)
    return f"{max(1, round(found / factor))}ms" if found else "0s"


def expression(text: str, factor: float) -> str:
    """An expression with every range, subquery and offset divided by `factor`."""

    def replace(match: re.Match[str]) -> str:
        if match["text"] is not None:
            return match[0]
        if match["counter"] is not None:
            seconds = milliseconds(match["whole"]) / 1000
            return f"(rate({match['counter']}[{shorter(match['whole'], factor)}]) * {seconds:g})"
        if match["offset"] is not None:
            return f"offset {match['sign']}{shorter(match['offset'], factor)}"
        step = shorter(match["step"], factor) if match["step"] else ""
        return f"[{shorter(match['range'], factor)}{match['colon'] or ''}{step}]"

    return _TOKEN.sub(replace, text)


def document(value: Any, factor: float) -> Any:
    """A file of rules, or Alertmanager's configuration, in which time is `factor` times quicker."""
    if isinstance(value, list):
        return [document(each, factor) for each in value]
    if not isinstance(value, Mapping):
        return value
    made = {}
    for key, each in value.items():
        if key in _KEYS and isinstance(each, str):
            made[key] = shorter(each, factor)
        elif key == "expr":
            made[key] = expression(str(each), factor)
        else:
            made[key] = document(each, factor)
    return made
