"""Loads the Lua scripts, one file per verb, and joins in the parts they share."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^-- include: (\w+)$", re.MULTILINE)


class Script:
    """A Lua script and its SHA-1, by which EVALSHA names it."""

    __slots__ = ("name", "sha", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def __repr__(self) -> str:
        return f"Script({self.name})"


@cache
def load(name: str) -> Script:
    """The script ``lua/<name>.lua`` with each ``-- include: part`` replaced by ``lua/_part.lua``."""
    folder = files("penstock.streams") / "lua"
    text = (folder / f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, _INCLUDE.sub(lambda m: (folder / f"_{m[1]}.lua").read_text(encoding="utf-8"), text))
