"""Runs attempts in processes of their own: one child per slot, started when needed, then reused.

Each child has a keeper, a thread that starts it, waits for its end and reaps it. It must be that
very thread: Linux sends PR_SET_PDEATHSIG, by which a child dies with its worker, when the
*thread* that forked it ends. The keeper ends after its child, so this is the worker's death only;
a child started by a thread of some executor could be killed while it works.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable

import anyio

from penstock.consumers.child import Job, encode_job, frame, main
from penstock.consumers.outcome import Outcome, decode_outcome
from penstock.errors import ConfigurationError, HardTimeout, PenstockError

__all__ = ["ChildDied", "Job", "ProcessPool"]

log = logging.getLogger("penstock")

#: Seconds that a new child has to start and to import the task's module, and a warm one to begin.
START_TIMEOUT = 120.0
#: Seconds that idle children have to end by themselves when the pool is closed.
END_GRACE = 2.0
#: Seconds to wait for the end of a killed child: one in uninterruptible sleep takes its time.
REAP_TIMEOUT = 5.0
#: Seconds after a child's death in which its last frame may still be read from the socket.
LAST_WORDS = 0.2

_spawn = multiprocessing.get_context("spawn")


class ChildDied(PenstockError):
    """The process that ran the attempt died, and only this attempt with it.

    Attributes:
        exitcode: its exit code; minus the signal's number if one killed it; None: not known.
        began: whether the task's code had begun.
    """

    def __init__(self, message: str, exitcode: int | None = None, *, began: bool = True) -> None:
        super().__init__(message)
        self.exitcode = exitcode
        self.began = began


class ProcessPool:
    """Child processes that run attempts for one asyncio loop.

    The caller holds a slot for each attempt: no more than `size` run at the same time.

    Args:
        size: children; each is started when it is first needed.
        initializer: ``(module, qualified name)`` of a function without arguments, called once in
            each new child: to set up logging.
        start_timeout: seconds that a child has to start and to import the task's module. The time
            limit of the task itself begins after that.

    Raises:
        ConfigurationError: the script that makes it is just being imported by a child.
    """

    def __init__(
        self, size: int, *, initializer: tuple[str, str] | None = None, start_timeout: float = START_TIMEOUT
    ) -> None:
        self.size = size
        self.start_timeout = start_timeout
        self._initializer = initializer
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._closed = False
        # Set by multiprocessing while a new child imports the worker's main script.
        if getattr(multiprocessing.current_process(), "_inheriting", False):
            raise ConfigurationError(f"a child process imports this script and would start a worker: {_GUARD}")

    async def run(self, job: Job, *, timeout: float | None = None) -> Outcome:
        """How `job` ended, run in a child. `timeout` in seconds; None: no limit.

        When the awaiting task is cancelled the child is killed at once, reaped, and the
        cancellation goes on.

        Raises:
            HardTimeout: it was not done within `timeout`; the child is killed.
            ChildDied: the child died, or could not be started.
        """
        while True:
            child = await self._take()
            try:
                outcome = await self._attempt(child, job, timeout)
            except ChildDied as died:
                # One that died while it was idle, or was ended from outside, has not touched the job.
                if died.began or not child.served or self._closed:
                    raise
                continue
            child.served += 1
            self._give_back(child)
            return outcome

    async def close(self) -> None:
        """End idle children, kill the others, and wait until all are reaped."""
        self._closed = True
        children = list(self._children)
        for child in children:
            if child in self._idle:
                child.send(b"")
            else:
                child.kill()
        self._idle.clear()
        await _ended(children, END_GRACE)
        for child in children:
            child.kill()
        await _ended(children, REAP_TIMEOUT)
        for child in children:
            child.hang_up()
        await asyncio.sleep(0)  # transports close their sockets in the next round of the loop

    async def _take(self) -> _Child:
        while self._idle:
            child = self._idle.pop()
            if not child.exited.done():
                return child
        if self._closed:
            raise RuntimeError("the process pool is closed")
        child = await _Child.start(self._initializer)
        self._children.add(child)
        child.exited.add_done_callback(lambda _: self._forget(child))
        return child

    def _forget(self, child: _Child) -> None:
        self._children.discard(child)
        if child in self._idle:
            self._idle.remove(child)
            child.hang_up()

    def _give_back(self, child: _Child) -> None:
        if self._closed:
            child.kill()
        else:
            self._idle.append(child)

    async def _attempt(self, child: _Child, job: Job, timeout: float | None) -> Outcome:
        began = False
        try:
            child.send(encode_job(job))
            with anyio.fail_after(self.start_timeout):
                reply = await child.receive()
            if not reply:  # empty: the task's code begins
                began = True
                with anyio.fail_after(timeout):
                    reply = await child.receive()
            return decode_outcome(reply)
        except TimeoutError:
            await self._end(child)
            if not began:
                raise ChildDied(f"the child was not ready within {self.start_timeout:g} s", began=False) from None
            raise HardTimeout(f"not done within {timeout:g} s") from None
        except (EOFError, OSError):
            # Its end of the socket is closed: it is dead or as good as that.
            await self._end(child, END_GRACE)
            raise _died(child, began) from None
        except BaseException:
            await self._end(child)
            raise

    async def _end(self, child: _Child, grace: float = 0.0) -> None:
        """Kill `child`, if it does not end within `grace` seconds, and wait for its end."""
        try:
            if not (grace and await _ended([child], grace)):
                child.kill()
                if not await _ended([child], REAP_TIMEOUT):
                    log.warning("child process %s does not end after SIGKILL", child.pid)
        finally:
            child.hang_up()


class _Child:
    """One child process, seen from the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._process: multiprocessing.process.BaseProcess | None = None
        self._doomed = False
        self._silence: asyncio.TimerHandle | None = None
        self.pid: int | None = None
        #: Why it could not be started.
        self.error: Exception | None = None
        #: Its exit code, once it is reaped; None: not known.
        self.exited: asyncio.Future[int | None] = self._loop.create_future()
        #: Attempts that it has ended.
        self.served = 0

    @classmethod
    async def start(cls, initializer: tuple[str, str] | None) -> _Child:
        """A child that is being started; jobs may be sent at once."""
        ours, theirs = socket.socketpair()
        try:
            child = cls(*await asyncio.open_unix_connection(sock=ours))
        except BaseException:
            ours.close()
            theirs.close()
            raise
        _living.add(child)
        threading.Thread(target=child._keep, args=(theirs, initializer), name="penstock-keeper", daemon=True).start()
        return child

    def send(self, body: bytes) -> None:
        self._writer.write(frame(body))

    async def receive(self) -> bytes:
        size = int.from_bytes(await self._reader.readexactly(4), "big")
        return await self._reader.readexactly(size)

    def kill(self) -> None:
        """SIGKILL, now or as soon as it is started. Any thread."""
        with self._lock:
            self._doomed = True
            if self._process is not None:
                self._process.kill()

    def hang_up(self) -> None:
        """Close the socket, whatever is left to send."""
        if self._silence is not None:
            self._silence.cancel()
        self._writer.transport.abort()

    def _keep(self, theirs: socket.socket, initializer: tuple[str, str] | None) -> None:
        """The keeper: start the process, wait for its end, reap it."""
        code = None
        try:
            # Not a daemon in the sense of multiprocessing: such a one may not have children itself.
            process = _spawn.Process(target=main, args=(theirs, os.getpid(), initializer), name="penstock-child")
            with theirs:
                process.start()
            with self._lock:
                self._process, self.pid = process, process.pid
                if self._doomed:
                    process.kill()
            process.join()
            with self._lock:
                self._process = None
            code = _exitcode(process)
        except Exception as error:
            self.error = error
        _living.discard(self)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._on_exit, code)

    def _on_exit(self, code: int | None) -> None:
        # A process that the task has started may hold the child's end of the socket, so that its
        # end is not seen there. What the child itself had sent is read within this time.
        self._silence = self._loop.call_later(LAST_WORDS, self._reader.feed_eof)
        self.exited.set_result(code)


def _exitcode(process: multiprocessing.process.BaseProcess) -> int | None:
    """The exit code of a process that has ended."""
    for _ in range(100):
        if process.exitcode is not None:
            break
        # multiprocessing polls all its children at each start, in that thread: the code may have
        # been fetched there and not yet be stored. Or somebody calls waitpid(-1), and it is lost.
        time.sleep(0.001)
    return process.exitcode


async def _ended(children: Iterable[_Child], timeout: float) -> bool:
    """Wait for the end of `children`; False if `timeout` seconds are not enough.

    A cancellation is raised after that, not instead.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # anyio would cancel each of the awaits again
        while left := {child.exited for child in children if not child.exited.done()}:
            if (remaining := deadline - loop.time()) <= 0:
                break
            try:
                await asyncio.wait(left, timeout=remaining)
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled
    return not left


def _died(child: _Child, began: bool) -> ChildDied:
    code = child.exited.result() if child.exited.done() else None
    if child.error is not None:
        how = f"could not be started: {child.error}"
    elif code is None:
        how = "ended in an unknown way"
    elif code >= 0:
        how = f"ended with exit code {code}"
    else:
        how = f"was killed by signal {-code} ({_signal_name(-code)})"
    if code == -signal.SIGKILL:
        how += "; perhaps there was not enough memory"
    if not began and not child.served:
        how += f" before the task began; {_GUARD}" if code == 1 else " before the task began"
    return ChildDied(f"the child process {how}", code, began=began)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return "real-time"


_GUARD = "a script that starts a worker must do so below `if __name__ == '__main__':`"
#: Children of all pools that have not been reaped yet.
_living: set[_Child] = set()


# Runs before the handler of multiprocessing.util, which waits for all children: handlers run
# last-in first-out, and that module, imported above, has registered its own already.
@atexit.register
def _kill_all() -> None:
    for child in list(_living):
        child.kill()
