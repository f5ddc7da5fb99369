"""What stands behind a URL: the primaries, and who takes over from the first of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from redis.exceptions import RedisError

from tests.access import ACCESS
from tests.servers import Server, wait_until


class Behind(NamedTuple):
    """Servers behind one URL. The first primary is the one that fails."""

    url: str
    primaries: Sequence[Server]
    heirs: Sequence[Server]

    def queue_on(self, index: int, namespace: str, prefix: str = "q") -> str:
        """Name of a queue that this primary serves."""
        node = self.primaries[index]
        return next(name for i in range(1000) if node.owns(f"{namespace}:{(name := f'{prefix}{i}')}"))

    def fail(self) -> None:
        """Kill the first primary, which has replicas that follow it."""
        with self.primaries[0].client() as client:
            assert role(self.primaries[0]) == "master"
            wait_until(lambda: client.wait(len(self.heirs), 100) == len(self.heirs), 20)
        assert all(role(heir) == "slave" for heir in self.heirs)
        self.primaries[0].kill()
        assert not self.primaries[0].running

    def restore(self) -> None:
        """Start the killed one again, without its data: it comes back as a replica of its successor."""
        self.primaries[0].start()
        wait_until(lambda: role(self.primaries[0]) == "slave", 30)

    def successor(self) -> Server | None:
        """The replica that has become a primary."""
        return next((heir for heir in self.heirs if role(heir) == "master"), None)


def role(server: Server) -> str:
    """``master`` or ``slave``; ``""`` while it does not answer."""
    try:
        with server.client() as client:
            info: Any = client.info("replication")
            return str(info["role"])
    except (RedisError, OSError):
        return ""


def of_cluster(nodes: Sequence[Server]) -> Behind:
    """A cluster of three primaries, and a replica of each."""
    return Behind(nodes[0].url, nodes[:3], nodes[3:4])


def of_sentinels(servers: Sequence[Server], watchers: Sequence[Server]) -> Behind:
    """A primary and its replicas, watched by sentinels."""
    url = ACCESS.url("redis+sentinel", *(watcher.address for watcher in watchers), path="/tf")
    return Behind(url, servers[:1], servers[1:])
