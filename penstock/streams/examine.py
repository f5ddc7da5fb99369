"""What a server says of itself and of its user's rights. Nothing is changed; what may not be asked is named.

Requests go over one plain connection for each server, in batches, past redis-py's response callbacks:
the replies are what the server sent.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from penstock.streams import keys
from penstock.streams.client import FAULTS
from penstock.streams.connector import Connector
from penstock.streams.rights import ON_CLUSTER, Role, trials

#: Commands on which something depends, and what. Asked for by name, since versions lie: Valkey 9 reports 7.2.4.
FEATURES = ("XAUTOCLAIM", "WAITAOF", "ACL|DRYRUN", "XACKDEL", "XNACK")
#: Commands for one ``ACL DRYRUN`` batch.
_BATCH = 200
_CONFIG = ("maxmemory", "maxmemory-policy", "save", "appendonly", "appendfsync", "min-replicas-to-write")
# In a script, as an unknown name is nil there on every server.
_ASK_FEATURES = """local known = {}
for _, name in ipairs(ARGV) do
  if redis.call('COMMAND', 'INFO', name:lower())[1] then known[#known + 1] = name end
end
return known"""


class Replica(msgspec.Struct, frozen=True):
    """A replica as its primary sees it: state, seconds since it last answered, bytes that it is behind."""

    address: str
    state: str
    lag: float
    behind: int


class Rights(msgspec.Struct, frozen=True):
    """What the user may not do of all that was tried, as ``command xadd`` or ``key {ns:q}:z``."""

    #: How it was found out: ``ACL DRYRUN`` or ``MULTI``; "": it could not be.
    how: str
    user: str
    missing: tuple[str, ...]


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """One server; None: it may not be asked, or does not say."""

    #: Its queues, of those that were asked for.
    queues: tuple[str, ...]
    #: ``INFO``, ``CONFIG GET``, ..: what was refused.
    refused: tuple[str, ...]
    #: Of INFO and CONFIG GET, by name.
    info: dict[str, str]
    config: dict[str, str]
    #: Those of `FEATURES` that it has.
    features: tuple[str, ...] | None
    replicas: tuple[Replica, ...]
    #: Seconds that its clock is ahead of this host's, and half the time that it took to ask.
    clock_ahead: float
    clock_error: float
    rights: Rights

    @property
    def policy(self) -> str | None:
        """What it does when its memory is full: ``noeviction``, or which keys it deletes."""
        return self.config.get("maxmemory-policy") or self.info.get("maxmemory_policy")

    @property
    def name(self) -> str:
        """Product and version, for people."""
        if not self.info:
            return "unknown"
        product = self.info.get("server_name", "redis")
        return f"{product} {self.info.get(f'{product}_version', self.info.get('redis_version', '?'))}"


def examine(connector: Connector, namespace: str, queues: Sequence[str], roles: Sequence[Role]) -> list[Server]:
    """Ask each server that holds any of these queues. Raises `BrokerError` if one does not answer."""
    if not connector.is_cluster:
        return [_examine(connector, "", namespace, queues, roles)]
    found: dict[str, list[str]] = {}
    bases: dict[str, str] = {}
    for base, queue in [(f"{{{namespace}}}", ""), *((keys.base(namespace, queue), queue) for queue in queues)]:
        with _plain(connector, base) as wire:
            node = wire.address
        bases.setdefault(node, base)
        found.setdefault(node, []).extend([queue] if queue else [])
    return [_examine(connector, bases[node], namespace, mine, roles) for node, mine in found.items()]


def eviction_policy(connector: Connector, base: str) -> str | None:
    """The ``maxmemory-policy`` of the server that holds `base`; None: it may not be asked. Raises `BrokerError`."""
    with _plain(connector, base if connector.is_cluster else "") as wire:
        return _info(wire.ask(("INFO", "memory"))).get("maxmemory_policy") or _config(wire).get("maxmemory-policy")


def _examine(connector: Connector, base: str, namespace: str, queues: Sequence[str], roles: Sequence[Role]) -> Server:
    with _plain(connector, base) as wire:
        before = time.time()
        moment = wire.ask(("TIME",))
        after = time.time()
        info, config = _info(wire.ask(("INFO",))), _config(wire)
        asked = wire.ask(("EVAL", _ASK_FEATURES, 0, *FEATURES))
        features = None if isinstance(asked, Exception) else tuple(_text(each) for each in asked)
        cluster = [each.upper().split("|") for each in ON_CLUSTER] if connector.is_cluster else []
        rights = _rights(wire, [*trials(namespace, queues or ["default"], *roles), *cluster])
    refused = {"TIME": moment, "INFO": info, "CONFIG GET": config, "COMMAND INFO": features, "ACL": rights.how}
    known = not isinstance(moment, Exception)
    return Server(
        queues=tuple(queues),
        refused=tuple(name for name, reply in refused.items() if not reply or isinstance(reply, Exception)),
        info=info,
        config=config,
        features=features,
        replicas=tuple(_replicas(info)),
        clock_ahead=int(moment[0]) + int(moment[1]) / 1e6 - (before + after) / 2 if known else 0.0,
        clock_error=(after - before) / 2 if known else 0.0,
        rights=rights,
    )


class _Wire:
    """One connection, raw: a refusal is the reply, and raises nothing."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def address(self) -> str:
        """Where it leads. Who a node is could be asked by CLUSTER MYID, which takes a right of its own."""
        return f"{self._connection.host}:{self._connection.port}"

    def ask(self, command: Sequence[object]) -> Any:
        return self.ask_all([command])[0]

    def ask_all(self, commands: Sequence[Sequence[object]]) -> list[Any]:
        self._connection.send_packed_command(self._connection.pack_commands(commands))
        return [self._read() for _ in commands]

    def _read(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error


@contextmanager
def _plain(connector: Connector, base: str) -> Iterator[_Wire]:
    client: Any = connector.sync_node(base)
    try:
        connection = client.connection_pool.get_connection()
        try:
            yield _Wire(connection)
        finally:
            connection.disconnect()
            client.connection_pool.release(connection)
    except FAULTS as fault:
        raise connector.translate(fault) from fault
    finally:
        client.close()


def _info(reply: Any) -> dict[str, str]:
    """The fields of ``INFO``, by name; none if it was refused."""
    if isinstance(reply, Exception):
        return {}
    pairs = (line.partition(":") for line in _text(reply).splitlines() if not line.startswith("#"))
    return {name: value for name, colon, value in pairs if colon}


def _config(wire: _Wire) -> dict[str, str]:
    replies = wire.ask_all([("CONFIG", "GET", name) for name in _CONFIG])  # 6.2 takes one name at a time
    flat = [_text(each) for reply in replies if not isinstance(reply, Exception) for each in reply]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _replicas(info: dict[str, str]) -> Iterator[Replica]:
    written = int(info.get("master_repl_offset", 0))
    for i in range(int(info.get("connected_slaves", 0))):
        fields = dict(each.split("=", 1) for each in info.get(f"slave{i}", "").split(",") if "=" in each)
        if fields:
            behind = max(0, written - int(fields.get("offset", 0)))
            yield Replica(f"{fields['ip']}:{fields['port']}", fields["state"], float(fields.get("lag", 0)), behind)


def _rights(wire: _Wire, commands: Sequence[Sequence[str]]) -> Rights:
    user = wire.ask(("ACL", "WHOAMI"))
    if not isinstance(user, Exception):
        replies = _in_batches(wire, [("ACL", "DRYRUN", user, *command) for command in commands])
        # Before 7.0 there is none; from then on it may be forbidden itself.
        if not any(isinstance(reply, ResponseError) and _no_dryrun(reply) for reply in replies):
            refused = [(c, _text(r)) for c, r in zip(commands, replies, strict=True) if isinstance(r, bytes)]
            return Rights("ACL DRYRUN", _text(user), _missing((c, why) for c, why in refused if why != "OK"))
    name = "" if isinstance(user, Exception) else _text(user)
    # Inside MULTI a command is only queued, but the server looks first whether the user may. DISCARD drops all.
    # MULTI is alone: were it refused, the server would run what follows.
    if isinstance(wire.ask(("MULTI",)), Exception):
        return Rights("", name, ())
    *replies, _ = wire.ask_all([*commands, ("DISCARD",)])
    refused = [(c, str(r)) for c, r in zip(commands, replies, strict=True) if isinstance(r, Exception)]
    return Rights("MULTI", name, _missing((c, why) for c, why in refused if "permission" in why))


def _no_dryrun(error: ResponseError) -> bool:
    text = str(error).lower()
    return "permission" in text or "unknown" in text


def _in_batches(wire: _Wire, commands: Sequence[Sequence[object]]) -> list[Any]:
    return [reply for i in range(0, len(commands), _BATCH) for reply in wire.ask_all(commands[i : i + _BATCH])]


def _missing(refused: Iterable[tuple[Sequence[str], str]]) -> tuple[str, ...]:
    """Each right once: a command, or the key or channel that stood in the command."""
    found: dict[str, None] = {}
    for command, why in refused:
        name = next((word for word in command if word.startswith("{")), "")
        if "channel" in why and "command" not in why:
            found[f"channel {name}"] = None
        elif "key" in why and "command" not in why:
            found[f"key {name}"] = None
        else:
            found[f"command {_rule(command)}"] = None
    return tuple(found)


def _rule(command: Sequence[str]) -> str:
    """The command as a rule names it: ``xgroup|create``."""
    with_subcommands = ("ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "XGROUP", "XINFO")
    return "|".join(command[: 2 if command[0] in with_subcommands else 1]).lower()


def _text(reply: Any) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)
