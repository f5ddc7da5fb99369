"""How types that msgspec does not know travel: the user's hooks first, then these.

msgspec encodes and decodes exact types only: a subclass of ``str`` (Django's SafeString), a
``datetime`` of pendulum or a ``UUID`` of asyncpg goes to ``enc_hook``. All of these travel as the
standard type that they extend, a path as its text, a Pydantic (2.x) model as a map of its fields.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import PurePath
from typing import Any, get_origin
from uuid import UUID

import msgspec

EncHook = Callable[[Any], Any]
DecHook = Callable[[type, Any], Any]


def _plain_datetime(value: datetime) -> datetime:
    return datetime.combine(datetime.date(value), datetime.timetz(value))


def _rebuild_datetime(kind: Any, plain: datetime) -> Any:
    clock = (plain.hour, plain.minute, plain.second, plain.microsecond, plain.tzinfo)
    return kind(plain.year, plain.month, plain.day, *clock)


#: Standard type -> (a subclass's instance to exactly it, it to the subclass). ``str(x)`` would not
#: do: a subclass may return itself from ``__str__`` (SafeString does). datetime is a date: first.
_SUBCLASSES: dict[type, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    str: (str.__str__, lambda kind, plain: kind(plain)),
    int: (int.__int__, lambda kind, plain: kind(plain)),
    float: (float.__float__, lambda kind, plain: kind(plain)),
    bytes: (lambda value: bytes(memoryview(value)), lambda kind, plain: kind(plain)),
    bytearray: (lambda value: bytes(memoryview(value)), lambda kind, plain: kind(plain)),
    datetime: (_plain_datetime, _rebuild_datetime),
    date: (lambda value: date(value.year, value.month, value.day), lambda kind, d: kind(d.year, d.month, d.day)),
    time: (
        lambda t: time(t.hour, t.minute, t.second, t.microsecond, t.tzinfo),
        lambda kind, t: kind(t.hour, t.minute, t.second, t.microsecond, t.tzinfo),
    ),
    timedelta: (
        lambda value: timedelta(value.days, value.seconds, value.microseconds),
        lambda kind, plain: kind(plain.days, plain.seconds, plain.microseconds),
    ),
    Decimal: (Decimal, lambda kind, plain: kind(plain)),
    UUID: (lambda value: UUID(int=value.int), lambda kind, plain: kind(int=plain.int)),
}


def encode_hook(user: EncHook | None) -> EncHook:
    """An ``enc_hook`` that asks `user` first; a NotImplementedError or TypeError of it means "not mine"."""
    if user is None:
        return _encode

    def hook(value: Any) -> Any:
        try:
            return user(value)
        except (NotImplementedError, TypeError) as refused:
            try:
                return _encode(value)
            except TypeError as unknown:
                raise (refused if str(refused) else unknown) from None

    return hook


def decode_hook(user: DecHook | None) -> DecHook:
    """A ``dec_hook`` that asks `user` first; a NotImplementedError of it means "not mine"."""
    if user is None:
        return _decode

    def hook(kind: type, value: Any) -> Any:
        try:
            return user(kind, value)
        except NotImplementedError:
            return _decode(kind, value)

    return hook


def type_name(kind: Any) -> str:
    """How errors call a type: ``Order``, ``numpy.ndarray``, ``int | None``."""
    if not isinstance(kind, type) or get_origin(kind) is not None:
        return str(kind)
    module = kind.__module__
    return kind.__qualname__ if module in ("builtins", "__main__") else f"{module}.{kind.__qualname__}"


def _encode(value: Any) -> Any:
    for base, (to_plain, _) in _SUBCLASSES.items():
        if isinstance(value, base):
            return to_plain(value)
    if isinstance(value, PurePath):
        return str(value)
    if _is_pydantic(type(value)):
        # Python mode keeps what msgspec can encode, and a SecretStr fails instead of becoming "**********".
        return value.model_dump(round_trip=True, by_alias=not _pydantic_by_name())
    raise TypeError(
        f"cannot encode {type_name(type(value))}: pass plain data (an id, a path, a list), or give App(enc_hook=...)"
    )


def _decode(kind: type, value: Any) -> Any:
    if get_origin(kind) is None:
        for base, (_, rebuild) in _SUBCLASSES.items():
            if issubclass(kind, base):
                return rebuild(kind, msgspec.convert(value, base))
        if issubclass(kind, PurePath):
            return kind(msgspec.convert(value, str))
        if _is_pydantic(kind):
            names = {"by_name": True, "by_alias": True} if _pydantic_by_name() else {}
            try:
                return kind.model_validate(value, **names)  # type: ignore[attr-defined]
            except ValueError as error:
                raise ValueError(_without_input(error)) from None
        if isinstance(value, kind):  # annotated `object`
            return value
    raise TypeError(f"cannot decode {type_name(kind)} from {type_name(type(value))}: give App(dec_hook=...)")


def _without_input(error: ValueError) -> str:
    """What a Pydantic ValidationError says, but not the value: it ends up in a worker's log."""
    errors = getattr(error, "errors", None)
    if errors is None:
        return str(error)
    found = errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'model'}: {each['msg']}" for each in found)


def _is_pydantic(kind: type) -> bool:
    # Looked up, not imported: whoever has such a model has imported pydantic already.
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and issubclass(kind, pydantic.BaseModel) and hasattr(kind, "model_validate")


def _pydantic_by_name() -> bool:
    # `by_name` (2.11) validates by field name whatever aliases there are; before, aliases must do.
    major, minor = sys.modules["pydantic"].VERSION.split(".")[:2]
    return (int(major), int(minor)) >= (2, 11)
