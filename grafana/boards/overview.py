"""Is anything wrong, and where?"""

from __future__ import annotations

from grafana.boards.board import GREEN, ORANGE, RED, Board, Query, lines, number, rows, timeline
from grafana.boards.promql import JOB, gauge, most, quantile, rate, total

_BUSY, _SLOTS = (most(f"penstock_queue_{name}", JOB, "job, queue") for name in ("busy_slots", "slots"))
_FULL = f"max({_BUSY} / ({_SLOTS} > 0)) or vector(0)"
_FAILED = rate("penstock_tasks_finished_total", f'{JOB}, outcome="failed"')
_ENDED = rate("penstock_tasks_finished_total", JOB)


def build() -> Board:
    """penstock / Overview."""
    board = Board("overview", "Overview", "All queues of penstock: is anything wrong, and where?")
    board.add(
        number(
            "Ready",
            "Tasks that wait for a worker, of all queues. Some are normal; look whether they grow, and for how long the oldest has waited.",
            "none",
            Query(total(gauge("penstock_queue_ready_tasks", JOB))),
            decimals=0,
        ),
        3,
        4,
    )
    board.add(
        number(
            "Oldest ready",
            "How long the task that has waited longest has waited. Above two minutes PenstockOldestTaskTooOld fires.",
            "s",
            Query(f"max({most('penstock_queue_oldest_ready_age_seconds', JOB, 'job, queue')})"),
            ((None, GREEN), (30, ORANGE), (120, RED)),
        ),
        3,
        4,
    )
    board.add(
        number(
            "Slots taken",
            "Share of their slots in which the workers of a queue run a task: of the queue whose workers are fullest. Near 100 % its tasks wait for others to end, PenstockSaturated.",
            "percentunit",
            Query(_FULL),
            ((None, GREEN), (0.8, ORANGE), (0.95, RED)),
            decimals=0,
        ),
        3,
        4,
    )
    board.add(
        number(
            "Living workers",
            "Worker processes that were heard of within 20 s. 0: nobody does anything, see PenstockQueueWithoutWorkers.",
            "none",
            Query(
                'count(max by (job, worker) (penstock_worker_heartbeat_age_seconds{job=~"$job"}) <= 20) or vector(0)'
            ),
            ((None, RED), (1, GREEN)),
            decimals=0,
        ),
        3,
        4,
    )
    board.add(
        number(
            "Ended per second",
            "Tasks that ended, however they did.",
            "ops",
            Query(total(_ENDED)),
            decimals=1,
        ),
        3,
        4,
    )
    board.add(
        number(
            "Failing",
            "Share of the tasks that ended which failed for good. Above 5 % PenstockErrorRatioHigh fires.",
            "percentunit",
            Query(f"({total(_FAILED)} or vector(0)) / ({total(_ENDED)} > 0) or vector(0)"),
            ((None, GREEN), (0.01, ORANGE), (0.05, RED)),
            decimals=1,
        ),
        3,
        4,
    )
    board.add(
        number(
            "Dead letters",
            "Tasks that failed for good and are kept for a week: `penstock dead list`. PenstockDeadLetters fires when there are more.",
            "none",
            Query(total(gauge("penstock_queue_dead_tasks", JOB))),
            ((None, GREEN), (1, ORANGE)),
            decimals=0,
        ),
        3,
        4,
    )
    board.add(
        number(
            "Overdue leases",
            "Tasks whose worker no longer renews them, and that nobody has taken over yet. For ten minutes: PenstockOverdueLeases.",
            "none",
            Query(total(gauge("penstock_queue_overdue_leases", JOB))),
            ((None, GREEN), (1, ORANGE), (10, RED)),
            decimals=0,
        ),
        3,
        4,
    )
    board.add(
        timeline(
            "Alerts",
            "Alerts of penstock that fire, each with the queue, worker or server that it is about. None: nothing is shown. The runbook says what to do.",
            Query(
                'max by (alertname, queue, worker, node) (ALERTS{alertname=~"Penstock.*", alertstate="firing", job=~"$job|"})',
                "{{alertname}} {{queue}}{{worker}}{{node}}",
            ),
        ),
        24,
        5,
    )
    _queues(board)
    _flow(board)
    return board


def _queues(board: Board) -> None:
    def column(
        title: str, unit: str, expr: str, *steps: tuple[float | None, str]
    ) -> tuple[str, str, Query, tuple[tuple[float | None, str], ...]]:
        return title, unit, Query(expr, instant=True), steps

    def total_of(name: str) -> str:
        return total(gauge(name, JOB), "queue")

    def most_of(name: str) -> str:
        return most(name, JOB, "queue")

    board.add(
        rows(
            "Queues",
            "Every queue at this moment. A click on its name opens its own dashboard.",
            "queue",
            [
                column("ready", "none", total_of("penstock_queue_ready_tasks")),
                column(
                    "oldest",
                    "s",
                    most_of("penstock_queue_oldest_ready_age_seconds"),
                    (None, GREEN),
                    (30, ORANGE),
                    (120, RED),
                ),
                column("running", "none", total_of("penstock_queue_pending_tasks")),
                column("scheduled", "none", total_of("penstock_queue_scheduled_tasks")),
                column(
                    "late", "s", most_of("penstock_queue_oldest_due_age_seconds"), (None, GREEN), (1, ORANGE), (30, RED)
                ),
                column("dead", "none", total_of("penstock_queue_dead_tasks"), (None, GREEN), (1, ORANGE)),
                column("workers", "none", most_of("penstock_queue_live_workers"), (None, RED), (1, GREEN)),
                column(
                    "slots taken",
                    "percentunit",
                    f"{most_of('penstock_queue_busy_slots')} / ({most_of('penstock_queue_slots')} > 0)",
                    (None, GREEN),
                    (0.8, ORANGE),
                    (0.95, RED),
                ),
                column("paused", "bool_yes_no", most_of("penstock_queue_paused")),
            ],
            "/d/penstock-queue?${job:queryparam}&var-queue=${__value.text}&${__url_time_range}",
        ),
        24,
        8,
    )


def _flow(board: Board) -> None:
    board.row("Over time")
    board.add(
        lines(
            "Ready, by queue",
            "Tasks that wait. A line that climbs and does not come back: too few workers, or none.",
            "none",
            [Query(total(gauge("penstock_queue_ready_tasks", JOB), "queue"), "{{queue}}")],
            decimals=0,
        ),
        12,
    )
    board.add(
        lines(
            "Age of the oldest ready task, by queue",
            "For how long the first of each queue has waited. It grows by a second each second while nobody does anything.",
            "s",
            [Query(most("penstock_queue_oldest_ready_age_seconds", JOB, "queue"), "{{queue}}")],
            limit=120,
        ),
        12,
    )
    board.add(
        lines(
            "Ended per second, by outcome",
            "Succeeded, failed (dead letters), cancelled, expired.",
            "ops",
            [Query(total(_ENDED, "outcome"), "{{outcome}}")],
            stacked=True,
        ),
        12,
    )
    board.add(
        lines(
            "Added and ended per second",
            "What comes (new tasks, and scheduled ones and retries that became ready) beside what goes. If more comes than goes, tasks pile up. Redis 6.2 does not count what comes.",
            "ops",
            [
                Query(total(rate("penstock_queue_entries_added_total", JOB)), "added"),
                Query(total(_ENDED), "ended"),
                Query(f"{total(rate('penstock_tasks_retried_total', JOB))} or vector(0)", "retried"),
            ],
        ),
        12,
    )
    board.add(
        lines(
            "Wait from ready to start",
            "Of tasks that have started. While a queue stands still it stays where it was: look at the age of the oldest, too.",
            "s",
            [Query(quantile(q, "penstock_task_queue_wait_seconds", JOB), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)],
            limit=30,
        ),
        12,
    )
    board.add(
        lines(
            "Taken over, and leases lost",
            "Deliveries taken over from workers that died or hang, and attempts whose worker lost its lease while they ran. Both are 0 in good times; PenstockRedeliveryStorm.",
            "ops",
            [
                Query(total(rate("penstock_tasks_redelivered_total", JOB)), "taken over"),
                Query(total(rate("penstock_tasks_lease_lost_total", JOB)), "leases lost"),
            ],
        ),
        12,
    )
