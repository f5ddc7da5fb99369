"""The workers: who lives, how full and how large they are, and whether their event loops turn."""

from __future__ import annotations

from grafana.boards.board import GREEN, ORANGE, RED, Board, Query, lines, number, rows
from grafana.boards.promql import WORKER, increase, most

_HEARD = "penstock_worker_heartbeat_age_seconds"


def build() -> Board:
    """penstock / Worker."""
    board = Board("worker", "Worker", "The worker processes: who lives, how full they are, and whether they are well.")
    board.variable("worker", "Worker", 'label_values(penstock_worker_info{job=~"$job"}, worker)')
    alive = f"count({most(_HEARD, WORKER, 'job, worker')} <= 20) or vector(0)"
    silent = f"count({most(_HEARD, WORKER, 'job, worker')} > 20) or vector(0)"
    slots, busy = (f"sum({most(f'penstock_worker_{name}', WORKER, 'job, worker')})" for name in ("slots", "busy_slots"))
    board.add(
        number(
            "Living",
            "Heard of within 20 s; each sends a heartbeat every 5 s.",
            "none",
            Query(alive),
            ((None, RED), (1, GREEN)),
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Silent",
            "Not heard of for more than 20 s, and not ended in order: killed, or hanging. They are shown for ten minutes. PenstockWorkerHeartbeatStale.",
            "none",
            Query(silent),
            ((None, GREEN), (1, RED)),
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Slots taken",
            "Of all kinds. A single kind may be full before: see the queue's dashboard.",
            "percentunit",
            Query(f"{busy} / ({slots} > 0)"),
            ((None, GREEN), (0.8, ORANGE), (0.95, RED)),
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Memory",
            "Of all workers together.",
            "bytes",
            Query(f"sum({most('penstock_worker_resident_memory_bytes', WORKER, 'job, worker')})"),
        ),
        4,
        4,
    )
    board.add(
        number(
            "Greatest lag",
            "The longest time that an event loop was late between two heartbeats. Much more than 100 ms: a task computes, or blocks.",
            "s",
            Query(f"max({most('penstock_worker_event_loop_lag_seconds', WORKER, 'job, worker')})"),
            ((None, GREEN), (0.1, ORANGE), (1, RED)),
        ),
        4,
        4,
    )
    board.add(
        number(
            "Versions",
            "How many versions of penstock run. Two during a deployment; else somebody was left behind.",
            "none",
            Query(f"count({most('penstock_worker_info', WORKER, 'version')})"),
            ((None, GREEN), (2, ORANGE)),
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        rows(
            "Workers",
            "Every worker at this moment. heard: since its last heartbeat.",
            "worker",
            [
                (
                    "heard",
                    "s",
                    Query(
                        f"max by (worker, host, pid, version, python) (penstock_worker_info{{{WORKER}}}) * on (worker) group_left () {most(_HEARD, WORKER, 'worker')}",
                        instant=True,
                    ),
                    ((None, GREEN), (20, RED)),
                ),
                (
                    "up",
                    "s",
                    Query(f"time() - {most('penstock_worker_start_time_seconds', WORKER, 'worker')}", instant=True),
                    (),
                ),
                ("slots", "none", Query(most("penstock_worker_slots", WORKER, "worker"), instant=True), ()),
                ("taken", "none", Query(most("penstock_worker_busy_slots", WORKER, "worker"), instant=True), ()),
                (
                    "memory",
                    "bytes",
                    Query(most("penstock_worker_resident_memory_bytes", WORKER, "worker"), instant=True),
                    (),
                ),
                (
                    "lag",
                    "s",
                    Query(most("penstock_worker_event_loop_lag_seconds", WORKER, "worker"), instant=True),
                    ((None, GREEN), (0.1, ORANGE), (1, RED)),
                ),
            ],
        ),
        24,
        9,
    )
    board.row("Over time")
    board.add(
        lines(
            "Age of the last heartbeat",
            "5 s at most in good times. A line that climbs is a worker that died or hangs: PenstockWorkerHeartbeatStale.",
            "s",
            [Query(most(_HEARD, WORKER, "worker"), "{{worker}}")],
            limit=30,
        ),
        12,
    )
    board.add(
        lines(
            "Slots taken",
            "Tasks that each worker runs, at its heartbeats.",
            "none",
            [Query(most("penstock_worker_busy_slots", WORKER, "worker"), "{{worker}}")],
            stacked=True,
            decimals=0,
        ),
        12,
    )
    board.add(
        lines(
            "Memory",
            "Resident. One that climbs without end is a leak; `--max-rss` replaces such a worker in order.",
            "bytes",
            [Query(most("penstock_worker_resident_memory_bytes", WORKER, "worker"), "{{worker}}")],
        ),
        8,
    )
    board.add(
        lines(
            "Lag of the event loop",
            "The greatest between two heartbeats.",
            "s",
            [Query(most("penstock_worker_event_loop_lag_seconds", WORKER, "worker"), "{{worker}}")],
        ),
        8,
    )
    board.add(
        lines(
            "Event loop blocked",
            "Seconds of each step in which it did not turn for more than a second at a stretch. The worker's log names the task: PenstockEventLoopBlocked.",
            "s",
            [
                Query(
                    f"max by (worker) ({increase('penstock_worker_event_loop_blocked_seconds_total', WORKER)})",
                    "{{worker}}",
                )
            ],
        ),
        8,
    )
    board.add(
        lines(
            "Since its start",
            "For how long each worker has run. Short lines, again and again: workers die, and the supervisor starts others.",
            "s",
            [Query(f"time() - {most('penstock_worker_start_time_seconds', WORKER, 'worker')}", "{{worker}}")],
        ),
        12,
    )
    board.add(
        lines(
            "Last heartbeat",
            "When each was heard of last, as seconds ago by Prometheus's clock: it differs from the first panel only if clocks do.",
            "s",
            [
                Query(
                    f"time() - {most('penstock_worker_last_heartbeat_timestamp_seconds', WORKER, 'worker')}",
                    "{{worker}}",
                )
            ],
        ),
        12,
    )
    return board
