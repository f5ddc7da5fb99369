"""Annotations of a task's function, as types that msgspec can decode.

They are resolved when the task is registered if that is possible, else at first use: a forward
reference is only defined later, and a name imported under ``TYPE_CHECKING`` never.
"""

from __future__ import annotations

import collections.abc
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, get_args, get_origin

import msgspec

from penstock.errors import InvalidTask

#: What resolving raises if a name is not there *yet*; AttributeError: of a half-imported module.
UNRESOLVED = (NameError, AttributeError)

_AWAITABLES = (collections.abc.Coroutine, collections.abc.Awaitable)
_UNTYPED = (typing.NoReturn, typing.Never)


class Hints:
    """Resolves annotations in the namespace of one function; `name` is for errors."""

    __slots__ = ("_globals", "_locals", "_name")

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        inner = _innermost(function)
        self._name = name
        self._globals: dict[str, Any] = getattr(inner, "__globals__", {})
        self._locals: dict[str, Any] = {t.__name__: t for t in getattr(inner, "__type_params__", ())}
        code, cells = getattr(inner, "__code__", None), getattr(inner, "__closure__", None)
        if code is not None and cells:
            for variable, cell in zip(code.co_freevars, cells, strict=True):
                try:
                    self._locals[variable] = cell.cell_contents
                except ValueError:  # not assigned yet
                    continue

    def resolve(self, what: str, annotation: Any) -> Any:
        """The type that `annotation` stands for; one of `UNRESOLVED` if a name in it is not defined."""
        if annotation is inspect.Parameter.empty:
            return Any
        holder = types.SimpleNamespace(__annotations__={what: annotation})
        try:
            return typing.get_type_hints(holder, self._globals, self._locals, include_extras=True)[what]
        except UNRESOLVED:
            raise
        except Exception as error:
            raise InvalidTask(f"{self._name}(): {what}: bad annotation {annotation!r}: {error}") from error

    def parameter(self, parameter: inspect.Parameter) -> Any:
        """The type of a parameter's field: a list for ``*args``, a dict for ``**kwargs``."""
        kind = self.resolve(parameter.name, parameter.annotation)
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return get_args(kind)[0] if get_origin(kind) is typing.Unpack else types.GenericAlias(list, (kind,))
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            return get_args(kind)[0] if get_origin(kind) is typing.Unpack else types.GenericAlias(dict, (str, kind))
        return kind

    def result(self, annotation: Any) -> Any:
        """The type of the result: of what a coroutine returns, Any for ``NoReturn``."""
        kind = self.resolve("return", annotation)
        if get_origin(kind) in _AWAITABLES:
            kind = get_args(kind)[-1]
        return Any if kind in _UNTYPED else kind

    def unresolved(self, what: str, annotation: Any, error: BaseException) -> InvalidTask:
        """The error for an annotation that is still not resolved when it is needed."""
        text = annotation if isinstance(annotation, str) else repr(annotation)
        return InvalidTask(
            f"{self._name}(): {what}: annotation {text!r} cannot be resolved ({error}); "
            "define or import the name at the top of the module, not under TYPE_CHECKING or in a function"
        )

    def refused(self, kinds: Mapping[str, Any], error: Exception) -> InvalidTask:
        """The error for types that msgspec refused, naming the one to blame."""
        for what, kind in kinds.items():
            try:
                msgspec.msgpack.Decoder(kind)
            except UNRESOLVED as missing:
                return self.unresolved(what, kind, missing)
            except Exception as refusal:
                reason = str(refusal).partition(" - type ")[0].replace("`", "'")
                return InvalidTask(f"{self._name}(): {what}: cannot decode {kind}: {reason}. Fix: {_fix(reason)}")
        return InvalidTask(f"{self._name}(): {error}")


def _innermost(function: Any) -> Any:
    """The function whose module `function`'s annotations were written in."""
    while True:
        function = inspect.unwrap(function)
        if isinstance(function, functools.partial):
            function = function.func
        elif inspect.ismethod(function):
            function = function.__func__
        else:
            break
    if inspect.isfunction(function) or isinstance(function, type):
        return function
    return type(function).__call__  # an instance that can be called


def _fix(reason: str) -> str:
    if "str-like" in reason:
        return "annotate one of them: UUIDs, dates, enums and bytes all travel as text or bytes (str takes any text)"
    if "multiple Struct" in reason:
        return "give each msgspec.Struct a tag (class A(Struct, tag=True))"
    if "dict-like" in reason or "dataclass" in reason or "TypedDict" in reason:
        return "make them msgspec.Structs with a tag (class A(Struct, tag=True))"
    if "custom type" in reason:
        return "annotate this type alone or with None, and convert before the call"
    if "array-like" in reason:
        return "annotate one of them: lists, sets and tuples all travel as arrays"
    return "annotate a type that msgspec supports, or Any"
