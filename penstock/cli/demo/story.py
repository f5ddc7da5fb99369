"""What happens in the demo, in order: send, follow, kill, sum up, prove."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import defaultdict
from collections.abc import Iterable

from penstock import App, Handle, ResultTimeout, State, TaskFailed, TaskInfo, TaskNotFound
from penstock.cli.demo.corpus import Corpus
from penstock.cli.demo.report import Kill, Ledger
from penstock.cli.demo.screen import Screen
from penstock.cli.demo.stage import LEASE, Roster, pid_of
from penstock.cli.demo.tasks import FileIndex, Summary, index_file, summarise

#: Tasks that are waited for at a time. More than the workers run, so that one that is late holds nobody up.
_FOLLOWERS = 64
#: Seconds after which a file counts as missing. Those that stumble are sent to the end of the queue.
_PATIENCE = 120.0
#: How many files are made to stumble at their first attempt.
_STUMBLERS = 20
#: Dead letters that are read back; there are about ten.
_MOST_DEAD = 1000

Files = dict[str, Handle[FileIndex]]


class Story:
    """One run of the demo, on a stage where the workers are ready."""

    def __init__(self, app: App, roster: Roster, screen: Screen) -> None:
        self._app = app
        self._roster = roster
        self._screen = screen
        #: Files that are waited for: the oldest that have not ended.
        self._awaited: Files = {}
        self._ended: list[str] = []
        self._kill: Kill | None = None
        #: Of the files that the killed worker had in hand, those that have not ended.
        self._orphans: set[str] = set()

    async def tell(self, corpus: Corpus) -> Ledger:
        """Everything, from the first task to what is read back in the end."""
        files = await self._send(corpus)
        await self._follow(files)
        summary = await self._sum_up()
        return await self._read_back(files, summary)

    async def _send(self, corpus: Corpus) -> Files:
        """One task for each file, in a few round trips."""
        began = time.monotonic()
        stumblers = list(corpus.files)[:: max(1, len(corpus.files) // _STUMBLERS)][:_STUMBLERS]
        handles = await self._app.abulk(
            index_file.options(id=key).s(str(path), stumble=key in stumblers) for key, path in corpus.files.items()
        )
        self._screen.say(f"{len(handles):,} files sent as tasks, in {time.monotonic() - began:.2f} s")
        return dict(zip(corpus.files, handles, strict=True))

    async def _follow(self, files: Files) -> None:
        """Wait for the end of every file's task; halfway, kill a worker."""
        waiting, half = iter(files.items()), max(1, len(files) // 2)
        with self._screen.progress(len(files)):
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(_FOLLOWERS):
                        group.create_task(self._follow_some(waiting, half))
            except ExceptionGroup as errors:
                raise errors.exceptions[0] from errors  # they all saw the same

    async def _follow_some(self, waiting: Iterable[tuple[str, Handle[FileIndex]]], half: int) -> None:
        for key, handle in waiting:
            self._awaited[key] = handle
            failed = False
            try:
                await handle.aget(timeout=_PATIENCE)
            except TaskFailed:
                failed = True
            except ResultTimeout:
                return  # the report will say that this file is missing
            del self._awaited[key]
            self._ended.append(key)
            self._screen.advance(failed)
            self._recover(key)
            if len(self._ended) == half:
                await self._kill_one()

    async def _kill_one(self) -> None:
        """kill -9 a worker that is at work, and see another one take its place."""
        worker = next(iter(await self._in_hand()), self._roster.known[0])
        done, at = len(self._ended), time.time()
        os.kill(pid_of(worker), signal.SIGKILL)
        # It can end these no longer, and nobody takes them over before its lease has run out.
        files = (await self._in_hand()).get(worker, [])
        self._orphans = set(files)
        self._screen.workers(name for name in self._roster.known if name != worker)
        self._screen.say(
            f"$ kill -9 {pid_of(worker)}    files in its hands: {len(files)}; others get them when the lease of "
            f"{LEASE} s is over",
            "red",
        )
        other = await self._roster.newcomer()
        self._screen.workers(name for name in self._roster.known if name != worker)
        self._screen.say(f"worker {pid_of(other)} has taken its place")
        self._kill = Kill(worker=worker, pid=pid_of(worker), at=at, done_before=done, in_hand=files, replaced_by=other)

    async def _in_hand(self) -> dict[str, list[str]]:
        """The files that each worker is at."""
        awaited = dict(self._awaited)
        found = defaultdict(list)
        for key, info in zip(awaited, await asyncio.gather(*(each.ainfo() for each in awaited.values())), strict=True):
            if info.state is State.RUNNING and info.worker is not None:
                found[info.worker].append(key)
        return found

    def _recover(self, key: str) -> None:
        if key in self._orphans:
            self._orphans.discard(key)
            if not self._orphans:
                self._screen.say("the dead worker's files have been taken over and are done", "green")

    async def _sum_up(self) -> Summary:
        """The last task: it reads the results of the others."""
        began = time.monotonic()
        summary = await (await summarise.adelay(self._ended))
        self._screen.say(f"a last task has added up {summary.files:,} results, in {time.monotonic() - began:.2f} s")
        return summary

    async def _read_back(self, files: Files, summary: Summary) -> Ledger:
        """Each file's record as it is now, and the dead letters: nothing of this is remembered from before."""
        records = {key: await _record(handle) for key, handle in files.items()}
        letters = await asyncio.to_thread(self._app.dead_letters(index_file.config.queue).list, _MOST_DEAD)
        dead = {letter.id.partition(":")[2]: letter.error for letter in letters}
        return Ledger(records=records, dead=dead, summary=summary, kill=self._kill)


async def _record(handle: Handle[FileIndex]) -> TaskInfo | None:
    try:
        return await handle.ainfo()
    except TaskNotFound:
        return None
