"""What happens in the demo, in order: send, follow, kill, sum up, prove."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from penstock import App, Handle, State, TaskFailed, TaskInfo, TaskNotFound
from penstock.cli.demo.corpus import Corpus
from penstock.cli.demo.report import TOP, Kill, Ledger, Report
from penstock.cli.demo.screen import Screen
from penstock.cli.demo.stage import pid_of
from penstock.cli.demo.tasks import FileIndex, index_file, summarise

#: Tasks that are waited for at a time. More than the workers run, so that one that is late holds nobody up.
_FOLLOWERS = 64
#: How many files are made to stumble at their first attempt.
_STUMBLERS = 20

Files = dict[str, Handle[FileIndex]]


class Story:
    """One run of the demo. `app` reaches the workers that `Stage` has started."""

    def __init__(self, app: App, corpus: Corpus, screen: Screen) -> None:
        self._app = app
        self._corpus = corpus
        self._screen = screen
        self._began = time.monotonic()
        #: Files that a follower is waiting for: the oldest that have not ended.
        self._awaited: Files = {}
        self._kill: Kill | None = None
        self._killed_at: datetime | None = None
        #: Workers that were seen before the kill.
        self._known: set[str] = set()

    async def tell(self) -> Report:
        """Everything, from the first task to the proof."""
        files = await self._send()
        await self._follow(files)
        ledger = await self._sum_up(files)
        return self._report(ledger)

    async def _send(self) -> Files:
        """One task for each file, in a few round trips."""
        paths = self._corpus.files
        began = time.monotonic()
        every = max(1, len(paths) // _STUMBLERS)
        calls = (
            index_file.options(id=key).s(str(path), stumble=number % every == every - 1)
            for number, (key, path) in enumerate(paths.items())
        )
        handles = await self._app.abulk(calls)
        self._screen.say(f"sent {len(paths):,} files as tasks in {time.monotonic() - began:.2f} s")
        return dict(zip(paths, handles, strict=True))

    async def _follow(self, files: Files) -> None:
        """Wait for the end of every task; halfway, kill a worker."""
        self._screen.begin(len(files))
        waiting = iter(files.items())
        async with asyncio.TaskGroup() as group:
            for _ in range(_FOLLOWERS):
                group.create_task(self._follow_some(waiting, len(files) // 2))
        self._screen.end()

    async def _follow_some(self, waiting: Iterator[tuple[str, Handle[FileIndex]]], half: int) -> None:
        for key, handle in waiting:
            self._awaited[key] = handle
            try:
                await handle
            except TaskFailed:
                pass  # counted from its record, as are all
            del self._awaited[key]
            self._account(key, await handle.ainfo())
            if self._kill is None and self._screen.done >= half:
                await self._kill_one()

    def _account(self, key: str, info: TaskInfo) -> None:
        """Show one file that has ended."""
        worker = info.worker or "?"
        self._screen.advance(worker, failed=info.state is State.FAILED)
        kill = self._kill
        if kill is None:
            self._known.add(worker)
            return
        if worker not in self._known:
            self._known.add(worker)
            kill.replaced_by.append(worker)
            self._screen.say(f"worker {pid_of(worker)} has taken its place {self._since_kill():.1f} s after the kill")
        if key in kill.in_hand and kill.in_hand.isdisjoint(self._awaited)
...
