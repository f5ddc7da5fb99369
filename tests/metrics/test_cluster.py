"""The exporter of a namespace whose queues are on several nodes."""

from __future__ import annotations

import pytest

from penstock import App
from penstock.metrics import Exporter
from tests.conftest import CLUSTER, Running
from tests.metrics.support import Scrape
from tests.servers import Server, wait_until

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
