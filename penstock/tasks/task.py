"""`Task`: a registered function, and the ways to send it; `Signature`: a call that is not sent yet."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeAlias, TypeVar, Unpack, cast, overload

from penstock.errors import ConfigurationError, InvalidTask
from penstock.tasks.codec import Codec
from penstock.tasks.handle import Handle
from penstock.tasks.middleware import Middlewares
from penstock.tasks.options import CallOptions, CallOptionsDict, TaskOptions, check_id
from penstock.tasks.producer import Outgoing
from penstock.tasks.sender import Sender

P = ParamSpec("P")
#: What a plain call returns: a coroutine, for an async task.
C_co = TypeVar("C_co", covariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Task(Generic[P, C_co]):
    """A function that can be sent. Calling it runs it right here, as without the decorator.

    Attributes:
        name: how messages call it.
        fn: the function itself.
        config: its options, the app's defaults included.
        kind: where it runs: ``"async"``, ``"thread"`` or ``"process"``.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        config: TaskOptions,
        codec: Codec,
        sender: Sender,
        call: CallOptions | None = None,
    ) -> None:
        self.fn = fn
        self.name = name
        self.config = config
        self.codec = codec
        self.kind = _kind(fn, name, config)
        self.module: str = fn.__module__
        self.qualname: str = fn.__qualname__
        self.__doc__ = fn.__doc__
        self.__name__ = getattr(fn, "__name__", name)
        self.__wrapped__ = fn
        self._sender = sender
        self._call = call

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> C_co:
        return cast(C_co, self.fn(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    @property
    def middlewares(self) -> Middlewares:
        """Those of the app that it belongs to."""
        return self._sender.middlewares

    @overload
    def delay(self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    @overload
    def delay(self: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    def delay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """Send a call and return its `Handle`: one round trip on a sync connection.

        Raises:
            InvalidArguments: they do not fit; the message names the parameter.
            SendError: too large, the queue is full, or the id is another task's.
            BrokerError: the server refuses, or did not come back within ``retry_for`` seconds.
        """
        producer = self._sender.sync_producer()
        outgoing = producer.prepare(self.name, self.codec.encode_args(args, kwargs), self.config, self._call)
        return self._sender.handle(outgoing.id, self.codec, producer.send(outgoing))

    @overload
    async def adelay(self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    @overload
    async def adelay(self: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Handle[R]: ...
    async def adelay(self, *args: Any, **kwargs: Any) -> Handle[Any]:
        """As `delay`, without blocking the event loop. Calls at the same time share a round trip."""
        producer = self._sender.producer
        outgoing = producer.prepare(self.name, self.codec.encode_args(args, kwargs), self.config, self._call)
        return self._sender.handle(outgoing.id, self.codec, await producer.asend(outgoing))

    def options(self, **options: Unpack[CallOptionsDict]) -> Task[P, C_co]:
        """This task with options for its next calls: ``t.options(delay=5, priority="low").delay(42)``.

        See `CallOptions`. Raises `ConfigurationError` for an unknown or senseless option.
        """
        call = CallOptions.from_keywords(options) if self._call is None else self._call.merge(options)
        return Task(self.fn, self.name, self.config, self.codec, self._sender, call)

    @overload
    def apply_async(
        self: Task[P, Coroutine[Any, Any, R]],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptionsDict],
    ) -> Handle[R]: ...
    @overload
    def apply_async(
        self: Task[P, R],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptionsDict],
    ) -> Handle[R]: ...
    def apply_async(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Handle[Any]:
        """Celery's spelling of ``options(...).delay(...)``; the arguments are checked when it runs."""
        return self.options(**options).delay(*args, **(kwargs or {}))

    @overload
    def s(self: Task[P, Coroutine[Any, Any, R]], *args: P.args, **kwargs: P.kwargs) -> Signature[R]: ...
    @overload
    def s(self: Task[P, R], *args: P.args, **kwargs: P.kwargs) -> Signature[R]: ...
    def s(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """A call to be sent later, with others in ``app.bulk``. Its arguments are checked now."""
        return Signature(self, self.codec.encode_args(args, kwargs), self._call)

    @overload
    def bulk(self: Task[P, Coroutine[Any, Any, R]], calls: Iterable[Sequence[Any]]) -> list[Handle[R]]: ...
    @overload
    def bulk(self: Task[P, R], calls: Iterable[Sequence[Any]]) -> list[Handle[R]]: ...
    def bulk(self, calls: Iterable[Sequence[Any]]) -> list[Handle[Any]]:
        """Send one call for each tuple of positional arguments, some hundred in each round trip.

        Raises as `delay`; what was enqueued before is in the error's `sent`.
        """
        sent = self._sender.sync_producer().send_all(self._prepare_all(calls))
        return [self._sender.handle(id, self.codec, created) for id, created in sent]

    @overload
    async def abulk(self: Task[P, Coroutine[Any, Any, R]], calls: Iterable[Sequence[Any]]) -> list[Handle[R]]: ...
    @overload
    async def abulk(self: Task[P, R], calls: Iterable[Sequence[Any]]) -> list[Handle[R]]: ...
    async def abulk(self, calls: Iterable[Sequence[Any]]) -> list[Handle[Any]]:
        """As `bulk`."""
        sent = await self._sender.producer.asend_all(self._prepare_all(calls))
        return [self._sender.handle(id, self.codec, created) for id, created in sent]

    @overload
    def handle(self: Task[P, Coroutine[Any, Any, R]], key: str) -> Handle[R]: ...
    @overload
    def handle(self: Task[P, R], key: str) -> Handle[R]: ...
    def handle(self, key: str) -> Handle[Any]:
        """A handle of a call of this task from the ``id`` it was sent with, in any process."""
        queue = (self._call.queue if self._call is not None else None) or self.config.queue
        return self._sender.handle(f"{queue}:{check_id('id', key)}", self.codec, None)

    def _prepare_all(self, calls: Iterable[Sequence[Any]]) -> Iterable[Outgoing]:
        prepare, encode = self._sender.producer.prepare, self.codec.encode_args
        if self._call is not None and self._call.id is not None:
            raise ConfigurationError("bulk: all calls would have the same id; give each its own with s()")
        for args in calls:
            if isinstance(args, str | bytes) or not isinstance(args, Sequence):
                raise ConfigurationError(f"bulk: each call is a tuple of its positional arguments, not {args!r}")
            yield prepare(self.name, encode(tuple(args), {}), self.config, self._call)


class Signature(Generic[R_co]):
    """A call with its checked arguments and options, not sent yet; as data, it can be sent more than once."""

    __slots__ = ("args", "call", "task")

    def __init__(self, task: AnyTask, args: bytes, call: CallOptions | None) -> None:
        self.task = task
        self.args = args
        self.call = call

    def options(self, **options: Unpack[CallOptionsDict]) -> Signature[R_co]:
        """This call with other options; see `CallOptions`."""
        call = CallOptions.from_keywords(options) if self.call is None else self.call.merge(options)
        return Signature(self.task, self.args, call)

    def delay(self) -> Handle[R_co]:
        """Send it."""
        sender = self.task._sender
        producer = sender.sync_producer()
        outgoing = self.prepare()
        return sender.handle(outgoing.id, self.task.codec, producer.send(outgoing))

    async def adelay(self) -> Handle[R_co]:
        """Send it."""
        sender = self.task._sender
        outgoing = self.prepare()
        return sender.handle(outgoing.id, self.task.codec, await sender.producer.asend(outgoing))

    def prepare(self) -> Outgoing:
        """Its envelope, ready to be enqueued."""
        return self.task._sender.producer.prepare(self.task.name, self.args, self.task.config, self.call)

    def __repr__(self) -> str:
        return f"<Signature {self.task.name}>"


AnyTask: TypeAlias = Task[..., Any]


def _kind(fn: Callable[..., Any], name: str, config: TaskOptions) -> str:
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise InvalidTask(f"{name} is a generator: a task returns its result, it cannot yield")
    is_async = inspect.iscoroutinefunction(fn)
    if config.run is None:
        return "async" if is_async else "thread"
    if config.run == "process" or (config.run == "async") is is_async:
        return config.run
    wanted = "async def" if config.run == "async" else "def"
    raise InvalidTask(f'{name}: run="{config.run}" needs a function made with `{wanted}`')


__all__ = ["AnyTask", "Signature", "Task"]
