"""One run: the script of work, driven through a proxy that strikes once, and what must be true at its end."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import secrets
import shutil
import signal
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.context import ForkServerProcess
from typing import Any

import msgspec
import redis

from penstock import App, State, TaskCancelled, TaskFailed
from penstock.streams import consume, keys
from penstock.streams.client import AsyncClient
from penstock.tasks.handle import Handle
from tests.chaos.crash_tasks import LEASE, make_app, note, noted, run_worker
from tests.chaos.proxy import Fault, Proxy, Request
from tests.servers import Server, await_until, find_leaks

#: Seconds that a run may take; one that takes so long hangs.
PATIENCE = 40.0
SIDES = ("producer", "worker")


class Result(msgspec.Struct, frozen=True):
    """What came of one run. `problems` is empty if nothing was lost, ended twice, or left over."""

    fault: Fault | None
    struck: Request | None
    killed: int
    counts: dict[str, int]
    requests: list[Request]
    problems: list[str]
    seconds: float


class _Inside:
    """The worker runs in this process."""

    killed = 0

    def __init__(self, url: str, namespace: str, folder: str) -> None:
        self._arguments = url, namespace, folder
        self._app: App | None = None

    async def start(self, grace: float) -> None:
        self._app = make_app(*self._arguments, grace=grace)
        self._running = self._app.running()
        # A worker waits for a server that is away, so its start ends only when it is there.
        await self._running.__aenter__()

    async def stop(self) -> None:
        if self._app is not None:
            app, self._app = self._app, None
            await self._running.__aexit__(None, None, None)
            await app.aclose()


class Killable:
    """The worker is a process of its own, started again when it dies."""

    # A fork of a process that has imported everything starts in milliseconds, and has no threads.
    _context = multiprocessing.get_context("forkserver")

    def __init__(self, url: str, namespace: str, folder: str) -> None:
        self._arguments = url, namespace, folder
        self._process: ForkServerProcess | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._stopping = False
        self._lock = threading.Lock()
        #: Processes that ended by our SIGKILL.
        self.killed = 0

    @classmethod
    def prepare(cls) -> None:
        cls._context.set_forkserver_preload(["tests.chaos.crash_tasks", "penstock.consumers.worker"])

    async def start(self, grace: float) -> None:
        self._stopping = False
        self._spawn(grace)
        self._keeping = asyncio.create_task(self._keep(grace))

    async def stop(self) -> None:
        self._stopping = True
        if self._process is not None:
            self._process.terminate()
        if self._keeping is not None:
            await self._keeping

    def kill(self) -> None:
        """SIGKILL; when it returns the process runs no more code."""
        with self._lock:
            if self._process is not None and self._process.pid is not None:
                os.kill(self._process.pid, signal.SIGKILL)

    def _spawn(self, grace: float) -> None:
        with self._lock:
            self._process = self._context.Process(target=run_worker, args=(*self._arguments, grace), daemon=True)
            self._process.start()

    async def _keep(self, grace: float) -> None:
        while True:
            process = self._process
            assert process is not None
            await asyncio.to_thread(process.join)
            self.killed += process.exitcode == -signal.SIGKILL
            if self._stopping:
                return
            self._spawn(grace)


class Run:
    """One run of the script in a namespace of its own."""

    def __init__(self, server: Server, fault: Fault | None, kill: bool) -> None:
        self._server = server
        self._fault = fault
        self._namespace = f"crash-{secrets.token_hex(6)}"
        self._folder = tempfile.mkdtemp(prefix="crash-")
        self._proxy = Proxy(server.port, SIDES, fault)
        arguments = self._proxy.url("worker"), self._namespace, self._folder
        self._workers = Killable(*arguments) if kill else _Inside(*arguments)
        if isinstance(self._workers, Killable):
            self._proxy.on_strike = self._workers.kill
        self._app = make_app(self._proxy.url("producer"), self._namespace, self._folder)
        #: Asks the server itself.
        self._direct = make_app(server.url, self._namespace, self._folder)
        self._expected: dict[str, State] = {}

    async def result(self) -> Result:
        """Run, check, tidy up."""
        since = time.monotonic()
        problems: list[str] = []
        try:
            async with asyncio.timeout(PATIENCE):
                await self._script()
        except Exception as error:
            problems.append(f"the script failed: {type(error).__name__}: {error}{await self._where()}")
        finally:
            with suppress(Exception):
                async with asyncio.timeout(PATIENCE):
                    await self._workers.stop()
            await self._app.aclose()
        if not problems:
            problems = await self._check()
        await self._direct.aclose()
        await asyncio.to_thread(self._tidy, keep=bool(problems))
        counts = dict(self._proxy.counts)
        seconds = time.monotonic() - since
        struck, killed = self._proxy.struck, self._workers.killed
        return Result(self._fault, struck, killed, counts, self._proxy.requests, problems, seconds)

    # The script of work

    async def _script(self) -> None:
        await self._send_without_workers()
        await self._workers.start(grace=0.1)
        await self._work_and_cancel()
        await self._redrive()
        await self._hand_back()
        await self._workers.stop()

    async def _send(self, name: str, *args: Any, ends: State = State.SUCCEEDED, **options: Any) -> Handle[Any]:
        handle = await self._app.tasks[name].options(**options).adelay(*args)
        self._expected[handle.id] = ends
        return handle

    async def _send_without_workers(self) -> None:
        """What is sent, cancelled and taken by a consumer that dies before any worker is there."""
        add = self._app.tasks["add"]
        await self._send("add", 0, id="taken", priority="high")
        client = AsyncClient(self._direct.connector)
        base = keys.base(self._namespace, "default")
        taken = await client.run(consume.fetch(base, "default", "dead", 1, [("high", 1)], 60.0))
        assert [d.key for d in taken.deliveries] == ["taken"]
        await client.aclose()
        sync = await asyncio.to_thread(add.options(id="sync").delay, 1)
        self._expected[sync.id] = State.SUCCEEDED
        for handle in await add.options(priority="low").abulk([(n,) for n in range(5)]):
            self._expected[handle.id] = State.SUCCEEDED
        await self._send("add", 2, id="own")
        again = await self._send("add", 3, id="own")
        assert not again.created
        for id, options in (("queued", {}), ("scheduled", {"delay": 3600})):
            handle = await self._send("add", 4, id=id, ends=State.CANCELLED, **options)
            assert await handle.acancel(), id
            assert await handle.astate() is State.CANCELLED

    async def _work_and_cancel(self) -> None:
        """Every way in which an attempt can end, and a cancel while it runs."""
        waits = await self._send("waits", id="waits", ends=State.CANCELLED)
        awaited = [await self._send("add", 5, id="delayed", delay=0.3)]
        awaited += [await self._send(name, 5, id=name) for name in ("in_thread", "flaky", "dozes", "long")]
        large = await self._send("large", id="large")
        refuses = await self._send("refuses", id="refuses", ends=State.FAILED)
        await self._send("mends", 5, id="mends")
        await await_until(lambda: "start waits" in noted(self._folder), PATIENCE)
        assert await waits.acancel()
        for handle in awaited:
            assert await handle.aget(PATIENCE) == 6, handle.id
        assert await large.aget(PATIENCE) == "x" * 5000
        for handle, error in ((refuses, TaskFailed), (waits, TaskCancelled)):
            try:
                await handle.aget(PATIENCE)
            except error:
                continue
            raise AssertionError(f"{handle.id} has ended well")
        await self._all_ended({"mends"})

    async def _redrive(self) -> None:
        """A dead letter is sent again; and a task comes to a worker that has nothing to do."""
        mends = self._direct.handle("default:mends")
        await await_until(lambda: self._is(mends, State.FAILED), PATIENCE)
        note(self._folder, "mended", "all")
        assert await asyncio.to_thread(self._app.redrive, mends.id) == 1
        assert await self._app.tasks["mends"].handle("mends").aget(PATIENCE) == 6
        idle = await self._send("add", 6, id="idle")
        assert await idle.aget(PATIENCE) == 7

    async def _hand_back(self) -> None:
        """A worker is stopped while a task runs that does not end; the next one ends it."""
        held = await self._send("held", 7, id="held")
        await await_until(lambda: "start held" in noted(self._folder), PATIENCE)
        await self._workers.stop()
        await self._workers.start(grace=20.0)
        note(self._folder, "go", "on")
        assert await held.aget(PATIENCE) == 8

    async def _is(self, handle: Handle[Any], state: State) -> bool:
        return await handle.astate() is state

    async def _all_ended(self, but: set[str]) -> None:
        for id in self._expected:
            if id.partition(":")[2] not in but:
                handle = self._direct.handle(id)
                await await_until(handle.adone, PATIENCE)

    # What must be true at the end

    async def _check(self) -> list[str]:
        problems = []
        for id, state in self._expected.items():
            found = await self._direct.handle(id).astate()
            if found is not state:
                problems.append(f"{id} is {found}, and should be {state}")
        return problems + await asyncio.to_thread(self._check_keys) + self._check_effects()

    def _check_effects(self) -> list[str]:
        lines = Counter(noted(self._folder))
        problems = []
        for id, state in self._expected.items():
            key = id.partition(":")[2]
            if state is State.SUCCEEDED and not lines[f"end {key}"]:
                problems.append(f"{id} succeeded, and its code never ran to its end")
            if state is State.FAILED and not lines[f"start {key}"]:
                problems.append(f"{id} failed, and its code never ran")
            if key in ("queued", "scheduled") and lines[f"start {key}"]:
                problems.append(f"{id} was cancelled before it started, and ran")
        return problems

    def _check_keys(self) -> list[str]:
        problems = []
        base = keys.base(self._namespace, "default")
        with self._server.client() as raw:
            for priority in ("high", "default", "low"):
                stream = keys.stream(base, priority)
                if raw.xlen(stream):
                    problems.append(f"{raw.xlen(stream)} entries left in {priority}: {raw.xrange(stream)}")
                if raw.exists(stream) and _pending(raw, stream):
                    problems.append(f"entries pending in {priority}")
            if raw.zcard(keys.parked(base)):
                problems.append("tasks are still parked")
            leaks = find_leaks(raw, self._namespace, keys.PERMANENT)
            if leaks:
                problems.append(f"keys without TTL and without owner: {leaks}")
            problems += self._check_counters(raw, base)
        return problems

    def _check_counters(self, raw: redis.Redis, base: str) -> list[str]:
        """They are counted by the scripts that end tasks: each ended exactly once."""
        ended: Counter[str] = Counter()
        counters: Any = raw.hgetall(keys.counters(base))
        for field, n in counters.items():
            ended[field.decode().partition("|")[0]] += int(n)
        wanted = Counter(str(state) for state in self._expected.values())
        wanted["failed"] += 1  # the one that was then sent again
        found = {outcome: ended[outcome] for outcome in wanted}
        problems = [] if found == dict(wanted) else [f"ended {found}, and should have {dict(wanted)}"]
        if ended["retried"] != 1:
            problems.append(f"one attempt failed and was to be retried, and {ended['retried']} were")
        if ended["expired"] or ended["trimmed"]:
            problems.append(f"never asked for: {dict(ended)}")
        return problems

    async def _where(self) -> str:
        """States that are not as they should be, for the report of a run that did not end."""
        found = []
        for id, state in self._expected.items():
            with suppress(Exception):
                info = await self._direct.handle(id).ainfo()
                if info.state is not state:
                    found.append(f"{id}={info.state} deliveries={info.deliveries}")
        return f" [{', '.join(found)}; lease {LEASE} s; notes in {self._folder}]"

    def _tidy(self, keep: bool) -> None:
        self._proxy.close()
        with self._server.client() as raw:
            for key in raw.scan_iter(match=f"{{{self._namespace}*", count=1000):
                raw.unlink(key)
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)


def _pending(raw: redis.Redis, stream: str) -> int:
    found: Any = raw.xpending(stream, keys.GROUP)
    return int(found["pending"])
