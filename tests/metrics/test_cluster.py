"""The exporter of a namespace whose queues are on several nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis.crc import key_slot

from penstock import App
from penstock.metrics import Exporter
from penstock.streams import keys
from tests.conftest import CLUSTER, Running, binary
from tests.metrics.support import Scrape
from tests.servers import DEFAULT, Server, wait_until
from tests.topologies import cluster

QUEUES = [f"q{i}" for i in range(12)]
#: A namespace of its own, and its queues.
AWAY, MANY = "t-away", [f"q{i}" for i in range(60)]


@pytest.fixture
def any_server(running_servers: Running) -> Server:
    return running_servers.get(CLUSTER)


def test_all_queues_and_all_nodes_are_told(
    any_server: Server, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.metrics.exporter.FRESH", 0.0)
    monkeypatch.setattr("penstock.consumers.heartbeat.INTERVAL", 0.1)
    monkeypatch.setattr("penstock.consumers.tally.INTERVAL", 0.05)
    with App("test", url=url, namespace=namespace) as app, Exporter(url, namespace=namespace) as exporter:
        app.task(name="work")(lambda: None)
        for queue in QUEUES:
            app.task_named("work", queue=queue).delay()
        before = Scrape(exporter.render().decode())
        assert [before.value("penstock_queue_ready_tasks", queue=queue) for queue in QUEUES] == [1] * len(QUEUES)
        with app.running(QUEUES) as worker:

            def done() -> bool:
                found = Scrape(exporter.render().decode())
                run = found.values("penstock_task_run_duration_seconds_count", task="work")
                return sum(run.values()) == len(QUEUES) and found.has("penstock_worker_info", worker=worker.name)

            wait_until(done)
            found = Scrape(exporter.render().decode())
    assert found.value("penstock_redis_up") == 1 and found.value("penstock_exporter_scrape_errors_total") == 0
    assert found.value("penstock_tasks_finished_total", outcome="succeeded") == len(QUEUES)
    nodes = {dict(key)["node"] for key in found.values("penstock_redis_memory_used_bytes")}
    assert len(nodes) == 3 and set(found.values("penstock_redis_noeviction").values()) == {1.0}


@pytest.fixture
def three_nodes(tmp_path: Path) -> Iterator[list[Server]]:
    """A cluster without replicas that serves what it can while a node is away."""
    with cluster(binary(DEFAULT), tmp_path / "three") as nodes:
        for node in nodes:
            with node.client() as client:
                client.config_set("cluster-require-full-coverage", "no")
        yield nodes


@pytest.fixture
def watched(three_nodes: list[Server], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Scrape]]:
    """A namespace whose queues `MANY` are on all of the nodes: scrapes it once."""
    monkeypatch.setattr("penstock.metrics.exporter.FRESH", 0.0)
    monkeypatch.setattr("penstock.metrics.exporter.PATIENCE", 30.0)
    url = three_nodes[0].shared_url
    with App("test", url=url, namespace=AWAY) as app, Exporter(url, namespace=AWAY) as exporter:
        for queue in MANY:
            app.task_named("work", queue=queue).delay()
        yield lambda: Scrape(exporter.render().decode())


def told(found: Scrape) -> set[str]:
    """The queues of which there are figures."""
    return {dict(key)["queue"] for key in found.values("penstock_queue_ready_tasks")}


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_node_that_is_away_hides_no_other(
    three_nodes: list[Server], watched: Callable[[], Scrape], fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And is asked once, not for each of its queues."""
    lost = next(node for node in three_nodes if not node.owns(AWAY))
    missing = {queue for queue in MANY if lost.owns(f"{AWAY}:{queue}")}
    assert told(watched()) == set(MANY) and 5 < len(missing) < 50
    getattr(lost, fault)()
    found = watched()
    assert found.value("penstock_redis_up") == 1
    assert told(found) == set(MANY) - missing
    assert len(found.values("penstock_redis_memory_used_bytes")) == 2
    assert found.value("penstock_exporter_scrape_errors_total") == 1
    assert caplog.text.count("left out: node") == 1 and str(lost.port) in caplog.text
    if fault == "pause":
        lost.resume()
        assert told(watched()) == set(MANY)


def test_a_slot_that_is_on_its_way_hides_no_other(three_nodes: list[Server], watched: Callable[[], Scrape]) -> None:
    """While it is resharded nobody serves it; its node answers, and serves all the others."""
    source, target, _ = three_nodes
    queue = max(queue for queue in MANY if source.owns(f"{AWAY}:{queue}"))
    slot = key_slot(f"{AWAY}:{queue}".encode())
    with source.client() as here, target.client() as there:
        ids = [client.execute_command("CLUSTER", "MYID") for client in (here, there)]
        there.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[0])
        here.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[1])
        found = watched()
        assert told(found) == set(MANY) - {queue}
        assert len(found.values("penstock_redis_memory_used_bytes")) == 3
        for client in (here, there):
            client.execute_command("CLUSTER", "SETSLOT", slot, "STABLE")
        assert told(watched()) == set(MANY)


def test_when_no_queue_can_be_read_redis_is_not_up(three_nodes: list[Server], watched: Callable[[], Scrape]) -> None:
    """As with a single server."""
    for queue in MANY:
        node = next(node for node in three_nodes if node.owns(f"{AWAY}:{queue}"))
        with node.client() as client:
            client.set(keys.stream(keys.base(AWAY, queue), "high"), "x")
    assert watched().value("penstock_redis_up") == 0
