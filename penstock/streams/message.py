"""The wire message: what a producer sends and a worker runs, as msgpack.

How it may change: a new field gets a default and a new one-letter name; an old worker ignores
fields that it does not know. A field never changes its meaning or type; a name is never used
again. `VERSION` goes up only if an old worker must not run the message. The bytes of each
released version are kept in the tests.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

VERSION = 1

# No producer of ours sends other numbers. Somebody else's NaN would break a timer, or a whole batch that it is
# settled with; so what carries one is no message.
_Seconds = Annotated[float, msgspec.Meta(ge=0, lt=1e10)]


_Header = Annotated[str, msgspec.Meta(max_length=4096)]


class RetrySpec(msgspec.Struct, frozen=True, omit_defaults=True, array_like=True):
    """A retry policy on the wire: for one call, or for a task whose code the producer has not got."""

    max_retries: Annotated[int, msgspec.Meta(ge=-1, lt=2**31)]
    delay: _Seconds = 1.0
    backoff: Annotated[float, msgspec.Meta(ge=1, le=1.7e308)] = 2.0
    max_delay: _Seconds = 3600.0
    jitter: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0


class Message(msgspec.Struct, frozen=True, omit_defaults=True, rename={
    "name": "n", "args": "a", "version": "v", "timeout": "o", "result_ttl": "t", "retry": "r", "meta": "h",
    "headers": "x",
}):  # fmt: skip
    """A task to run. Its key travels beside it, as field ``k`` of the entry.

    Only what the *call* asked for is here; what the decorator says is known to the worker.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    #: msgpack map of the arguments by parameter name, kept as bytes until the task is known.
    args: msgspec.Raw = msgspec.Raw(b"\x80")
    version: int = VERSION
    #: Seconds.
    timeout: _Seconds | None = None
    #: Seconds; 0: store no result.
    result_ttl: _Seconds | None = None
    retry: RetrySpec | None = None
    meta: dict[str, Any] | None = None
    #: What middlewares send along: the trace that the call belongs to.
    headers: dict[_Header, _Header] | None = None


class Failure(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a task failed, as text; stored beside its record and in the dead letter."""

    type: str
    message: str
    traceback: str = ""
    reason: str = "error"


#: What decoding raises for bytes that are no message. msgspec lets two errors through: for text that is no UTF-8,
#: and for what nests deeper than Python's stack is high.
UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.msgpack.Encoder()
encode_message = _encoder.encode
encode_failure = _encoder.encode
decode_message = msgspec.msgpack.Decoder(Message).decode
decode_failure = msgspec.msgpack.Decoder(Failure).decode
