"""durability: a send returns when a replica, or the disk, has the task; else it says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import App, ConfigurationError, InvalidArguments, NotDurable, State, Task
from penstock.streams import keys
from tests.access import ACCESS
from tests.conftest import Running, binary
from tests.integration.conftest import MakeApp
from tests.servers import DEFAULT, SERVERS, Server, wait_until
from tests.topologies import sentinels

pytestmark = pytest.mark.anyio

#: Seconds that WAIT waits.
PATIENCE = 0.3


def is_replicated(server: Server) -> bool:
    """A replica follows it, and says so."""
    with server.client() as client:
        client.set("written", 1, ex=10)
        return int(client.wait(1, 100)) >= 1


class Pair:
    """A primary with one replica."""

    def __init__(self, name: str, directory: Path) -> None:
        self.primary = Server(binary(name), directory / "primary").start()
        option = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica = Server(binary(name), directory / "replica", *option).start()
        wait_until(lambda: is_replicated(self.primary), 20)

    def stop(self) -> None:
        self.replica.kill()
        self.primary.kill()


@pytest.fixture(scope="module", params=list(SERVERS))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    made = Pair(request.param, tmp_path_factory.mktemp("pair"))
    yield made
    made.stop()


@pytest.fixture
def any_server(pair: Pair) -> Iterator[Server]:
    """The primary; the replica goes on after each test."""
    yield pair.primary
    pair.replica.resume()


def adder(app: App) -> Task[[int], Any]:
    @app.task(name="adder")
    def add(n: int) -> int:
        return n + 1

    return add


async def test_a_replica_has_what_was_sent(any_server: Server, make_app: MakeApp, pair: Pair, namespace: str) -> None:
    app = make_app(durability="replicated")
    add = adder(app)
    sent = [add.delay(1), await add.adelay(2), *add.bulk([(3,), (4,)]), *await add.abulk([(5,), (6,)])]
    sent += await asyncio.gather(*[add.adelay(n) for n in range(20)])
    with pair.replica.client() as replica:  # asked at once: nothing is waited for here
        base = keys.base(namespace, "default")
        assert all(replica.exists(keys.record(base, handle.id.partition(":")[2])) for handle in sent)
    assert all(handle.created for handle in sent)
    await app.aclose()


async def test_a_replica_that_is_cut_off(any_server: Server, make_app: MakeApp, pair: Pair) -> None:
    app = make_app(command_timeout=PATIENCE)
    add = adder(app)
    sure = add.options(durability="replicated")
    (await sure.adelay(0)).cancel()
    pair.replica.pause()
    assert add.delay(1).created  # without, nothing is waited for
    with pytest.raises(NotDurable, match=r"default:a: enqueued, but not durably .*: 0 of 1 replicas") as one:
        sure.options(id="a").delay(1)
    with pytest.raises(NotDurable) as other:
        await sure.options(id="b").adelay(2)
    assert [(e.value.ids, e.value.wanted, e.value.confirmed) for e in (one, other)] == [
        (("default:a",), 1, 0),
        (("default:b",), 1, 0),
    ]
    assert app.handle("default:a").state() is State.QUEUED  # as the error says
    # What nobody has confirmed is not confirmed by asking again, nor by a connection that has written nothing.
    with pytest.raises(NotDurable):
        sure.options(id="a").delay(1)
    with pytest.raises(NotDurable):
        adder(make_app("other", command_timeout=PATIENCE, durability="replicated")).options(id="a").delay(1)
    pair.replica.resume()
    again = sure.options(id="a").delay(1)
    assert not again.created
    await app.aclose()


async def test_a_bulk_names_what_it_does_not_know(any_server: Server, make_app: MakeApp, pair: Pair) -> None:
    app = make_app(command_timeout=PATIENCE, durability="replicated")
    add = adder(app)
    kept = [add.s(n).options(durability="memory", queue="kept") for n in range(500)]
    pair.replica.pause()
    for send in ("sync", "async"):
        calls = [*kept, *[add.s(n).options(id=f"{send}-{n}") for n in range(3)]]
        with pytest.raises(NotDurable) as caught:
            app.bulk(calls) if send == "sync" else await app.abulk(calls)
        assert caught.value.ids == tuple(f"default:{send}-{n}" for n in range(3))
        assert len(caught.value.sent) == 500 and all(id.startswith("kept:") for id in caught.value.sent)
    await app.aclose()


async def test_a_bad_call_does_not_hide_what_became_of_those_before_it(make_app: MakeApp) -> None:
    """`abulk` makes the next batch while the one before is under way; both end badly here."""
    app = make_app(command_timeout=PATIENCE, durability="replicated")  # there is no replica
    add = adder(app)

    def calls() -> Iterator[tuple[Any]]:
        yield from ((n,) for n in range(500))
        yield ("no number",)

    with pytest.raises(NotDurable) as caught:
        await add.abulk(calls())
    assert len(caught.value.ids) == 500 and isinstance(caught.value.__cause__, InvalidArguments)
    await app.aclose()


async def test_concurrent_sends_wait_once(any_server: Server, make_app: MakeApp, pair: Pair) -> None:
    app = make_app(durability="replicated")
    add = adder(app)
    await add.adelay(0)

    def waits() -> int:
        with any_server.client() as client:
            stats: Any = client.info("commandstats")
            return int(stats["cmdstat_wait"]["calls"])

    before = waits()
    await add.abulk([(n,) for n in range(500)])
    assert waits() == before + 1
    handles = await asyncio.gather(*[add.adelay(n) for n in range(300)])
    assert len(handles) == 300 and waits() <= before + 4
    await app.aclose()


async def test_more_replicas_than_there_are(any_server: Server, make_app: MakeApp) -> None:
    app = make_app(durability="replicated", replicas=2, command_timeout=PATIENCE)
    with pytest.raises(NotDurable, match="1 of 2 replicas") as caught:
        adder(app).delay(1)
    assert (caught.value.wanted, caught.value.confirmed) == (2, 1)


async def test_fsync_where_it_cannot_be_had(any_server: Server, make_app: MakeApp) -> None:
    """Redis 6.2 has no WAITAOF; with the others the append-only file is off here."""
    app = make_app(durability="fsync")
    add = adder(app)
    with pytest.raises(NotDurable, match=r"(?i)nothing was enqueued: .*(unknown command|appendonly is disabled)"):
        add.options(id="a").delay(1)
    with pytest.raises(NotDurable, match="nothing was enqueued"):
        await add.options(id="a").adelay(1)
    assert add.options(id="a", durability="memory").delay(1).created
    await app.aclose()


async def test_after_the_server_has_forgotten_the_script(any_server: Server, make_app: MakeApp, pair: Pair) -> None:
    app = make_app(durability="replicated")
    add = adder(app)
    for _ in range(2):
        with any_server.client() as client:
            client.script_flush()
        assert add.delay(1).created
        with any_server.client() as client:
            client.script_flush()
        assert (await add.adelay(1)).created
    await app.aclose()


async def test_fsync_waits_for_the_disk(own_server: Server, make_app: MakeApp) -> None:
    app = make_app(durability="fsync", command_timeout=PATIENCE)
    add = adder(app)
    with own_server.client() as client:
        client.config_set("appendfsync", "always")
        assert add.delay(1).created
        assert (await add.adelay(2)).created
        client.config_set("appendfsync", "no")  # whenever the system likes
        with pytest.raises(NotDurable, match="the append-only file was not synced to disk") as caught:
            await add.adelay(3)
        assert (caught.value.wanted, caught.value.confirmed) == (1, 0)
        client.config_set("appendfsync", "always")
    await app.aclose()


async def test_on_a_cluster_the_node_of_the_queue_is_asked(
    running_servers: Running, namespace: str, make_app: MakeApp
) -> None:
    nodes = running_servers.cluster()
    app = make_app(url=nodes[0].url, durability="replicated", command_timeout=PATIENCE)
    add = adder(app)
    first, replica = nodes[0], nodes[3]
    for node in nodes[:3]:
        queue = next(name for i in range(1000) if node.owns(f"{namespace}:{(name := f'q{i}')}"))
        here = add.options(queue=queue, expires=60, result_ttl=1)
        assert here.delay(1).created and (await here.adelay(1)).created
        replica.pause()
        if node is first:
            with pytest.raises(NotDurable):
                here.delay(1)
            with pytest.raises(NotDurable):
                await here.abulk([(1,), (2,)])
        else:
            assert here.delay(1).created
        replica.resume()
    with pytest.raises(NotDurable, match="nothing was enqueued"):
        add.options(durability="fsync").delay(1)
    await app.aclose()


async def test_behind_sentinels(tmp_path: Path, namespace: str, make_app: MakeApp) -> None:
    with sentinels(binary(DEFAULT), tmp_path, count=1) as (servers, watchers):
        url = ACCESS.url("redis+sentinel", watchers[0].address, path="/tf")
        app = make_app(url=url, durability="replicated", command_timeout=PATIENCE)
        add = adder(app)
        wait_until(lambda: is_replicated(servers[0]), 20)
        assert add.delay(1).created and (await add.adelay(2)).created
        servers[1].pause()
        with pytest.raises(NotDurable):
            add.delay(3)
        servers[1].resume()
        await app.aclose()


@pytest.mark.parametrize("wrong", ["fsynk", "", True, 3])
def test_a_word_that_is_none(make_app: MakeApp, wrong: Any) -> None:
    with pytest.raises(ConfigurationError, match="durability must be"):
        make_app(durability=wrong)
    with pytest.raises(ConfigurationError, match="durability must be"):
        adder(make_app()).options(durability=wrong)


def test_no_replica_is_no_durability(make_app: MakeApp) -> None:
    with pytest.raises(ConfigurationError, match="replicas must be at least 1"):
        make_app(replicas=0)
