"""Every metric: its name, type, labels and meaning. The docs' tables and the checks of the dashboards read this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

Kind = Literal["gauge", "counter", "histogram"]


class Metric(msgspec.Struct, frozen=True):
    """One family. Times in seconds, memory in bytes."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str


_QUEUE, _LANE, _TASK, _WORKER, _NODE = ("queue",), ("queue", "priority"), ("queue", "task"), ("worker",), ("node",)

#: What the exporter reads from Redis.
EXPORTED = (
    Metric("penstock_queue_ready_tasks", "gauge", _LANE, "Tasks that wait for a worker."),
    Metric("penstock_queue_pending_tasks", "gauge", _LANE, "Tasks that were handed to a worker and have not ended."),
    Metric(
        "penstock_queue_oldest_ready_age_seconds", "gauge", _LANE,
        "How long the oldest ready task has waited, by the server's clock; 0: none is ready.",
    ),
    Metric(
        "penstock_queue_oldest_pending_age_seconds", "gauge", _QUEUE,
        "How long ago the oldest task that a worker has became ready; 0: none has any.",
    ),
    Metric(
        "penstock_queue_overdue_leases", "gauge", _QUEUE,
        "Pending tasks that no worker has renewed for longer than the lease; up to 1000 of each priority are counted.",
    ),
    Metric(
        "penstock_queue_redelivered_pending_tasks", "gauge", _QUEUE,
        "Pending tasks that were delivered more than once, among the 100 oldest of each priority.",
    ),
    Metric("penstock_queue_scheduled_tasks", "gauge", _QUEUE, "Tasks that wait for their time, or for a retry."),
    Metric(
        "penstock_queue_overdue_scheduled_tasks", "gauge", _QUEUE,
        "Scheduled tasks that are due, and that no worker has made ready yet.",
    ),
    Metric(
        "penstock_queue_oldest_due_age_seconds", "gauge", _QUEUE,
        "For how long the first scheduled task has been due; 0: none is.",
    ),
    Metric("penstock_queue_dead_tasks", "gauge", _QUEUE, "Dead letters: tasks that failed for good and are kept."),
    Metric("penstock_queue_paused", "gauge", _QUEUE, "1 while the queue is paused, else 0."),
    Metric(
        "penstock_queue_consumers", "gauge", _QUEUE,
        "Consumers of the queue's group, the largest number of its three priorities; also those that are gone.",
    ),
    Metric("penstock_queue_live_workers", "gauge", _QUEUE, "Workers that serve it and were heard of within 20 s."),
    Metric(
        "penstock_queue_slots", "gauge", _QUEUE,
        "Slots of these workers: of the kind (async, thread, process) of the queue's tasks that is fullest.",
    ),
    Metric(
        "penstock_queue_busy_slots", "gauge", _QUEUE,
        "How many of these slots are taken, by tasks of any queue that the worker serves.",
    ),
    Metric(
        "penstock_queue_entries_added_total", "counter", _QUEUE,
        "Entries ever added to its streams: new tasks, and scheduled ones that became ready. From Redis 7.0 on.",
    ),
    Metric(
        "penstock_tasks_finished_total", "counter", (*_TASK, "outcome"),
        "Tasks that ended, by outcome: succeeded, failed (a dead letter), cancelled, expired.",
    ),
    Metric("penstock_tasks_retried_total", "counter", _TASK, "Attempts that failed and run again."),
    Metric(
        "penstock_tasks_returned_total", "counter", (*_TASK, "reason"),
        "Deliveries that went back without an attempt spent: snoozed, released (a shutdown), unknown (to the worker).",
    ),
    Metric(
        "penstock_task_failures_total", "counter", (*_TASK, "reason"),
        "Tasks that failed for good, by reason: error, timeout, rejected, max_deliveries, ...",
    ),
    Metric(
        "penstock_tasks_redelivered_total", "counter", _QUEUE,
        "Deliveries that were taken over from a worker that had stopped renewing them.",
    ),
    Metric("penstock_tasks_lease_lost_total", "counter", _QUEUE, "Attempts whose lease was lost while they ran."),
    Metric("penstock_dead_letters_trimmed_total", "counter", _QUEUE, "Dead letters deleted as there were too many."),
    Metric(
        "penstock_task_queue_wait_seconds", "histogram", _QUEUE,
        "From ready to start, of each attempt that was not taken over from a dead worker. "
        "Only what has started is in it: see the age of the oldest task, too.",
    ),
    Metric("penstock_task_run_duration_seconds", "histogram", _TASK, "How long each attempt ran."),
    Metric(
        "penstock_task_end_to_end_seconds", "histogram", _QUEUE,
        "From sent (or due, if it was scheduled) to its end, retries included, of tasks that succeeded or failed.",
    ),
    Metric("penstock_schedule_delay_seconds", "histogram", _QUEUE, "Due to ready, of scheduled tasks and retries."),
    Metric(
        "penstock_worker_info", "gauge", ("worker", "host", "pid", "version", "python"),
        "1 for each worker that was heard of within ten minutes and has not ended in order.",
    ),
    Metric(
        "penstock_worker_last_heartbeat_timestamp_seconds", "gauge", _WORKER,
        "When the worker was last heard of, by the server's clock.",
    ),
    Metric("penstock_worker_heartbeat_age_seconds", "gauge", _WORKER, "How long ago that was. A beat comes each 5 s."),
    Metric("penstock_worker_start_time_seconds", "gauge", _WORKER, "When the worker was started, by its own clock."),
    Metric("penstock_worker_slots", "gauge", _WORKER, "How many tasks it can run at once, of all kinds."),
    Metric("penstock_worker_busy_slots", "gauge", _WORKER, "How many it ran at its last heartbeat."),
    Metric("penstock_worker_resident_memory_bytes", "gauge", _WORKER, "Memory of the process."),
    Metric(
        "penstock_worker_event_loop_lag_seconds", "gauge", _WORKER,
        "The longest time that its event loop was late between the last two heartbeats.",
    ),
    Metric(
        "penstock_worker_event_loop_blocked_seconds_total", "counter", _WORKER,
        "For how long its event loop did not turn after it had been asked to, which is once a second; "
        "only what lasted for more than a second.",
    ),
    Metric("penstock_redis_up", "gauge", (), "1 if the last read from Redis succeeded, else 0."),
    Metric("penstock_redis_info", "gauge", ("node", "version", "role", "maxmemory_policy"), "1 for each server."),
    Metric("penstock_redis_memory_used_bytes", "gauge", _NODE, "Memory that the server uses."),
    Metric("penstock_redis_memory_max_bytes", "gauge", _NODE, "Its limit; 0: none."),
    Metric(
        "penstock_redis_noeviction", "gauge", _NODE,
        "1 if a full server refuses writes, 0 if it deletes keys: tasks would be lost.",
    ),
    Metric("penstock_redis_evicted_keys_total", "counter", _NODE, "Keys that the server deleted for want of memory."),
    Metric("penstock_redis_rejected_connections_total", "counter", _NODE, "Connections refused by its maxclients."),
    Metric("penstock_redis_clients", "gauge", _NODE, "Connections."),
    Metric("penstock_redis_clients_max", "gauge", _NODE, "How many it takes."),
    Metric("penstock_redis_clients_blocked", "gauge", _NODE, "Connections in a blocking command: idle workers."),
    Metric("penstock_redis_aof_enabled", "gauge", _NODE, "1 if it writes an append-only file."),
    Metric("penstock_redis_last_save_ok", "gauge", _NODE, "1 if its last snapshot and AOF write succeeded."),
    Metric("penstock_redis_clock_offset_seconds", "gauge", _NODE, "Its clock minus that of the exporter's host."),
    Metric("penstock_exporter_build_info", "gauge", ("version",), "1; the exporter's version."),
    Metric("penstock_exporter_scrape_duration_seconds", "gauge", (), "How long the last read from Redis took."),
    Metric("penstock_exporter_scrape_errors_total", "counter", (), "Reads that failed: all, a node, or a queue."),
    Metric(
        "penstock_exporter_folded_tasks", "gauge", _QUEUE,
        'Task names that are reported as task="other", because there are more than 200.',
    ),
)  # fmt: skip

#: What a worker tells of itself, at ``--metrics-port``.
LOCAL = (
    Metric("penstock_local_connected", "gauge", (), "1 while Redis answers this worker."),
    Metric("penstock_local_in_flight", "gauge", (), "Deliveries that it has in its hands."),
    Metric("penstock_local_unsettled", "gauge", (), "Outcomes that Redis has not got yet."),
    Metric("penstock_local_attempts_total", "counter", (), "Attempts that have ended here."),
)


def all_metrics() -> Iterator[Metric]:
    """Of the exporter and of workers, in the order of the docs."""
    yield from EXPORTED
    yield from LOCAL
