"""A verb as a value: which script (or command), on which keys, and how its reply is read.

Building a call and reading its reply do no I/O, so the sync and the async client share every verb.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from penstock.streams.scripts import Script

T_co = TypeVar("T_co", covariant=True)
Arg = str | bytes | int | float


class Call(Generic[T_co]):
    """One script call, or with `script` None one plain command; `read` turns the reply into a T_co."""

    __slots__ = ("args", "keys", "read", "script")

    def __init__(
        self, script: Script | None, keys: Sequence[str], args: Sequence[Arg], read: Callable[[Any], T_co]
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.read = read

    def by_sha(self) -> tuple[Arg, ...]:
        """The command to send first."""
        if self.script is None:
            return tuple(self.args)
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    def by_text(self) -> tuple[Arg, ...]:
        """The command to send after NOSCRIPT: it also loads the script."""
        if self.script is None:
            return tuple(self.args)
        return ("EVAL", self.script.text, len(self.keys), *self.keys, *self.args)


def command(*args: Arg, read: Callable[[Any], T_co]) -> Call[T_co]:
    """A plain command; its key must be the second word."""
    return Call(None, (), args, read)


def failed(reply: object) -> str | None:
    """The error of one item of a batch, or None (see `guarded` in the scripts' prelude).

    One that is the server's and not the item's is raised, as if the whole call had failed: it may be
    sent again, and what it has done already stays as it is.
    """
    if not isinstance(reply, bytes) or reply[:1] != b"!":
        return None
    from penstock.streams.faults import common_error  # loads redis-py, which an app needs at its first call only

    text = reply[1:].decode(errors="replace")
    common = common_error(text)
    if common is not None:
        raise common
    return text


def ms(seconds: float) -> int:
    """Seconds as whole milliseconds."""
    return round(seconds * 1000)
