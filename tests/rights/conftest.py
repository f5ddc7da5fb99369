"""Fixtures of the tests under ACL rules: users with the rights of a role and no others, on each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from penstock.streams.rights import Role, rules
from tests.conftest import binary
from tests.servers import Server

#: Makes a user with these rights; its URL.
Login = Callable[..., str]
#: What the server has denied this test's users, as (reason, object).
Denied = Callable[[], set[tuple[str, str]]]

#: Asked at a worker's start, to say clearly that a server is too old or not fit; and by the doctor, where there is no
#: ACL DRYRUN. Who may not ask goes on.
OPTIONAL = {
    ("command", name) for name in ("command", "command|info", "info", "config", "config|get", "multi", "discard")
}


@pytest.fixture(params=["redis-6.2", "redis-8.2", "valkey-9.1"])
def any_server(request: pytest.FixtureRequest, running_servers: Any) -> Server:
    """Each server on which the rules are proven, in turn."""
    binary(request.param)
    return running_servers.get(request.param)  # type: ignore[no-any-return]


@pytest.fixture
def raw(any_server: Server) -> Iterator[redis.Redis]:
    """A client with all rights."""
    with any_server.client() as client:
        yield client


@pytest.fixture
def login(any_server: Server, raw: redis.Redis, namespace: str) -> Iterator[Login]:
    """Users are named after the namespace, and are gone with the test."""
    made: list[str] = []

    def make(*roles: Role, given: Sequence[str] | None = None) -> str:
        name = f"{namespace}-{len(made)}"
        raw.execute_command("ACL", "SETUSER", name, "on", ">pw", *(given or rules(namespace, *roles)))
        made.append(name)
        return f"redis://{name}:pw@127.0.0.1:{any_server.port}/0"

    raw.execute_command("ACL", "LOG", "RESET")
    yield make
    for name in made:
        raw.execute_command("ACL", "DELUSER", name)


@pytest.fixture
def denied(raw: redis.Redis, namespace: str) -> Denied:
    """Also what a script has swallowed."""

    return lambda: refusals(raw, namespace)


def refusals(raw: redis.Redis, user: str) -> set[tuple[str, str]]:
    """(reason, object) of the server's log, of users whose name begins so."""
    entries = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in _log(raw)]
    return {
        (entry[b"reason"].decode(), entry[b"object"].decode().lower())
        for entry in entries
        if entry[b"username"].decode().startswith(user)
    }


def _log(raw: redis.Redis) -> list[list[Any]]:
    """As the server sends it: redis-py's own reading of it differs by version."""
    connection: Any = raw.connection_pool.get_connection()
    try:
        connection.send_command("ACL", "LOG", 128)
        reply: list[list[Any]] = connection.read_response()
        return reply
    finally:
        raw.connection_pool.release(connection)
