"""Fixtures of the tests under ACL rules: users with the rights of a role and no others, on each server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import redis

from penstock.streams.rights import Role, rules
from tests.access_run import refusals
from tests.conftest import binary
from tests.servers import Server

#: Makes a user with these rights; its URL.
Login = Callable[..., str]
#: What the server has denied this test's users, as (reason, object).
Denied = Callable[[], set[tuple[str, str]]]


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
        return any_server.url_for(f"{name}:pw@")

    raw.execute_command("ACL", "LOG", "RESET")
    yield make
    for name in made:
        raw.execute_command("ACL", "DELUSER", name)


@pytest.fixture
def denied(raw: redis.Redis, namespace: str) -> Denied:
    """Also what a script has swallowed."""

    return lambda: refusals(raw, namespace)
