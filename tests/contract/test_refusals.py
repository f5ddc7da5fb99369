"""A server that takes no writes for a while (a replica, a full disk, too few replicas) refuses the whole call.

Scripts isolate their items and so catch this error for each of them; it is none of theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import errors
from penstock.streams import consume, produce, settle
from penstock.streams.calls import Call
from penstock.streams.client import AsyncClient, SyncClient
from penstock.streams.produce import Envelope
from penstock.streams.settle import Settled
from tests.connectors import connector
from tests.contract.helpers import FAILURE, MESSAGE, NAME, TTL, WINDOW, Queue
from tests.full_disk import DiskServer
from tests.servers import DEFAULT, SERVERS, Server, wait_until

REFUSALS = ["READONLY", "NOREPLICAS", "MISCONF"]


@pytest.fixture(params=[DEFAULT])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskServer]:
    server = DiskServer(request.param, tmp_path / "own")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def queue(own: DiskServer) -> Iterator[Queue]:
    client = SyncClient(connector(own.url))
    with own.client() as raw:
        yield Queue(raw, client, "t")
    client.close()


@contextmanager
def refusing(server: DiskServer, refusal: str, raw: redis.Redis) -> Iterator[None]:
    if refusal == "READONLY":
        raw.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        raw.execute_command("REPLICAOF", "NO", "ONE")
    elif refusal == "NOREPLICAS":
        raw.config_set("min-replicas-to-write", 1)
        yield
        raw.config_set("min-replicas-to-write", 0)
    else:
        server.fill_disk()
        yield
        server.empty_disk()


def kind_of(refusal: str) -> type[errors.BrokerError]:
    return errors.ServerReadOnly if refusal == "READONLY" else errors.BrokerError


def writes(q: Queue) -> dict[str, Call[Any]]:
    """Calls whose items are isolated, on tasks that were started; and what they answer when they get through."""
    done, retried, dead = q.start("done", "retried", "dead")
    q.send("waiting")
    q.send("due", due="1")
    q.send("parked", due="+50000")
    return {
        "enqueue": produce.enqueue(q.base, [Envelope("new", NAME, "default", MESSAGE)]),
        "cancel": produce.cancel(q.base, ["waiting"], TTL),
        "succeed": settle.succeed(q.base, "a", WINDOW, [(done, NAME, 10.0, b"\x01")]),
        "park": settle.park(q.base, "a", TTL, TTL, [(retried, NAME, 50.0, "retried", "")]),
        "bury": settle.bury(q.base, "a", TTL, (TTL, 10), [(dead, NAME, FAILURE)]),
    }


@pytest.mark.anyio
@pytest.mark.parametrize("own", SERVERS, indirect=True)
@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_batch_is_refused_as_a_whole_and_gets_through_later(
    own: DiskServer, queue: Queue, refusal: str
) -> None:
    calls = writes(queue)
    aclient = AsyncClient(connector(own.url))
    with refusing(own, refusal, queue.raw):
        for verb, call in calls.items():
            with pytest.raises(kind_of(refusal), match=refusal):
                pytest.fail(f"{verb}: {queue.run(call)}")
            with pytest.raises(kind_of(refusal), match=refusal):
                pytest.fail(f"{verb}: {await aclient.run(call)}")
        # One round trip for several calls, as a worker settles.
        together = await aclient.run_all([calls["succeed"], calls["park"]])
        assert [type(answer) for answer in together] == [kind_of(refusal)] * 2
    assert queue.run(calls["enqueue"])[0].created
    assert queue.run(calls["cancel"])[0].ended
    for verb in ("succeed", "park", "bury"):
        assert queue.run(calls[verb]) == [Settled.DONE], verb
    await aclient.aclose()


@pytest.mark.parametrize("refusal", REFUSALS)
def test_it_is_tried_again_while_there_is_time(own: DiskServer, queue: Queue, refusal: str) -> None:
    call = writes(queue)["enqueue"]
    answers: list[Any] = []
    sending = threading.Thread(target=lambda: answers.extend(queue.client.run(call, retry_for=30)))
    with refusing(own, refusal, queue.raw):
        before = sent(queue.raw)
        sending.start()
        wait_until(lambda: sent(queue.raw) >= before + 3)
        assert not answers
    sending.join(30)
    assert answers[0].created


def sent(raw: redis.Redis) -> int:
    """Scripts that were called."""
    stats: Any = raw.info("commandstats")
    return int(stats.get("cmdstat_evalsha", {"calls": 0})["calls"])


@pytest.mark.parametrize("refusal", REFUSALS)
def test_promotion_says_so_too(own: DiskServer, queue: Queue, refusal: str) -> None:
    queue.send("k", due="+300")
    with refusing(own, refusal, queue.raw):
        wait_until(lambda: refuses(lambda: queue.promote(), kind_of(refusal)))
    wait_until(lambda: queue.promote().moved == 1)


def refuses(call: Callable[[], consume.Promoted], kind: type[errors.BrokerError]) -> bool:
    """True once it is due and refused; before that there is nothing to write."""
    try:
        assert call().moved == 0
    except errors.BrokerError as error:
        assert type(error) is kind
        return True
    return False


@pytest.mark.anyio
async def test_a_connection_to_a_demoted_primary_is_not_used_again(own: DiskServer, queue: Queue) -> None:
    """Behind one address (a virtual IP, a proxy, DNS) there may be another server by now."""
    aclient = AsyncClient(connector(own.url))
    calls = writes(queue)
    assert queue.run(produce.queue_names("t")) == await aclient.run(produce.queue_names("t"))
    before = connections(queue.raw)
    assert len(before) == 2
    with refusing(own, "READONLY", queue.raw):
        with pytest.raises(errors.ServerReadOnly):
            queue.run(calls["enqueue"])
        with pytest.raises(errors.ServerReadOnly):
            await aclient.run(calls["enqueue"])
    assert queue.run(calls["enqueue"])[0].created
    assert (await aclient.run(calls["enqueue"]))[0].exists
    assert len(connections(queue.raw)) == 2
    assert not connections(queue.raw) & before
    await aclient.aclose()


def connections(raw: redis.Redis) -> set[str]:
    """Ids of penstock's connections."""
    clients: Any = raw.client_list()
    return {client["id"] for client in clients if client["name"] == "penstock"}


@pytest.mark.parametrize("own", SERVERS, indirect=True)
def test_the_error_of_a_full_disk_names_it(own: DiskServer, queue: Queue) -> None:
    call = writes(queue)["enqueue"]
    with refusing(own, "MISCONF", queue.raw), pytest.raises(errors.BrokerError, match="is the disk full") as caught:
        queue.run(call)
    assert "\n" not in str(caught.value) and "\r" not in str(caught.value)


def test_a_failed_snapshot_refuses_writes(own: DiskServer, queue: Queue) -> None:
    call = writes(queue)["enqueue"]
    queue.raw.config_set("appendonly", "no")
    queue.raw.config_set("save", "3600 1000000")
    own.fail_snapshots(True)
    with pytest.raises(errors.BrokerError, match="is the disk full") as caught:
        queue.run(call)
    assert "MISCONF" in str(caught.value)
    own.fail_snapshots(False)
    assert queue.run(call)[0].created


def test_what_an_item_does_wrong_is_no_refusal(server: Server, raw: redis.Redis, namespace: str) -> None:
    """WRONGTYPE and OOM are answers about items: they are not raised, and not tried again."""
    client = SyncClient(connector(server.url))
    queue = Queue(raw, client, namespace)
    raw.set(f"{queue.base}:t:bad", "1", ex=60)
    answers = queue.enqueue(Envelope("bad", NAME, "default", MESSAGE), Envelope("good", NAME, "default", MESSAGE))
    assert "WRONGTYPE" in (answers[0].error or "")
    assert answers[1].created
    client.close()
