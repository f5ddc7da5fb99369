"""Cuts a fuzzer's bytes into values: the choices of a target come from the front, so that mutation finds them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

#: Numbers at which something ends: of msgpack, of Lua's doubles, of datetime, of C.
EDGES = (0, 1, -1, 2, 255, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 253402300800000)
#: Text as a record or a score may hold it, where we expect a number.
NUMBERS = (b"", b"0", b"1", b"-1", b"1700000000000", b"9" * 18, b"9" * 5000, b"1e308", b"inf", b"-inf", b"nan",
           b"0x10", b"1_0", b" 7 ", b"\xd9\xa3", b"1.5", b"\xff", b"18446744073709551615-1",
           b"-9223372036854775808")  # fmt: skip


class Feed:
    """Bytes that are used up from the front; when nothing is left it gives zeros and empty strings."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def byte(self) -> int:
        """0 to 255."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def chunk(self) -> bytes:
        """Up to 255 bytes, or one of `NUMBERS`."""
        size = self.byte()
        if size >= 256 - len(NUMBERS):
            return NUMBERS[size - 256]
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def rest(self) -> bytes:
        """All that is left."""
        start, self._at = self._at, len(self._data)
        return self._data[start:]

    def number(self) -> int:
        """A signed 64-bit number, as a reply of Redis can hold: an edge, a small one, or any."""
        kind = self.byte()
        if kind < len(EDGES):
            return EDGES[kind]
        if kind < 128:
            return self.byte()
        start, self._at = self._at, self._at + 8
        return int(struct.unpack("<q", self._data[start : self._at].ljust(8, b"\0"))[0])

    def score(self) -> bytes:
        """A zset's score, as the server writes it: any double but NaN."""
        number = struct.unpack("<d", self.chunk()[:8].ljust(8, b"\0"))[0]
        return b"0" if number != number else repr(number).encode()

    def pick(self, values: Sequence[T]) -> T:
        """One of them."""
        return values[self.byte() % len(values)]

    def count(self, most: int) -> range:
        """For a loop."""
        return range(self.byte() % (most + 1))
