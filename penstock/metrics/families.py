"""From what was read to Prometheus's families: one function for each part, every family as the catalogue says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family
from prometheus_client.utils import floatToGoString

from penstock.metrics.catalogue import EXPORTED, Metric
from penstock.metrics.names import Names
from penstock.streams.inspect import Fleet, QueueStats, Served
from penstock.streams.measures import BOUNDS, Measure, Measured
from penstock.streams.survey import Node, Reading

#: As Prometheus writes them: rules that say ``le="30.0"`` must find it.
_LE = (*map(floatToGoString, BOUNDS), "+Inf")
_CLASSES: dict[str, Any] = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}
#: What the scripts count, by the metric it belongs to.
_FINISHED = ("succeeded", "failed", "cancelled", "expired")
_RETURNED = ("snoozed", "released", "unknown")
_OF_QUEUE = {
    Measure.WAIT: "penstock_task_queue_wait_seconds",
    Measure.END_TO_END: "penstock_task_end_to_end_seconds",
    Measure.SCHEDULE_DELAY: "penstock_schedule_delay_seconds",
    Measure.REDELIVERED: "penstock_tasks_redelivered_total",
    Measure.LEASES_LOST: "penstock_tasks_lease_lost_total",
}


class Page:
    """The families of one scrape, filled by name; those that stay empty are left out."""

    def __init__(self, metrics: Iterable[Metric] = EXPORTED) -> None:
        self._families: dict[str, Any] = {
            metric.name: _CLASSES[metric.kind](metric.name.removesuffix("_total"), metric.help, labels=metric.labels)
            for metric in metrics
        }

    def add(self, name: str, value: float, *labels: str) -> None:
        """A sample of a gauge or counter."""
        self._families[name].add_metric(labels, value)

    def histogram(self, name: str, numbers: Sequence[int], *labels: str) -> None:
        """A histogram: its sum in microseconds, then how many there are in each bucket."""
        buckets = list(zip(_LE, accumulate(numbers[1:]), strict=True))
        self._families[name].add_metric(labels, buckets, numbers[0] / 1e6)

    def all(self) -> list[Family]:
        """Also those without a sample."""
        return list(self._families.values())

    def __iter__(self) -> Iterator[Family]:
        return (family for family in self._families.values() if family.samples)


def add_reading(page: Page, reading: Reading, names: Names, *, workers: bool) -> None:
    """All that was read."""
    served = {each.queue: each for each in reading.fleet.queues}
    for stats in reading.queues:
        _add_queue(page, stats, served.get(stats.queue, Served(stats.queue, 0, 0, 0)))
        _add_tasks(page, stats, names)
    for node in reading.nodes:
        _add_node(page, node)
    if workers:
        _add_workers(page, reading.fleet)


def _add_queue(page: Page, stats: QueueStats, served: Served) -> None:
    queue = stats.queue
    for lane in stats.lanes:
        page.add("penstock_queue_ready_tasks", lane.ready, queue, lane.priority)
        page.add("penstock_queue_pending_tasks", lane.running, queue, lane.priority)
        page.add("penstock_queue_oldest_ready_age_seconds", lane.oldest or 0.0, queue, lane.priority)
    oldest = max((lane.oldest_running or 0.0 for lane in stats.lanes), default=0.0)
    gauges = {
        "oldest_pending_age_seconds": oldest,
        "overdue_leases": sum(lane.overdue for lane in stats.lanes),
        "redelivered_pending_tasks": sum(lane.again for lane in stats.lanes),
        "scheduled_tasks": stats.scheduled,
        "overdue_scheduled_tasks": stats.due,
        "oldest_due_age_seconds": max(0.0, -(stats.due_in or 0.0)),
        "dead_tasks": stats.dead,
        "paused": 0 if stats.paused is None else 1,
        "consumers": max(lane.consumers for lane in stats.lanes),
        "live_workers": served.workers,
        "slots": served.slots,
        "busy_slots": served.busy,
    }
    for name, value in gauges.items():
        page.add(f"penstock_queue_{name}", value, queue)
    added = [lane.added for lane in stats.lanes if lane.added is not None]
    if len(added) == len(stats.lanes):
        page.add("penstock_queue_entries_added_total", sum(added), queue)
    page.add("penstock_dead_letters_trimmed_total", stats.total("trimmed"), queue)


def _add_tasks(page: Page, stats: QueueStats, names: Names) -> None:
    queue = stats.queue
    shown = names.of(stats)
    page.add("penstock_exporter_folded_tasks", shown.folded, queue)
    for outcome in _FINISHED:
        for task, count in shown.sums(stats.counters.get(outcome, {}), all_names=True).items():
            page.add("penstock_tasks_finished_total", count, queue, task, outcome)
    for task, count in shown.sums(stats.counters.get("retried", {}), all_names=True).items():
        page.add("penstock_tasks_retried_total", count, queue, task)
    for reason in _RETURNED:
        for task, count in shown.sums(stats.counters.get(reason, {})).items():
            page.add("penstock_tasks_returned_total", count, queue, task, reason)
    found: dict[Measure, list[Measured]] = {}
    for measured in stats.measures:
        found.setdefault(measured.measure, []).append(measured)
    for measure, name in _OF_QUEUE.items():
        # Zeros for what has not happened yet: a rate needs a first value, and it must not be the first failure.
        numbers = next((each.numbers for each in found.get(measure, ())), (0,) * (1 + len(_LE)))
        if name.endswith("_total"):
            page.add(name, numbers[0], queue)
        else:
            page.histogram(name, numbers, queue)
    for task, numbers in shown.added(found.get(Measure.RUN, ())).items():
        page.histogram("penstock_task_run_duration_seconds", numbers, queue, task)
    for (reason, task), count in shown.reasons(found.get(Measure.FAILURES, ())).items():
        page.add("penstock_task_failures_total", count, queue, task, reason)


def _add_workers(page: Page, fleet: Fleet) -> None:
    for each in fleet.workers:
        worker, age = each.consumer, fleet.age(each)
        page.add("penstock_worker_info", 1, worker, each.host, str(each.pid), each.version, each.python)
        gauges = {
            "last_heartbeat_timestamp_seconds": each.heard_ms / 1000,
            "heartbeat_age_seconds": age,
            "start_time_seconds": each.started_at,
            "slots": each.slots,
            "busy_slots": each.busy,
            "resident_memory_bytes": each.rss,
            "event_loop_lag_seconds": each.lag,
            "event_loop_blocked_seconds_total": each.blocked,
        }
        for name, value in gauges.items():
            page.add(f"penstock_worker_{name}", value, worker)


def _add_node(page: Page, node: Node) -> None:
    info = node.info
    policy = info.get("maxmemory_policy", "")
    version = info.get("valkey_version") or info.get("redis_version", "")
    page.add("penstock_redis_info", 1, node.name, version, info.get("role", ""), policy)
    page.add("penstock_redis_noeviction", int(policy == "noeviction"), node.name)
    page.add("penstock_redis_aof_enabled", int(info.get("aof_enabled") == "1"), node.name)
    saves = ("rdb_last_bgsave_status", "aof_last_write_status")
    page.add("penstock_redis_last_save_ok", int(all(info.get(name, "ok") == "ok" for name in saves)), node.name)
    page.add("penstock_redis_clock_offset_seconds", node.clock_offset, node.name)
    numbers = {
        "memory_used_bytes": "used_memory",
        "memory_max_bytes": "maxmemory",
        "evicted_keys_total": "evicted_keys",
        "rejected_connections_total": "rejected_connections",
        "clients": "connected_clients",
        "clients_max": "maxclients",
        "clients_blocked": "blocked_clients",
    }
    for name, field in numbers.items():
        if (text := info.get(field, "")).isdecimal():  # absent before some version, or refused
            page.add(f"penstock_redis_{name}", int(text), node.name)
