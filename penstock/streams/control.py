"""What workers are told at once, by pub/sub: a task to cancel, a parked task that is due earlier, a queue that goes on.

Nothing depends on a message arriving: renewals also bring cancels, and workers look by themselves.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import msgspec

from penstock.errors import BrokerError
from penstock.streams import keys
from penstock.streams.client import FAULTS
from penstock.streams.connector import Connector
from penstock.streams.faults import translate
from penstock.streams.record import number

#: Seconds of silence after which the connection must show that it still leads to the server. What lies between (a NAT,
#: a firewall, a load balancer) may have forgotten it without a FIN: nothing is ever read from it then, nor an error.
QUIET = 15.0


class Told(msgspec.Struct, frozen=True):
    """One message: `cancel` is the key of a task to cancel, `resumed` that the queue goes on; else look what is due.

    `after` is how many seconds from now that is: none of many workers needs to look before.
    """

    base: str
    cancel: str | None = None
    resumed: bool = False
    after: float = 0.0


def told(base: str, data: bytes) -> Told:
    """What a message on a queue's channel says."""
    word, _, about = data.decode(errors="replace").partition(" ")
    if word == "cancel":
        return Told(base, cancel=about)
    return Told(base, resumed=word == "resume", after=(number(about.encode()) or 0) / 1000)


async def listen(connector: Connector, bases: Sequence[str]) -> AsyncGenerator[Told, None]:
    """Messages to the workers of these queues; begins with one of each, since some may have been missed.

    Raises `BrokerError` when the connection breaks; ends when it has fallen silent.
    """
    channels = {keys.control_channel(base).encode(): base for base in bases}
    client = connector.async_pubsub_client()
    try:
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(*channels)
            asked = True
            while True:
                message = await pubsub.get_message(timeout=QUIET)
                if message is None and asked:
                    return
                asked = message is None
                if message is None:
                    await pubsub.subscribe(next(iter(channels)))  # always answered; PING would need one more right
                    continue
                base = channels[message["channel"]]
                if message["type"] == "subscribe":
                    yield Told(base)
                elif message["type"] == "message":
                    yield told(base, message["data"])
    except FAULTS as fault:
        raise _error(connector, fault) from fault
    finally:
        await client.aclose()


def _error(connector: Connector, fault: Exception) -> BrokerError:
    return translate(fault, connector.display, connector.source)
