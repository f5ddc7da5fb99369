"""`App`: the composition root. It knows every part; no part knows it.

What only a worker needs is imported when one is asked for: a producer's start is a third shorter without it.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from penstock.errors import ConfigurationError, SyncInAsync
from penstock.events import Observer, Observers
from penstock.settings import Settings, check_name, load_settings
from penstock.streams import keys, produce
from penstock.streams.calls import Call
from penstock.streams.clients import Clients
from penstock.streams.connector import Connector
from penstock.streams.listener import Listener
from penstock.streams.urls import resolve_url
from penstock.tasks.codec import UntypedCodec
from penstock.tasks.deadletters import DeadLetters, redrive_all
from penstock.tasks.handle import Handle, in_loop
from penstock.tasks.hooks import DecHook, EncHook
from penstock.tasks.middleware import Middleware
from penstock.tasks.options import CallOptions, TaskOptions
from penstock.tasks.producer import Outgoing, Producer
from penstock.tasks.results import Results, split_id
from penstock.tasks.task import Signature
from penstock.tasks.taskset import TaskSet, check_task_name

if TYPE_CHECKING:
    from penstock.consumers.inside import Running
    from penstock.consumers.lifeline import Lifeline
    from penstock.consumers.worker import Worker, WorkerOptions

#: What the tasks of a bulk return.
R = TypeVar("R")


class App(TaskSet):
    """Tasks, and the server that carries them. Making one connects to nothing.

    Args:
        name: for logs and errors; the keys depend on the `namespace` setting only.
        url: ``redis://``, ``rediss://``, ``unix://``, ``redis+sentinel://``, ``redis+cluster://`` or
            ``embedded://DIR``. Default: PENSTOCK_URL, REDIS_URL, REDIS_HOST.., then localhost.
        imports: modules with tasks, imported by `load` (which a worker calls).
        defaults: options of all tasks, where a decorator does not say otherwise.
        enc_hook: turns a value of a type that msgspec does not know into one that it does;
            raises NotImplementedError for others.
        dec_hook: ``(type, value)``: the way back.
        settings: any field of `penstock.settings.Settings`, as ``lease=5``; each can also come from
            ``PENSTOCK_<NAME>``.

    Raises:
        ConfigurationError: an unknown or senseless setting, or a URL that cannot be read.
    """

    def __init__(
        self,
        name: str = "penstock",
        *,
        url: str | None = None,
        imports: Iterable[str] = (),
        defaults: TaskOptions | None = None,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(defaults=defaults, enc_hook=enc_hook, dec_hook=dec_hook)
        self.name = check_name("an app's name", name)
        self.settings: Settings = load_settings(settings)
        self._imports = [imports] if isinstance(imports, str) else list(imports)
        self._observers = Observers()
        self._connector = Connector(resolve_url(url), self.settings)
        self._clients = Clients(self._connector)
        self._listener = Listener(self._connector, self.settings.namespace)
        self._results = Results(self._clients, self._listener, self.settings)
        self._producer = Producer(self._clients, self.settings, self._observers)
        self._sender.connect(self._producer, self._results, self.settings.sync_in_loop)

    def __repr__(self) -> str:
        return f"<App {self.name} at {self._connector.display}>"

    @property
    def connector(self) -> Connector:
        """Makes the Redis clients of this app."""
        return self._connector

    # Registering

    def include(self, *tasksets: TaskSet) -> None:
        """Take over the tasks of other `TaskSet` objects. Raises `InvalidTask` if a name is taken."""
        for taskset in tasksets:
            if isinstance(taskset, App) or taskset._sender.is_connected:
                raise ConfigurationError(f"{taskset!r} belongs to an app already; include a TaskSet that does not")
            for task in taskset.tasks.values():
                task.config = task.config.over(self._defaults)
                self._add(task)
            taskset._sender.connect(self._producer, self._results, self.settings.sync_in_loop)

    def autodiscover(self, *packages: str, module: str = "tasks") -> list[str]:
        """Import ``<package>.tasks`` wherever there is one, in these packages and below; what was imported.

        Without packages: the one in whose module this app was made.
        """
        found = []
        for package in packages or (self._home(),):
            root = importlib.import_module(package)
            for info in pkgutil.walk_packages(getattr(root, "__path__", ()), f"{package}."):
                if info.name.rpartition(".")[2] == module:
                    importlib.import_module(info.name)
                    found.append(info.name)
        return found

    def load(self) -> None:
        """Import the modules given as `imports`, and (before a fork, or a first request) what the first call would."""
        self._clients.load()
        for module in self._imports:
            importlib.import_module(module)

    def _home(self) -> str:
        for module, value in list(sys.modules.items()):
            if any(v is self for v in list(vars(value).values())):
                return module.rpartition(".")[0] or module
        raise ConfigurationError("autodiscover: name the packages to look in")

    # Sending and asking

    def send(self, name: str, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Send a task by its name, for a producer that has not got its code. The worker checks the arguments.

        Options: ``app.task_named("mail.send", queue="mail").delay(42)``.
        """
        return self.task_named(name).delay(*args, **kwargs)

    async def asend(self, name: str, *args: Any, **kwargs: Any) -> Handle[Any]:
        """As `send`."""
        return await self.task_named(name).adelay(*args, **kwargs)

    def task_named(self, name: str, **options: Any) -> RemoteTask:
        """A task of which only the name is known, with `CallOptions`; it has `delay` and `adelay`."""
        return RemoteTask(self, check_task_name(name), CallOptions.from_keywords(options))

    def bulk(self, signatures: Iterable[Signature[R]]) -> list[Handle[R]]:
        """Send calls of any tasks in few round trips. Raises as `Task.delay`; see `SendError.sent`."""
        decoders: dict[str, Any] = {}
        sent = self._sender.sync_producer().send_all(_prepared(signatures, decoders))
        return [self._sender.handle(id, decoders[id], created) for id, created in sent]

    async def abulk(self, signatures: Iterable[Signature[R]]) -> list[Handle[R]]:
        """As `bulk`."""
        decoders: dict[str, Any] = {}
        sent = await self._producer.asend_all(_prepared(signatures, decoders))
        return [self._sender.handle(id, decoders[id], created) for id, created in sent]

    def handle(self, id: str) -> Handle[Any]:
        """A handle from a public id, ``queue:key``, in any process. Its result comes as plain data."""
        split_id(id)
        return self._sender.handle(id, UntypedCodec("?"), None)

    def queues(self) -> list[str]:
        """Names of all queues of this namespace."""
        return self._clients.sync.run(produce.queue_names(self.settings.namespace), self.settings.retry_for)

    def dead_letters(self, queue: str = "default") -> DeadLetters:
        """The failed tasks of a queue: ``.list()`` and ``.redrive()``."""
        return DeadLetters(self._clients, self.settings, check_name("queue", queue))

    def redrive(self, *ids: str) -> int:
        """Send these dead letters again; their number. See `DeadLetters.redrive`."""
        return redrive_all(self._clients, self.settings, ids)

    def pause(self, queue: str) -> bool:
        """Start nothing more of `queue`, in no worker, until `resume`; False if it was paused already.

        What runs goes on. Tasks can be sent, scheduled and cancelled; they wait.
        """
        return self._clients.sync.run(self._pause(queue, True), self.settings.retry_for)

    def resume(self, queue: str) -> bool:
        """End a pause; workers go on at once. False if the queue was not paused."""
        return self._clients.sync.run(self._pause(queue, False), self.settings.retry_for)

    async def apause(self, queue: str) -> bool:
        """As `pause`."""
        return await self._clients.of_loop.run(self._pause(queue, True), self.settings.retry_for)

    async def aresume(self, queue: str) -> bool:
        """As `resume`."""
        return await self._clients.of_loop.run(self._pause(queue, False), self.settings.retry_for)

    def _pause(self, queue: str, paused: bool) -> Call[bool]:
        return produce.pause(keys.base(self.settings.namespace, check_name("queue", queue)), paused)

    # Running

    def observe(self, observer: Observer) -> Observer:
        """Have `observer` called with each event (see `penstock.events`); usable as a decorator."""
        return self._observers.add(observer)

    def use(self, middleware: Middleware) -> None:
        """Have `middleware` take part in each send and attempt. Call it where the app is made, for all processes."""
        self._producer.middlewares.add(middleware)

    def worker(
        self,
        options: WorkerOptions | None = None,
        *,
        lifeline: Lifeline | None = None,
        initializer: tuple[str, str] | None = None,
        **settings: Any,
    ) -> Worker:
        """A worker for this app's tasks; `settings` replace the app's. For command lines and tests."""
        from penstock.consumers.worker import Worker, WorkerOptions

        self.load()
        changed = self._changed(settings)
        return Worker(
            Connector(self._connector.address, changed) if settings else self._connector,  # it has timeouts of its own
            changed,
            self._tasks,
            options or WorkerOptions(),
            self._observers,
            lifeline,
            initializer,
        )

    def running(self, queues: Sequence[str] = (), **settings: Any) -> Running:
        """A worker inside this process: ``async with app.running(concurrency=10): ...``, or ``with``.

        Args:
            queues: default: those of the registered tasks.
            settings: replace the app's, as ``concurrency``, ``threads``, ``lease``, ``grace``.
        """
        from penstock.consumers.inside import Running

        options = _options(queues)
        return Running(lambda: self.worker(options, **settings))

    def drain(self, queues: Sequence[str] = (), *, timeout: float | None = None, **settings: Any) -> None:
        """Run a worker in this process until nothing is left: nothing ready, running or parked.

        Raises TimeoutError after `timeout` seconds (None: no limit; a task parked for tomorrow is
        waited for). Inside an event loop use `adrain`.
        """
        if in_loop():
            raise SyncInAsync("drain() would block the running event loop; use `await app.adrain()`")
        from penstock.consumers.inside import drained

        options = _options(queues, burst="all")
        drained(lambda: self.worker(options, **settings), timeout)

    async def adrain(self, queues: Sequence[str] = (), *, timeout: float | None = None, **settings: Any) -> None:
        """As `drain`."""
        from penstock.consumers.inside import adrained

        options = _options(queues, burst="all")
        await adrained(lambda: self.worker(options, **settings), timeout)

    # Closing

    def close(self) -> None:
        """Close the sync connections. The app can still be used: it connects again."""
        self._listener.close()
        self._clients.close()

    async def aclose(self) -> None:
        """Close the connections of this event loop, and the sync ones."""
        await self._producer.aclose()
        self._listener.close()
        await self._clients.aclose()

    def __enter__(self) -> Self:
        self._clients.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._clients.load()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _changed(self, changes: dict[str, Any]) -> Settings:
        return load_settings({**_as_dict(self.settings), **changes}, {}) if changes else self.settings


class RemoteTask:
    """A task known by name only. Arguments are sent as they are given; results come as plain data."""

    def __init__(self, app: App, name: str, call: CallOptions) -> None:
        self._app = app
        self._call = call
        self._codec = UntypedCodec(name, enc_hook=app._enc_hook)
        self.name = name

    def options(self, **options: Any) -> RemoteTask:
        """With other options; see `CallOptions`."""
        return RemoteTask(self._app, self.name, self._call.merge(options))

    def delay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Send a call; see `Task.delay`."""
        sender = self._app._sender
        producer = sender.sync_producer()
        outgoing = self._prepare(args, kwargs)
        return sender.handle(outgoing.id, self._codec, producer.send(outgoing))

    async def adelay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """As `delay`."""
        sender = self._app._sender
        outgoing = self._prepare(args, kwargs)
        return sender.handle(outgoing.id, self._codec, await sender.producer.asend(outgoing))

    def _prepare(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Outgoing:
        raw = self._codec.encode_args(args, kwargs)
        return self._app._sender.producer.prepare(self.name, raw, self._app._defaults, self._call)


def _prepared(signatures: Iterable[Signature[Any]], decoders: dict[str, Any]) -> Iterable[Outgoing]:
    for signature in signatures:
        outgoing = signature.prepare()
        decoders[outgoing.id] = signature.task.codec
        yield outgoing


def _options(queues: Sequence[str], burst: Literal["", "all"] = "") -> WorkerOptions:
    from penstock.consumers.worker import WorkerOptions

    names = [queues] if isinstance(queues, str) else queues
    return WorkerOptions(queues=tuple(check_name("queue", name) for name in names), burst=burst)


def _as_dict(settings: Settings) -> dict[str, Any]:
    return {name: getattr(settings, name) for name in settings.__struct_fields__}
