"""Wakes those who wait for results: one pub/sub connection and one thread per process.

Push, not polling: who waits leaves word in the task's record (``read.lua``), and the script that
ends the task publishes to the process that asked. A message can be lost with its connection, so
waiters look again after each (re)connect, and once a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from penstock.streams import keys
from penstock.streams.connector import Connector
from penstock.streams.tokens import token

Wake = Callable[[bytes], object]
#: How long a waiter trusts that it will be told, in seconds.
LOOK_AGAIN = 1.0
#: Seconds of silence after which the subscription is made anew. What lies between (a NAT, a firewall) may have
#: forgotten its connection without a FIN; each result would then be found by looking again only, for hours.
QUIET = 30.0
#: The thread ends after so many seconds without anybody waiting.
LINGER = 30.0


class Listener:
    """Threads and event loops wait here for a task's end. Safe after fork: a child starts its own."""

    def __init__(self, connector: Connector, namespace: str) -> None:
        self._connector = connector
        self._namespace = namespace
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._waiting: dict[str, set[Wake]] = defaultdict(set)
        self._thread: threading.Thread | None = None
        #: Ends the thread that runs now; the next one has its own.
        self._closing = threading.Event()
        #: Short: up to seven of them fit into a record's field.
        self.name = token(6)

    @property
    def is_up(self) -> bool:
        """True while its thread runs: then to wait costs nothing more."""
        return self._thread is not None and self._pid == os.getpid()

    @contextmanager
    def waiting(self, id: str, wake: Wake) -> Iterator[None]:
        """Call `wake` (from another thread) each time it is worth looking at task `id` again, with what was told of its
        end (see `told_record`) or nothing."""
        if self._pid != os.getpid():
            self._reset()
        with self._lock:
            self._waiting[id].add(wake)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._closing,), name="penstock-results", daemon=True
                )
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                wakes = self._waiting.get(id)
                if wakes is not None:
                    wakes.discard(wake)
                    if not wakes:
                        del self._waiting[id]

    def close(self) -> None:
        """Stop the thread; nobody may be waiting any more. The next to wait starts another one."""
        if self._pid != os.getpid():
            return
        with self._lock:
            thread, self._thread = self._thread, None
            self._closing.set()
            self._closing = threading.Event()
        if thread is not None:
            thread.join(timeout=2.0)

    def _run(self, closing: threading.Event) -> None:
        from penstock.streams.client import FAULTS, pauses

        tries = pauses()
        idle_since = heard_at = time.monotonic()
        client = self._connector.pubsub_client()
        with client.pubsub() as pubsub:
            while not closing.is_set():
                message = None
                try:
                    if time.monotonic() - heard_at > QUIET:
                        pubsub.reset()
                    if not pubsub.subscribed:
                        heard_at = time.monotonic()
                        pubsub.subscribe(keys.listener_channel(self._namespace, self.name))
                    message = pubsub.get_message(timeout=0.25)
                except FAULTS:
                    with suppress(*FAULTS):
                        pubsub.reset()
                    closing.wait(next(tries))
                if message is not None:
                    tries, heard_at = pauses(), time.monotonic()
                    self._hear(message)
                if self._waiting:
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since > LINGER and self._end():
                    break
        with suppress(*FAULTS):
            client.close()

    def _end(self) -> bool:
        with self._lock:
            if self._waiting:
                return False
            if self._thread is threading.current_thread():
                self._thread = None
            return True

    def _hear(self, message: dict[str, object]) -> None:
        if message["type"] == "subscribe":
            self._wake_all()
        elif message["type"] == "message":
            data = message["data"]
            assert isinstance(data, bytes)
            id, _, told = data.partition(b"\n")
            with self._lock:
                wakes = list(self._waiting.get(id.decode(errors="replace"), ()))
            for wake in wakes:
                wake(told)

    def _wake_all(self) -> None:
        with self._lock:
            wakes = [wake for wakes in self._waiting.values() for wake in wakes]
        for wake in wakes:
            wake(b"")
