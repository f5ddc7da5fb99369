"""Encodes and checks the arguments and the result of one task. msgpack by way of msgspec; never pickle.

A producer sends exactly the bytes that it has decoded with the worker's own typed decoder, so
what does not fit fails at the call, with the parameter's name, and not later in a worker.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from penstock.errors import InvalidArguments, InvalidTask, PenstockError, UnencodableResult
from penstock.streams.message import UNDECODABLE
from penstock.tasks.binder import Binder, short_name
from penstock.tasks.hints import UNRESOLVED, Hints
from penstock.tasks.hooks import DecHook, EncHook, decode_hook, encode_hook, type_name

log = logging.getLogger("penstock")

#: Field of an arguments map that holds positional arguments without names. A producer that has
#: not got the task's code sends it (it may be empty); the worker binds such a call by its own
#: signature. No parameter can have this name.
POSITIONAL = "*"

_PATH = re.compile(r"(?P<what>.*?) - at (?P<key>`key(?: in)?` in )?`(?P<path>[^`]*)`", re.DOTALL)
_TOP = re.compile(r"Object (missing required|contains unknown) field `([^`]*)`")
#: The only errors of msgspec that show a value: of an Enum, a Literal or a tag.
_VALUE = re.compile(r"(Invalid (?:enum )?value).*", re.DOTALL)
_raw_fields = msgspec.msgpack.Decoder(dict[str, msgspec.Raw]).decode
_raw_items = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode
_untyped = msgspec.msgpack.Decoder().decode


class Codec:
    """Encodes, checks and decodes the arguments and the result of one function.

    Args:
        function: the task's function; plain or ``async``.
        bind: leave out its first parameter, the `Context`.
        enc_hook: turns a value of a type that msgspec does not know into one that it does;
            raises NotImplementedError for other types.
        dec_hook: ``(type, value)``: the way back.
        name: how errors call the function; default: its qualified name.

    Raises:
        InvalidTask: it has no usable signature, or a type in it cannot be decoded. Names that are
            not defined yet are looked up again at first use.
    """

    __slots__ = (
        "_bind", "_check_result", "_dec_hook", "_decode", "_decode_result", "_encode", "_hints", "_unbind", "binder",
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        bind: bool = False,
        enc_hook: EncHook | None = None,
        dec_hook: DecHook | None = None,
        name: str | None = None,
    ) -> None:
        self.binder = Binder(function, name=name or short_name(function), skip_first=bind)
        self._hints = Hints(function, self.binder.name)
        self._dec_hook = decode_hook(dec_hook)
        self._bind = self.binder.bind_call
        self._unbind = self.binder.unbind
        self._encode = msgspec.msgpack.Encoder(enc_hook=encode_hook(enc_hook)).encode
        self._decode: Callable[[bytes | msgspec.Raw], Any] = self._first_decode
        self._decode_result: Callable[[bytes | msgspec.Raw], Any] = self._first_decode_result
        self._check_result = True
        try:
            self._build_arguments()
        except UNRESOLVED:
            log.debug("%s: annotations are resolved at first use", self.binder.name)
        try:
            self._build_result()
        except UNRESOLVED:
            log.debug("%s: return annotation is resolved at first use", self.binder.name)

    def check(self) -> None:
        """Resolve everything now; for a worker's start. `InvalidTask` if a parameter's type cannot be."""
        if self._decode == self._first_decode:
            self._resolve_arguments()
        if self._decode_result == self._first_decode_result:
            self._resolve_result()

    def encode_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """A call's arguments as a msgpack map by parameter name; defaults stay out.

        Raises:
            InvalidArguments: they do not fit the signature; the message names the parameter.
            InvalidTask: an annotation cannot be resolved.
        """
        try:
            given = self._bind(*args, **kwargs)
        except TypeError as error:
            raise InvalidArguments(str(error)) from None
        try:
            raw = self._encode(given)
        except Exception as error:
            where, cause = _culprit(self._encode, given, error)
            raise InvalidArguments(f"{self.binder.name}(): {where}: {_reason(cause)}") from error
        try:
            self._decode(raw)
        except Exception as error:
            self._misfit(error)
        return raw

    def decode_args(self, raw: bytes | msgspec.Raw) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """``(args, kwargs)`` to call the function with; its own defaults fill what was not sent.

        Raises:
            InvalidArguments: they do not fit this function (another version of it sent them).
            InvalidTask: an annotation cannot be resolved.
        """
        try:
            return self._unbind(self._decode(raw))
        except Exception as error:
            given = self._bind_unnamed(raw)
            if given is None:
                self._misfit(error, quiet=True)
        try:
            return self._unbind(self._decode(self._encode(given)))
        except Exception as error:
            self._misfit(error, quiet=True)

    def encode_result(self, value: object) -> bytes:
        """What a task returned, as msgpack, checked against the return annotation.

        A ``msgspec.Raw`` is taken as it is: the slot's process has encoded and checked it.
        Raises `UnencodableResult` if it cannot be encoded or is of another type.
        """
        if type(value) is msgspec.Raw:
            return bytes(value)
        try:
            raw = self._encode(value)
        except Exception as error:
            where, cause = _culprit(self._encode, value, error)
            raise UnencodableResult(f"{self.binder.name}(): result{_suffix(where)}: {_reason(cause)}") from error
        if self._check_result:
            try:
                self._decode_result(raw)
            except PenstockError:
                raise
            except Exception as error:
                what, path = _describe(error, quiet=True)
                raise UnencodableResult(f"{self.binder.name}(): result{_suffix(path)}: {what}") from error
        return raw

    def decode_result(self, raw: bytes | msgspec.Raw) -> Any:
        """A result, by the return annotation; untyped if there is none or it cannot be resolved.

        Raises ``msgspec.ValidationError`` if another version of the task has returned another type, and
        ``msgspec.DecodeError`` for bytes that are no msgpack.
        """
        return _decoded(self._decode_result, raw)

    def _first_decode(self, raw: bytes | msgspec.Raw) -> Any:
        self._resolve_arguments()
        return self._decode(raw)

    def _resolve_arguments(self) -> None:
        try:
            self._build_arguments()
        except UNRESOLVED as error:
            for parameter in self.binder.parameters:
                try:
                    msgspec.msgpack.Decoder(self._hints.parameter(parameter))
                except UNRESOLVED as missing:
                    raise self._hints.unresolved(parameter.name, parameter.annotation, missing) from None
            raise InvalidTask(f"{self.binder.name}(): {error}") from error

    def _build_arguments(self) -> None:
        kinds = {p.name: self._hints.parameter(p) for p in self.binder.parameters}
        fields: list[Any] = []
        for parameter in self.binder.parameters:
            field: tuple[Any, ...] = (self.binder.fields[parameter.name], kinds[parameter.name])
            if parameter.kind is parameter.VAR_POSITIONAL:
                field += (msgspec.field(default_factory=list),)
            elif parameter.kind is parameter.VAR_KEYWORD:
                field += (msgspec.field(default_factory=dict),)
            elif parameter.default is not parameter.empty:
                field += (msgspec.UNSET,)  # stands for the function's own default, of whatever type
            fields.append(field)
        rename = {field: name for name, field in self.binder.fields.items()}
        try:
            struct = msgspec.defstruct("Arguments", fields, kw_only=True, forbid_unknown_fields=True, rename=rename)
            self._decode = msgspec.msgpack.Decoder(struct, dec_hook=self._dec_hook).decode
        except UNRESOLVED:
            raise
        except Exception as error:
            raise self._hints.refused(kinds, error) from error

    def _first_decode_result(self, raw: bytes | msgspec.Raw) -> Any:
        self._resolve_result()
        return self._decode_result(raw)

    def _resolve_result(self) -> None:
        try:
            self._build_result()
        except UNRESOLVED as error:
            annotation = self.binder.return_annotation
            log.warning("%s: results are not checked: return annotation %r: %s", self.binder.name, annotation, error)
            self._check_result, self._decode_result = False, _untyped

    def _build_result(self) -> None:
        kind = self._hints.result(self.binder.return_annotation)
        try:
            decode = msgspec.msgpack.Decoder(kind, dec_hook=self._dec_hook).decode
        except UNRESOLVED:
            raise
        except Exception as error:
            raise self._hints.refused({"return": kind}, error) from error
        self._check_result, self._decode_result = kind is not Any, decode

    def _bind_unnamed(self, raw: bytes | msgspec.Raw) -> dict[str, object] | None:
        """The call of a producer that did not know the signature, bound by ours; None if it is no such call."""
        try:
            fields = _raw_fields(raw)
            positional = _raw_items(fields.pop(POSITIONAL))
        except (*UNDECODABLE, KeyError):
            return None
        return self.binder.bind(*positional, **fields)

    def _misfit(self, error: Exception, *, quiet: bool = False) -> NoReturn:
        if isinstance(error, PenstockError):
            raise error
        what, path = _describe(error, quiet)
        where = f"{path}: " if path else ""
        raise InvalidArguments(f"{self.binder.name}(): {where}{what}") from error


class UntypedCodec:
    """Arguments and results of a task whose code this producer has not got. Only the worker checks them."""

    __slots__ = ("_encode", "name")

    def __init__(self, name: str, *, enc_hook: EncHook | None = None) -> None:
        self.name = name
        self._encode = msgspec.msgpack.Encoder(enc_hook=encode_hook(enc_hook)).encode

    def encode_args(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        """As `Codec.encode_args`, but positional arguments stay without names, under `POSITIONAL`."""
        if POSITIONAL in kwargs:
            raise InvalidArguments(f"{self.name}(): {POSITIONAL!r} cannot be the name of an argument")
        try:
            return self._encode({POSITIONAL: args, **kwargs})
        except Exception as error:
            where, cause = _culprit(self._encode, kwargs | {f"argument {i + 1}": a for i, a in enumerate(args)}, error)
            raise InvalidArguments(f"{self.name}(): {where}: {_reason(cause)}") from error

    def decode_result(self, raw: bytes | msgspec.Raw) -> Any:
        """A result as plain data: dicts, lists, strings, numbers; aware datetimes stay datetimes (in UTC)."""
        return _decoded(_untyped, raw)


def _decoded(decode: Callable[[bytes | msgspec.Raw], Any], raw: bytes | msgspec.Raw) -> Any:
    """As `decode`; whatever makes bytes no msgpack is a ``msgspec.DecodeError``."""
    try:
        return decode(raw)
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(_reason(error)) from error


def _culprit(encode: Callable[[Any], bytes], value: object, error: Exception) -> tuple[str, Exception]:
    """Where in `value` encoding fails, as ``orders[3].id``, and the error there."""
    path = ""
    for _ in range(32):  # a list that contains itself has no innermost culprit
        if isinstance(value, dict):
            children = [(f".{key}" if isinstance(key, str) else f"[{key!r}]", v) for key, v in value.items()]
        elif isinstance(value, list | tuple):
            children = [(f"[{i}]", v) for i, v in enumerate(value)]
        else:
            break
        for step, child in children:
            try:
                encode(child)
            except Exception as inner:
                path, value, error = path + step, child, inner
                break
        else:
            break  # it is a key, or the container itself
    return path.removeprefix("."), error


def _describe(error: Exception, quiet: bool = False) -> tuple[str, str]:
    """What is wrong and at which path, of msgspec's ``Expected `int`, got `str` - at `$.order_id```.

    `quiet`: without the value, as a worker logs it.
    """
    text = str(error)
    if not isinstance(error, msgspec.DecodeError):
        return _reason(error), ""
    if top := _TOP.fullmatch(text):
        return {
            "missing required": f"missing required argument: {top[2]!r}",
            "contains unknown": f"got an unexpected argument: {top[2]!r}",
        }[top[1]], ""
    found = _PATH.fullmatch(text)
    what, path = (found["what"], found["path"].removeprefix("$").removeprefix(".")) if found else (text, "")
    if found and found["key"]:
        path += " (a key)"
    what = what.replace("`", "")
    if quiet:
        what = _VALUE.sub(r"\1", what)
    return what[:1].lower() + what[1:], path


def _reason(error: Exception) -> str:
    if isinstance(error, OverflowError):
        return "an int beyond 64 bits cannot be sent: pass it as str"
    if isinstance(error, RecursionError):
        return "nested too deeply, or contains itself"
    if isinstance(error, TypeError | ValueError | NotImplementedError) and str(error):
        return str(error)
    return f"{type_name(type(error))}: {error}"


def _suffix(path: str) -> str:
    return f" {path}" if path else ""
