"""Collapsed stacks, as py-spy writes them, by layer: a line is ``thread;outer;..;innermost COUNT``."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

#: Layer, and part of the innermost frame's file; the first that fits. The worker's modules are layers of their own.
#: What C code takes counts for the frame that calls it: hiredis for redis-py, msgspec for penstock's own, uvloop and
#: the waiting for asyncio's outermost.
_LAYERS = (
    ("redis-py", r"-packages/redis/"),
    ("anyio", r"-packages/anyio/"),
    (r"penstock.consumers.\1", r"/penstock/consumers/(\w+)\.py"),
    (r"penstock.\1", r"/penstock/(streams|tasks|cli)/\w+\.py"),
    ("penstock, other", r"/penstock/\w+\.py"),
    ("the user's task", r"/benchmarks/adapters/"),
    ("asyncio, uvloop", r"/(?:asyncio|uvloop)/|/selectors\.py"),
)
OTHER = "other"
_LINE = re.compile(r"(.*) (\d+)$")
_MAIN_THREAD = "MainThread"


@dataclass(frozen=True)
class Shares:
    """`by_layer`: shares of all samples, the largest first."""

    samples: int
    by_layer: dict[str, float]


def read_shares(raw: str, every_thread: bool = False) -> Shares:
    """The shares of the main thread's samples, or of all threads'."""
    counts: Counter[str] = Counter()
    for line in raw.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        frames = match[1].split(";")
        threads = [frame for frame in frames if frame.startswith("thread (")]
        if every_thread or any(_MAIN_THREAD in thread for thread in threads):
            counts[layer_of(frames[-1])] += int(match[2])
    total = counts.total()
    return Shares(total, {layer: count / total for layer, count in counts.most_common()})


def layer_of(frame: str) -> str:
    """Of a frame, ``function (/path/file.py:12)``."""
    for layer, pattern in _LAYERS:
        if match := re.search(pattern, frame):
            return match.expand(layer)
    return OTHER
