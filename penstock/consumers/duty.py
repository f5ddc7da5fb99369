"""The shape that all background duties share: a step, `once`, and the loop that repeats it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterator

from penstock.errors import BrokerError, PermissionDenied, ServerOutOfMemory, WrongKeyType
from penstock.events import BrokerDown, BrokerUp, Observers
from penstock.streams.client import pauses
from penstock.streams.faults import was_silent

log = logging.getLogger("penstock.worker")

#: What concerns one queue only, unlike an outage: its key is somebody else's, or a right is missing.
QUEUE_FAULTS = (WrongKeyType, PermissionDenied)
#: Longest pause (s) of a duty that lacks a right, or finds somebody else's key.
REFUSED_PAUSE = 60.0


class Bell:
    """Wakes a duty before its time. Ring it from the worker's event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self, seconds: float | None) -> None:
        """Until somebody rings, but no longer than `seconds`."""
        if seconds is not None and seconds <= 0:
            await asyncio.sleep(0)
        elif not self._event.is_set():
            try:
                async with asyncio.timeout(seconds):
                    await self._event.wait()
            except TimeoutError:
                return
        self._event.clear()


class Link:
    """What this worker knows of its server: whether it answers as it should, and since when leases can be renewed."""

    def __init__(self, observers: Observers, confirm: Callable[[], Awaitable[object]], brief: float = 0.0) -> None:
        self._observers = observers
        self._brief = brief
        #: Raises `BrokerError` while leases cannot be renewed. To have had an answer is not enough: a replica, or
        #: a server whose disk is full, goes on to answer whoever only reads.
        self.confirm = confirm
        self._down_since: float | None = None
        #: Not the same: a server that is out of memory refuses much, for days perhaps, but renews every lease.
        self._away_since: float | None = None
        self._silent = False
        #: Monotonic time at which the server answered again after it was away for more than `brief`
        #: seconds, or stood still; 0: never. A connection that was only cut, and is there again, does not
        #: make leases look old; and where it is cut again and again, nothing would ever be taken over.
        self.restored_at = 0.0

    @property
    def is_away(self) -> bool:
        """True while it renews no leases, as far as we know."""
        return self._away_since is not None

    def down(self, error: BrokerError) -> None:
        """A call failed. Told and logged once per outage."""
        if isinstance(error, ServerOutOfMemory):
            self._answered()
        else:
            self._silent = self._silent or was_silent(error)
            self._away_since = self._away_since or time.monotonic()
        if self._down_since is None:
            self._down_since = time.monotonic()
            log.warning("the server does not answer as it should, trying again: %s", error)
            self._observers.emit(BrokerDown(error=str(error)))

    def up(self) -> None:
        """A call succeeded."""
        self._answered()
        if self._down_since is not None:
            down, self._down_since = time.monotonic() - self._down_since, None
            log.warning("the server answers again after %.1f s", down)
            self._observers.emit(BrokerUp(seconds=down))

    def stood_still(self) -> None:
        """It has answered late, and nobody else in the meantime: every lease looks older than it is."""
        self.restored_at = time.monotonic()

    def _answered(self) -> None:
        if self._away_since is not None:
            now = time.monotonic()
            if self._silent or now - self._away_since > self._brief:
                self.restored_at = now
            self._away_since, self._silent = None, False


async def every(once: Callable[[], Awaitable[float | None]], link: Link, bell: Bell | None = None) -> None:
    """Repeat `once`, which answers in how many seconds it wants to run again (None: when rung for)."""
    bell, name = bell or Bell(), getattr(once, "__qualname__", once)
    tries, failed = pauses(), False
    refusals: Iterator[float] | None = None
    while True:
        try:
            pause = await once()
            refusals = None
            if failed:  # only who has failed knows that the server is back: others may not have asked
                await link.confirm()
                link.up()
                tries, failed = pauses(), False
        except QUEUE_FAULTS as error:
            # The server does answer, and perhaps never in another way: as an outage this would keep
            # the reclaimer, which takes nothing over during one, from ever doing so.
            if failed:
                link.up()
                tries, failed = pauses(), False
            refusals = refusals or pauses(1.0, REFUSED_PAUSE)
            pause = next(refusals)
            log.error("%s is refused, again in %.0f s: %s", name, pause, error)
        except BrokerError as error:
            link.down(error)
            pause, failed = next(tries), True
        except Exception:
            # A duty must never end while the worker runs; a bug in one is loud, and bounded.
            log.exception("%s failed; it goes on in a second", name)
            pause = 1.0
        await bell.wait(pause)


def jittered(seconds: float) -> float:
    """A little earlier, at random, so that workers do not act in step."""
    return seconds * random.uniform(0.9, 1.0)
