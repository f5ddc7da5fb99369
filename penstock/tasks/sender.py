"""What a task needs in order to be sent: it stands between tasks and the app that they end up in."""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from penstock.errors import ConfigurationError, SyncInAsync
from penstock.settings import SyncInLoop
from penstock.tasks.handle import Handle
from penstock.tasks.middleware import Middlewares
from penstock.tasks.producer import Producer
from penstock.tasks.results import Results


class _Decodes(Protocol):
    def decode_result(self, raw: bytes | msgspec.Raw) -> Any:
        """A result from its bytes."""


class Sender:
    """Filled in by the app: a `TaskSet` of a library has one that is empty until it is included."""

    def __init__(self) -> None:
        self._producer: Producer | None = None
        #: Of the app; empty until there is one.
        self.middlewares = Middlewares()
        self._results: Results | None = None
        self._sync_in_loop: SyncInLoop = "warn"
        self._warned = False

    @property
    def is_connected(self) -> bool:
        return self._producer is not None

    def connect(self, producer: Producer, results: Results, sync_in_loop: SyncInLoop) -> None:
        """Called by the app that the tasks belong to."""
        self._producer = producer
        self.middlewares = producer.middlewares
        self._results = results
        # A notebook's cells run inside a loop that has nothing else to do.
        self._sync_in_loop = "allow" if sync_in_loop == "warn" and _is_ipython() else sync_in_loop

    @property
    def producer(self) -> Producer:
        """Raises `ConfigurationError` while no app has included these tasks."""
        if self._producer is None:
            raise ConfigurationError("this task belongs to a TaskSet that no app has included: app.include(tasks)")
        return self._producer

    def sync_producer(self) -> Producer:
        """The producer, for a call that blocks; warns (once) or raises inside a running event loop."""
        if self._sync_in_loop != "allow" and asyncio._get_running_loop() is not None:
            self._called_in_loop()
        return self.producer

    def handle(self, id: str, codec: _Decodes, created: bool | None) -> Handle[Any]:
        """A handle for a task of this app."""
        if self._results is None:
            return self.producer  # type: ignore[return-value]  # raises
        decode: Callable[[bytes], Any] = codec.decode_result
        return Handle(id, self._results, decode, self._sync_in_loop, created)

    def _called_in_loop(self) -> None:
        text = "delay() blocks the running event loop for a round trip; use `await task.adelay(...)`"
        if self._sync_in_loop == "error":
            raise SyncInAsync(text)
        if not self._warned:
            self._warned = True
            warnings.warn(f"{text} (App(sync_in_loop=...) changes this)", RuntimeWarning, stacklevel=4)


def _is_ipython() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return shell is not None and shell() is not None
