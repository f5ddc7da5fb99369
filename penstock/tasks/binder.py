"""Binds a call's arguments to parameter names, by code generated once for each task.

``inspect.Signature.bind`` takes 2-3 µs a call. A generated function with the task's own parameter
list takes a tenth of that: CPython itself does the binding, and words the errors.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec

from penstock.errors import InvalidArguments, InvalidTask

if sys.version_info >= (3, 14):  # from there on, reading annotations evaluates them unless told otherwise
    from annotationlib import Format

    _LAZILY: dict[str, Any] = {"annotation_format": Format.FORWARDREF}
else:
    _LAZILY: dict[str, Any] = {}

_VAR_POSITIONAL = inspect.Parameter.VAR_POSITIONAL
_VAR_KEYWORD = inspect.Parameter.VAR_KEYWORD
_KEYWORD_ONLY = inspect.Parameter.KEYWORD_ONLY
_POSITIONAL_ONLY = inspect.Parameter.POSITIONAL_ONLY
_VARIADIC = (_VAR_POSITIONAL, _VAR_KEYWORD)


class Binder:
    """The parameters of one function, and both directions between a call and its fields.

    Args:
        function: anything that has a signature.
        name: how errors call it; default: its qualified name, as Python's own errors do.
        skip_first: leave out the first parameter (the `Context` of a ``bind=True`` task).

    Attributes:
        parameters: what a caller may give, in order.
        fields: for each parameter its attribute in the struct that `unbind` takes (``p0``, …);
            a parameter may have a name that a struct field may not.
        bind_call: as `bind`, but raises Python's own TypeError.
        unbind: ``(args, kwargs)`` to call the function with, from such a struct; fields that are
            ``msgspec.UNSET`` become the function's defaults. TypeError if names clash.

    Raises:
        InvalidTask: it has no signature, or no first parameter to leave out.
    """

    __slots__ = ("bind_call", "fields", "name", "parameters", "return_annotation", "unbind")

    def __init__(self, function: Callable[..., Any], *, name: str | None = None, skip_first: bool = False) -> None:
        self.name = name or short_name(function)
        try:
            signature = inspect.signature(function, **_LAZILY)
        except (TypeError, ValueError) as error:
            raise InvalidTask(f"{self.name}: cannot read its signature: {error}") from error
        parameters = list(signature.parameters.values())
        if skip_first:
            _drop_first(self.name, parameters)
        self.parameters: Sequence[inspect.Parameter] = tuple(parameters)
        self.return_annotation: Any = signature.return_annotation
        self.fields: Mapping[str, str] = {p.name: f"p{i}" for i, p in enumerate(parameters)}
        self.bind_call: Callable[..., dict[str, object]] = _generate_bind(self.name, self.parameters)
        self.unbind: Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]] = _generate_unbind(
            self.parameters, self.fields
        )

    def bind(self, *args: Any, **kwargs: Any) -> dict[str, object]:
        """The arguments that were given, by parameter name; defaults stay out.

        ``*args`` is a tuple and ``**kwargs`` a dict under the parameter's own name, if not empty.
        Raises `InvalidArguments` for missing, unexpected or repeated ones.
        """
        try:
            return self.bind_call(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(str(error)) from None


def short_name(function: Callable[..., Any]) -> str:
    """The name of `function` as a reader knows it: ``Mailer.send``, without ``<locals>``."""
    inner = inspect.unwrap(function)
    qualname: str = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    return qualname.rpartition("<locals>.")[2]


def _drop_first(name: str, parameters: list[inspect.Parameter]) -> None:
    first = parameters[0] if parameters else None
    if first is None or first.kind in (_KEYWORD_ONLY, _VAR_KEYWORD):
        raise InvalidTask(f"{name}: bind=True passes the Context as first argument, but it takes no positional one")
    if first.kind is not _VAR_POSITIONAL:  # def task(*args): the Context is one of them
        del parameters[0]


def _generate_bind(name: str, parameters: Sequence[inspect.Parameter]) -> Callable[..., dict[str, object]]:
    names = [p.name for p in parameters]
    absent, given = _free("_absent", names), _free("_given", names)
    required = [p.name for p in parameters if p.default is p.empty and p.kind not in _VARIADIC]
    literal = "{" + ", ".join(f"{n!r}: {n}" for n in required) + "}"
    lines = [f"def bind({_parameter_list(parameters, absent)}):"]
    if len(required) == len(parameters):
        lines.append(f"    return {literal}")
    else:
        lines.append(f"    {given} = {literal}")
        for parameter in parameters:
            n = parameter.name
            if parameter.kind in _VARIADIC:
                lines.append(f"    if {n}: {given}[{n!r}] = {n}")
            elif n not in required:
                lines.append(f"    if {n} is not {absent}: {given}[{n!r}] = {n}")
        lines.append(f"    return {given}")
    bind = _execute(lines, "bind", {absent: object()})
    bind.__qualname__ = name  # CPython takes it for "f() missing 1 required positional argument"
    return bind


def _parameter_list(parameters: Sequence[inspect.Parameter], absent: str) -> str:
    parts: list[str] = []
    previous = None
    for parameter in parameters:
        kind = parameter.kind
        if previous is _POSITIONAL_ONLY and kind is not _POSITIONAL_ONLY:
            parts.append("/")
        if kind is _KEYWORD_ONLY and previous not in (_KEYWORD_ONLY, _VAR_POSITIONAL):
            parts.append("*")
        stars = "*" if kind is _VAR_POSITIONAL else "**" if kind is _VAR_KEYWORD else ""
        parts.append(stars + parameter.name + ("" if parameter.default is parameter.empty else f"={absent}"))
        previous = kind
    if previous is _POSITIONAL_ONLY:
        parts.append("/")
    return ", ".join(parts)


def _generate_unbind(
    parameters: Sequence[inspect.Parameter], fields: Mapping[str, str]
) -> Callable[[Any], tuple[tuple[Any, ...], dict[str, Any]]]:
    scope: dict[str, Any] = {"unset": msgspec.UNSET}
    positional, keyword = [], []
    lines = ["def unbind(a):"]
    for parameter in parameters:
        field, name = fields[parameter.name], parameter.name
        value = f"a.{field}"
        if parameter.default is not parameter.empty:
            scope[f"default_{field}"] = parameter.default
            value = f"default_{field} if (v := a.{field}) is unset else v"
        if parameter.kind is _VAR_POSITIONAL:
            positional.append(f"*{value}, ")
        elif parameter.kind is _KEYWORD_ONLY:
            keyword.append(f"{name!r}: {value}")
        elif parameter.kind is _VAR_KEYWORD:
            keyword.append(f"**{value}")
            scope["named"] = {p.name for p in parameters if p.kind not in (_POSITIONAL_ONLY, *_VARIADIC)}
            lines.append(f"    if not named.isdisjoint({value}): raise TypeError(")
            lines.append(f"        'got multiple values for argument %r' % min(named.intersection({value})))")
        else:
            positional.append(f"{value}, ")
    lines.append(f"    return ({''.join(positional)}), {{{', '.join(keyword)}}}")
    return _execute(lines, "unbind", scope)


def _free(name: str, taken: Sequence[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _execute(lines: list[str], name: str, scope: dict[str, Any]) -> Callable[..., Any]:
    exec("\n".join(lines), scope)  # only names that a function signature has accepted are in it
    return cast(Callable[..., Any], scope[name])
