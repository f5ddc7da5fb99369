"""Registering: the decorator, the names, and the tasks of an app or a library."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Concatenate, Literal, ParamSpec, TypeVar, Unpack, overload

from penstock.errors import InvalidTask
from penstock.tasks.codec import Codec
from penstock.tasks.context import Context
from penstock.tasks.hooks import DecHook, EncHook
from penstock.tasks.options import TaskOptions, TaskOptionsDict
from penstock.tasks.sender import Sender
from penstock.tasks.task import AnyTask, Task

P = ParamSpec("P")
C = TypeVar("C")


class TaskSet:
    """Tasks that an app includes later: for libraries, and against import cycles.

    Args:
        defaults: options of all its tasks, where a decorator does not say otherwise.
        enc_hook: turns a value of a type that msgspec does not know into one that it does;
            raises NotImplementedError for others.
        dec_hook: ``(type, value)``: the way back.
    """

    def __init__(
        self,
        *,
        defaults: TaskOptions | None = None,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
    ) -> None:
        self._defaults = defaults or TaskOptions()
        self._enc_hook = enc_hook
        self._dec_hook = dec_hook
        self._tasks: dict[str, AnyTask] = {}
        self._sender = Sender()

    @property
    def tasks(self) -> Mapping[str, AnyTask]:
        """The registered tasks by name."""
        return MappingProxyType(self._tasks)

    @overload
    def task(self, function: Callable[P, C], /) -> Task[P, C]: ...
    @overload
    def task(
        self, *, name: str | None = None, bind: Literal[True], **options: Unpack[TaskOptionsDict]
    ) -> Callable[[Callable[Concatenate[Context, P], C]], Task[P, C]]: ...
    @overload
    def task(
        self, *, name: str | None = None, bind: Literal[False] = False, **options: Unpack[TaskOptionsDict]
    ) -> Callable[[Callable[P, C]], Task[P, C]]: ...
    def task(
        self, function: Callable[..., Any] | None = None, *, name: str | None = None, bind: bool = False, **options: Any
    ) -> Any:
        """Register a function as a task: bare, ``@app.task``, or with options, ``@app.task(queue="mail")``.

        Args:
            name: default: ``module.qualname``.
            bind: the first parameter is the `Context`, which callers do not give.
            options: see `TaskOptions`.

        Raises:
            InvalidTask: the name is taken, or a parameter's type cannot be sent.
            ConfigurationError: an option is unknown or makes no sense.
        """
        if function is not None:
            return self._register(function, name, TaskOptions())
        config = TaskOptions.from_keywords({"bind": bind, **options})
        return lambda fn: self._register(fn, name, config)

    def _register(self, function: Callable[..., Any], name: str | None, config: TaskOptions) -> AnyTask:
        if not callable(function):
            raise InvalidTask(f"@task decorates a function, not {function!r}")
        name = check_task_name(name) if name is not None else default_name(function)
        codec = Codec(function, bind=config.bind, enc_hook=self._enc_hook, dec_hook=self._dec_hook)
        task: AnyTask = Task(function, name, config.over(self._defaults), codec, self._sender)
        self._add(task)
        return task

    def _add(self, task: AnyTask) -> None:
        other = self._tasks.get(task.name)
        if other is not None and other.fn is not task.fn:
            raise InvalidTask(f"the task name {task.name!r} is taken by {other.module}.{other.qualname}; give name=")
        self._tasks[task.name] = task


def check_task_name(name: object) -> str:
    """`name`, if a task may be called so: 1 to 200 printable characters, no spaces, ``|`` or leading ``!``."""
    if (
        not isinstance(name, str)
        or not 1 <= len(name) <= 200
        or not name.isprintable()
        or any(c.isspace() or c == "|" for c in name)
        or name.startswith("!")
    ):
        raise InvalidTask(f"a task name is 1 to 200 printable characters without spaces or '|', not {name!r}")
    return name


def default_name(function: Callable[..., Any]) -> str:
    """``module.qualname``, with ``__main__`` replaced by the name under which a worker can import it."""
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", None)
    if not module or not qualname:
        raise InvalidTask(f"{function!r} has no name of its own: give name=")
    if "<lambda>" in qualname:
        raise InvalidTask("a lambda has no name of its own: give name=")
    return check_task_name(f"{main_module_name() if module == '__main__' else module}.{qualname}")


def main_module_name() -> str:
    """The importable name of the running script."""
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:  # python -m package.module
        return str(spec.name).removesuffix(".__main__")
    path: str | None = getattr(main, "__file__", None)
    if path is None:
        raise InvalidTask("a task that is defined in a notebook or a shell has no importable name: give name=")
    return os.path.splitext(os.path.basename(path))[0]
