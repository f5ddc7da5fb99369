"""Runs worker processes: restarts those that die, replaces those that ask for it, passes signals on.

It never imports the user's code, so that nothing in there can take it down. It has one thread: Linux
ties a worker's life to the thread that started it (see `Lifeline.follow`).
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import msgspec

from penstock.consumers.notify import Notify
from penstock.consumers.wards import MARGIN, UNUSABLE, Backoff, Ward, describe_exit

log = logging.getLogger("penstock.supervisor")

#: Longest sleep (s): whatever was missed is seen this much later.
TICK = 1.0
#: Time (s) between two rounds after which this process itself was stopped (Ctrl-Z, a debugger), and the time that
#: workers then have to be heard of: a full pipe has kept their old beats and dropped the later ones.
STOOD_STILL, FRESH_BEAT = 5.0, 5.0
#: Deaths of the first worker, before it was ready, after which no more are tried.
FIRST_TRIES = 5
#: Seconds that the service manager grants beyond the time by which we kill what is left ourselves.
SPARE = 5.0
_STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Plan(msgspec.Struct, frozen=True):
    """What a supervisor keeps running."""

    #: Arguments of ``python -m penstock`` that make a worker.
    argv: tuple[str, ...]
    workers: int = 1
    #: Workers that end in order are not started again.
    burst: bool = False


class Supervisor:
    """Keeps `Plan.workers` worker processes running until it is told to stop."""

    def __init__(self, plan: Plan, notify: Notify | None = None) -> None:
        self._plan = plan
        self._notify = notify or Notify()
        self._wards: list[Ward] = []
        self._backoffs = [Backoff() for _ in range(plan.workers)]
        #: When to start the next worker in which place.
        self._due: list[tuple[float, int]] = []
        self._selector = selectors.DefaultSelector()
        self._signals: list[int] = []
        self._stops = 0
        self._heard_at = time.monotonic()
        self._ever_ready = False
        self._exit_code = 0

    def run(self) -> int:
        """Run until all workers have ended. The exit code: 0 if they did so in order; 2 if none can ever
        start (the worker itself has said why); else 1."""
        with self._listening():
            # One at first. What keeps it from starting keeps the others, too, and is said once.
            self._start(0)
            while self._wards or self._due:
                self._wait()
                self._obey()
                self._hear()
                self._reap()
                self._start_due()
                self._report()
        return self._exit_code

    # One round

    def _wait(self) -> None:
        """Sleep until a worker says something or ends, a signal comes, or something is due."""
        now = time.monotonic()
        moments = [self._notify.next_alive(), *(ward.next_check() for ward in self._wards)]
        moments += [at for at, _ in self._due]
        timeout = max(0.0, min([TICK, *(at - now for at in moments if at is not None)]))
        for key, _ in self._selector.select(timeout):
            if key.data is None:
                with suppress(OSError):
                    key.fileobj.recv(4096)  # type: ignore[union-attr]

    def _obey(self) -> None:
        while self._signals:
            name = signal.Signals(self._signals.pop(0)).name
            self._stops += 1
            self._due.clear()
            grace = max((ward.grace for ward in self._wards), default=0.0) if self._stops == 1 else 0.0
            if self._stops == 1:
                log.info("%s: stopping; what runs has %g s to finish", name, grace)
            else:
                log.info("%s again: handing back what has not finished", name)
            self._notify.stopping(grace + MARGIN + SPARE, self._state())
            for ward in self._wards:
                ward.stop(now=self._stops > 1)

    def _hear(self) -> None:
        now = time.monotonic()
        stood_still, self._heard_at = now - self._heard_at > STOOD_STILL, now
        for ward in list(self._wards):
            for line in ward.lines():
                self._heard(ward, line)
            if stood_still and ward.beat_by is not None:
                ward.beat_by = max(ward.beat_by, now + FRESH_BEAT)
            if ward.silent:
                self._forget_pipe(ward)  # its end would be readable for ever
            ward.check(now)

    def _heard(self, ward: Ward, line: str) -> None:
        word, _, rest = line.partition(" ")
        if word == "beat":
            ward.beat_by = float(rest) if rest else None
        elif word == "ready":
            ward.ready = True
            log.info("worker %d ready", ward.pid)
            if not self._ever_ready and not self._stops:
                log.info("supervisor %d keeps worker processes running: %d", os.getpid(), self._plan.workers)
                self._due += [(0.0, number) for number in range(1, self._plan.workers)]
                self._notify.ready(self._state())
            self._ever_ready = True
        elif word == "grace":
            ward.grace = float(rest)
        elif word == "replace" and not ward.draining and not self._stops:
            log.info("worker %d is replaced: %s", ward.pid, rest)
            ward.draining = True
            self._start(ward.number)

    def _reap(self) -> None:
        for ward in list(self._wards):
            code = ward.process.poll()
            if code is None:
                continue
            for line in ward.lines():  # its last words
                self._heard(ward, line)
            self._forget_pipe(ward)
            ward.pipe.close()
            self._wards.remove(ward)
            self._ended(ward, code)
        if os.getpid() == 1:
            _reap_strangers({ward.pid for ward in self._wards})

    def _start_due(self) -> None:
        now = time.monotonic()
        for at, number in [due for due in self._due if due[0] <= now]:
            self._due.remove((at, number))
            self._start(number)

    def _report(self) -> None:
        """Tell the service manager that the round has turned, and what it has seen."""
        self._notify.status(self._state())
        self._notify.alive()

    def _state(self) -> str:
        draining = sum(ward.draining for ward in self._wards)
        ready = sum(ward.ready and not ward.draining for ward in self._wards)
        if self._stops:
            return f"stopping; workers that have not ended: {len(self._wards)}"
        return f"workers ready: {ready} of {self._plan.workers}" + (f"; draining: {draining}" if draining else "")

    # What follows a worker's end

    def _ended(self, ward: Ward, code: int) -> None:
        if self._stops:
            # SIGTERM itself ends a worker that has not loaded its app yet.
            if ward.killed or code not in (0, -signal.SIGTERM):
                log.warning("worker %d %s", ward.pid, "was killed" if ward.killed else describe_exit(code))
                self._exit_code = 1
        elif ward.draining or (self._plan.burst and code == 0):
            log.log(logging.WARNING if code else logging.INFO, "worker %d %s", ward.pid, describe_exit(code))
        elif code == UNUSABLE and not self._ever_ready:
            self._exit_code = UNUSABLE  # it has said why
        else:
            self._restart(ward, code)

    def _restart(self, ward: Ward, code: int) -> None:
        backoff = self._backoffs[ward.number]
        pause = backoff.pause(time.monotonic() - ward.started)
        how = "was killed: it was stuck" if ward.killed else describe_exit(code)
        if not self._ever_ready and backoff.failures >= FIRST_TRIES:
            log.error("worker %d %s; no worker could start in %d tries", ward.pid, how, FIRST_TRIES)
            self._exit_code = 1
            return
        log.warning("worker %d %s; starting another in %.2f s", ward.pid, how, pause)
        self._due.append((time.monotonic() + pause, ward.number))

    def _start(self, number: int) -> None:
        try:
            ward = Ward.start(number, self._plan.argv)
        except OSError as error:  # no memory, or too many processes
            pause = self._backoffs[number].pause(0.0)
            log.error("no worker can be started: %s; another try in %.2f s", error, pause)
            self._due.append((time.monotonic() + pause, number))
            return
        self._selector.register(ward.pipe, selectors.EVENT_READ, ward)
        self._wards.append(ward)
        log.debug("worker %d started", ward.pid)

    def _forget_pipe(self, ward: Ward) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(ward.pipe)

    # Signals

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Have signals end the wait. Only the main thread can do this."""
        here, there = socket.socketpair()
        with here, there, self._selector:
            here.setblocking(False)
            there.setblocking(False)
            self._selector.register(here, selectors.EVENT_READ, None)
            handlers = {each: signal.getsignal(each) for each in (*_STOPPING, signal.SIGCHLD)}
            wakeup = signal.set_wakeup_fd(there.fileno(), warn_on_full_buffer=False)
            try:
                for each in _STOPPING:
                    # nohup: a hang-up that is ignored stays ignored.
                    if handlers[each] is not signal.SIG_IGN or each is not signal.SIGHUP:
                        signal.signal(each, self._on_signal)
                # Without a handler nothing is written to the wakeup fd.
                signal.signal(signal.SIGCHLD, lambda *_: None)
                yield
            finally:
                signal.set_wakeup_fd(wakeup)
                for each, handler in handlers.items():
                    signal.signal(each, handler)

    def _on_signal(self, number: int, _: FrameType | None) -> None:
        self._signals.append(number)


def run(argv: Sequence[str], workers: int = 1, *, burst: bool = False) -> int:
    """Run worker processes, each ``python -m penstock`` with `argv`, until they have ended; the exit code."""
    return Supervisor(Plan(tuple(argv), workers, burst), Notify.from_environment()).run()


def _reap_strangers(own: set[int]) -> None:
    """As process 1 of a container: collect what others have left behind, but leave our workers to `poll`."""
    if not hasattr(os, "waitid"):
        return
    with suppress(ChildProcessError):
        while True:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if found is None or found.si_pid in own:
                return
            os.waitpid(found.si_pid, os.WNOHANG)
