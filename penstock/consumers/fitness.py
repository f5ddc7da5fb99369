"""Whether the server is fit to keep tasks: asked once, at a worker's start. `penstock doctor` asks for more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from penstock.errors import ConfigurationError
from penstock.streams.connector import Connector
from penstock.streams.examine import eviction_policy

log = logging.getLogger("penstock.worker")


async def check_fitness(connector: Connector, bases: Sequence[str], strict: bool) -> None:
    """Warn of a server that deletes keys when its memory is full. Raises `BrokerError`.

    With `strict` it is a `ConfigurationError` instead, also when the server does not let us ask.
    """
    for base in bases if connector.is_cluster else bases[:1]:
        policy = await asyncio.to_thread(eviction_policy, connector, base)
        if policy == "noeviction":
            continue
        if policy is not None:
            problem = (
                f"the server at {connector.display} deletes tasks when its memory is full: its maxmemory-policy is "
                f"{policy}; CONFIG SET maxmemory-policy noeviction"
            )
        else:
            problem = f"whether the server at {connector.display} deletes tasks is unknown: this user may not run INFO"
        if strict:
            raise ConfigurationError(f"{problem} (strict_server)")
        log.log(logging.DEBUG if policy is None else logging.WARNING, "%s", problem)
