"""The exporter of a namespace whose queues are on several nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import App
from penstock.metrics import Exporter
from penstock.streams import keys
from tests.conftest import CLUSTER, Running, binary
from tests.metrics.support import Scrape
from tests.servers import DEFAULT, Server, wait_until
from tests.topologies import cluster

QUEUES = [f"q{i}" for i in range(12)]


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


@pytest.mark.parametrize("fault", ["kill", "pause"])
def test_a_node_that_is_away_hides_no_other(
    three_nodes: list[Server], fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And costs one wait, and not one for each of its queues: the answer comes within a second."""
    monkeypatch.setattr("penstock.metrics.exporter.FRESH", 0.0)
    namespace, queues = "t-away", [f"q{i}" for i in range(60)]
    url = three_nodes[0].shared_url
    lost = next(node for node in three_nodes if not node.owns(keys.workers(namespace)[1:].partition("}")[0]))
    missing = {queue for queue in queues if lost.owns(f"{namespace}:{queue}")}
    assert 5 < len(missing) < 50
    with App("test", url=url, namespace=namespace) as app, Exporter(url, namespace=namespace) as exporter:
        for queue in queues:
            app.task_named("work", queue=queue).delay()

        def seen() -> set[str]:
            found = Scrape(exporter.render().decode())
            up = found.value("penstock_redis_up") == 1
            return {dict(key)["queue"] for key in found.values("penstock_queue_ready_tasks")} if up else set()

        wait_until(lambda: seen() == set(queues))
        getattr(lost, fault)()
        wait_until(lambda: seen() == set(queues) - missing, timeout=30)
        found = Scrape(exporter.render().decode())
        assert len(found.values("penstock_redis_memory_used_bytes")) == 2
        assert found.value("penstock_exporter_scrape_errors_total") > 0
        lost.start(lost.port) if fault == "kill" else lost.resume()
        wait_until(lambda: fault == "kill" or seen() == set(queues), timeout=30)
