"""What an exception of redis-py means: which `BrokerError` it is, and whether sending again may help."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from typing import Any, Protocol

import redis
from redis.exceptions import (
    AskError,
    AuthorizationError,
    ClusterError,
    MovedError,
    RedisClusterException,
    SlotNotCoveredError,
    TryAgainError,
)

from penstock.errors import (
    AuthenticationFailed,
    BrokerError,
    BrokerUnavailable,
    PermissionDenied,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerTooOld,
    WrongKeyType,
)
from penstock.streams.redact import safe_error

#: Error codes of a server that will accept the same command later. OOM is not among them: it lasts
#: until somebody acts, and a producer should hear of it at once.
_PASSING = frozenset({"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "NOREPLICAS", "READONLY", "TRYAGAIN"})
_REFUSALS = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_CODES = _PASSING | _REFUSALS | {"OOM", "WRONGTYPE"}
#: What to do about an error whose own text does not say it, or not on every server.
_ADVICE = {
    "BUSY": "a script or function of somebody's holds the server; SCRIPT KILL or FUNCTION KILL ends it",
    "MISCONF": "the server cannot write to its disk, and takes no writes until it can; is the disk full?",
}
#: Within a script's error the code stands in the middle: Redis 6.2 says "ERR Error running script
#: (call to f_..): @user_script:1: @user_script: 1: -OOM command not allowed ..", 7.0 and later put
#: it first; a script that catches the error and returns it may do either.
_CODE = re.compile(r"(?:^|[\s:])-?([A-Z]{3,})\b")
_NO_ACL = re.compile(r"no permission|can't run this command|ACL failure", re.IGNORECASE)
_TEXT_AS_LOGIN = re.compile(r"invalid username-password|without any password|invalid password", re.IGNORECASE)


def translate(exc: BaseException, display: str, source: str = "argument") -> BrokerError:
    """The `BrokerError` for `exc`; raise it ``from exc``.

    Args:
        exc: from redis-py, or an `OSError`. A `BrokerError` comes back as it is.
        display: the safe URL of the server (`Connector.display`).
        source: where the URL came from (`Connector.source`); for ``"default"`` the error for a
            server that cannot be reached says how to name another one, or to do without.
    """
    if isinstance(exc, BrokerError):
        return exc
    for link in _chain(exc):  # in tracebacks they are shown, too
        link.args = tuple(safe_error(each) if isinstance(each, str) else each for each in link.args)
    cause = _root(exc)
    code = _code(cause)
    said = _text(cause)
    if code in _ADVICE:
        said = f"{said} ({_ADVICE[code]})"
    text = f"{display}: {said}"
    if isinstance(cause, redis.AuthenticationError) or code in ("NOAUTH", "WRONGPASS"):
        return AuthenticationFailed(text)
    if isinstance(cause, AuthorizationError) or code == "NOPERM":
        return PermissionDenied(text)
    if code == "READONLY":
        return ServerReadOnly(text)
    if code == "OOM":
        return ServerOutOfMemory(text)
    if code == "WRONGTYPE":
        return WrongKeyType(text)
    if code == "BUSY":  # it answers nothing else to anybody
        return BrokerUnavailable(f"no answer from {text}")
    if not _unreachable(cause):
        return BrokerError(text)
    if source == "default":
        return BrokerUnavailable(
            f"no Redis or Valkey server answers at {display}, the default ({said}). Start one there, name "
            'yours by App(url=...) or PENSTOCK_URL, or let penstock run one: App(url="embedded://DIR") or '
            "PENSTOCK_URL=embedded://DIR"
        )
    return BrokerUnavailable(f"no answer from {text}")


def is_transient(exc: BaseException) -> bool:
    """Whether an idempotent verb may be sent again after `exc`: an outage, a restart, a failover.

    False for wrong passwords, missing rights, certificates that do not verify, OOM, WRONGTYPE and
    all errors that are not the server's.
    """
    if isinstance(exc, BrokerError):
        return isinstance(exc, BrokerUnavailable | ServerReadOnly)
    cause = _root(exc)
    if any(isinstance(link, ssl.SSLCertVerificationError) for link in _chain(cause)):
        return False
    if isinstance(cause, redis.AuthenticationError | AuthorizationError) or _code(cause) in _REFUSALS:
        return False
    return _unreachable(cause) or _code(cause) in _PASSING


def common_error(text: str) -> redis.ResponseError | None:
    """The error of one item of a batch, if it is none of that item's: the server takes no writes for a while
    (READONLY, MISCONF, NOREPLICAS), or not this command from this user (NOPERM). A script that isolates its
    items catches it for each of them."""
    error = redis.ResponseError(text.strip())
    return error if _code(error) in _PASSING | {"NOPERM"} else None


def is_demoted(exc: BaseException) -> bool:
    """Whether the server has said that it is no primary: a new connection may lead to the one that is."""
    return _code(exc) == "READONLY"


def as_redis_error(exc: RedisClusterException) -> redis.RedisError:
    """`exc` as an error that ``except redis.RedisError`` catches, as RedisClusterException is none."""
    root = _root(exc)
    return root if isinstance(root, redis.RedisError) else redis.RedisError(str(root))


class _Sync(Protocol):
    def execute_command(self, *args: Any) -> Any: ...


class _Async(Protocol):
    async def execute_command(self, *args: Any) -> Any: ...


#: In a script, because redis-py 8.1 fails on the reply of COMMAND INFO for an unknown command, and
#: on a cluster cannot send it at all.
_ASK = ("EVAL", "return redis.call('COMMAND', 'INFO', 'XAUTOCLAIM')[1] and 1 or 0", 0)


def check_server(client: _Sync) -> None:
    """Raise `ServerTooOld` if the server has no XAUTOCLAIM (Redis before 6.2).

    Asks for the command, never for a version: Valkey 9 reports redis_version 7.2.4. An ACL user
    who may not ask passes: the first XAUTOCLAIM will tell.
    """
    try:
        _check(client.execute_command(*_ASK))
    except redis.ResponseError as error:
        _check_refusal(error)


async def acheck_server(client: _Async) -> None:
    """`check_server` for an async client."""
    try:
        _check(await client.execute_command(*_ASK))
    except redis.ResponseError as error:
        _check_refusal(error)


def _check(reply: Any) -> None:
    if reply != 1:
        raise ServerTooOld("the server has no XAUTOCLAIM; penstock needs Redis 6.2 or later, or Valkey")


def _check_refusal(error: redis.ResponseError) -> None:
    if _code(error) != "NOPERM":
        raise error


def is_away(error: BaseException) -> bool:
    """True if a server could not be reached, or did not answer. Not if it, or the Cluster, has said that a key's slot
    is not served at the moment: others of the same server may be."""
    links = [link for link in _chain(error) if not isinstance(link, BrokerError)]
    if any(isinstance(link, SlotNotCoveredError) for link in links):
        return False
    return any(isinstance(link, redis.ConnectionError | redis.TimeoutError | OSError) for link in links)


def was_silent(error: BaseException) -> bool:
    """True if the server did not answer in time: it may have stood still for as long as we waited.
    Else a connection was refused or cut, which says nothing of the kind."""
    return any(isinstance(each, redis.TimeoutError | TimeoutError) for each in _chain(error))


def _unreachable(exc: BaseException) -> bool:
    if isinstance(exc, ClusterError | TryAgainError | AskError | MovedError):
        return True
    # OSError covers the builtin ConnectionError and TimeoutError and socket.gaierror.
    return isinstance(exc, redis.ConnectionError | redis.TimeoutError | OSError)


def _root(exc: BaseException) -> BaseException:
    # RedisClusterException("Redis Cluster cannot be connected..") hides what happened in its cause.
    # "All slots are not covered" has none: a failover under way.
    if isinstance(exc, RedisClusterException):
        if exc.__cause__ is not None:
            return _root(exc.__cause__)
        if "not covered" in str(exc) or "could not agree" in str(exc):
            return redis.ConnectionError(str(exc))
    return exc


def _chain(exc: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if exc is None:
            return
        yield exc
        exc = exc.__cause__ or exc.__context__


def _code(exc: BaseException) -> str:
    """The server's error code, or ``""``."""
    if not isinstance(exc, redis.RedisError):
        return ""
    code = exc.status_code or ""  # redis-py 8.1: set, and cut off the text, for the codes it knows
    if code in _CODES:
        return code
    if not isinstance(exc, redis.ResponseError):
        return ""
    text = str(exc)
    for match in _CODE.finditer(text):
        if match[1] in _CODES:
            return match[1]
    if _TEXT_AS_LOGIN.search(text):
        return "WRONGPASS"
    return "NOPERM" if _NO_ACL.search(text) else ""


def _text(exc: BaseException) -> str:
    code = getattr(exc, "status_code", None)
    text = str(exc).strip() or type(exc).__name__  # 6.2 ends errors in scripts with a line break
    return f"{code} {text}" if code and code != "ERR" and not text.startswith(code) else text
