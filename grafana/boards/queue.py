"""One queue (or several): what waits, who works on it, what becomes of its tasks."""

from __future__ import annotations

from grafana.boards.board import GREEN, ORANGE, RED, Board, Query, distribution, lines, number, rows
from grafana.boards.promql import QUEUE, gauge, increase, most, quantile, rate, total

_WAIT = "penstock_task_queue_wait_seconds"


def build() -> Board:
    """penstock / Queue."""
    board = Board("queue", "Queue", "One queue: what waits, who works on it, and what becomes of its tasks.")
    board.variable("queue", "Queue", 'label_values(penstock_queue_ready_tasks{job=~"$job"}, queue)')
    _now(board)
    _waiting(board)
    _working(board)
    _endings(board)
    return board


def _now(board: Board) -> None:
    def figure(title: str, text: str, name: str, *steps: tuple[float | None, str], unit: str = "none") -> None:
        board.add(
            number(title, text, unit, Query(total(gauge(name, QUEUE))), steps or ((None, "blue"),), decimals=0), 4, 4
        )

    figure("Ready", "Tasks that wait for a worker.", "penstock_queue_ready_tasks")
    board.add(
        number(
            "Oldest ready",
            "How long the first of them has waited. Above two minutes: PenstockOldestTaskTooOld.",
            "s",
            Query(f"max({most('penstock_queue_oldest_ready_age_seconds', QUEUE, 'job, queue')})"),
            ((None, GREEN), (30, ORANGE), (120, RED)),
        ),
        4,
        4,
    )
    figure("Running", "Tasks that were handed to a worker and have not ended.", "penstock_queue_pending_tasks")
    figure("Scheduled", "Tasks that wait for their time, or for a retry.", "penstock_queue_scheduled_tasks")
    figure(
        "Dead letters",
        "Tasks that failed for good: `penstock dead list -Q QUEUE`. More of them: PenstockDeadLetters.",
        "penstock_queue_dead_tasks",
        (None, GREEN),
        (1, ORANGE),
    )
    figure(
        "Paused",
        "1 for each queue that is paused: nothing of it starts, and most alerts are silent. `penstock resume QUEUE`.",
        "penstock_queue_paused",
        (None, GREEN),
        (1, ORANGE),
    )


def _waiting(board: Board) -> None:
    board.row("What waits")
    board.add(
        lines(
            "Ready, by priority",
            "Priorities are streams of their own, read by weight: low waits longer, and does not starve.",
            "none",
            [Query(total(gauge("penstock_queue_ready_tasks", QUEUE), "priority"), "{{priority}}")],
            stacked=True,
            decimals=0,
        ),
        8,
    )
    board.add(
        lines(
            "Age of the oldest",
            "The first task that is ready, that a worker has, that is due. Ready: too few workers, PenstockOldestTaskTooOld. Running: a long task. Due: nobody makes it ready, PenstockSchedulerLate.",
            "s",
            [
                Query(f"max({most('penstock_queue_oldest_ready_age_seconds', QUEUE, 'job, queue')})", "ready"),
                Query(f"max({most('penstock_queue_oldest_pending_age_seconds', QUEUE, 'job, queue')})", "running"),
                Query(f"max({most('penstock_queue_oldest_due_age_seconds', QUEUE, 'job, queue')})", "due"),
            ],
        ),
        8,
    )
    board.add(
        lines(
            "Running, scheduled, dead",
            "Scheduled tasks include retries; overdue are those whose time has come and that are not ready yet.",
            "none",
            [
                Query(total(gauge("penstock_queue_pending_tasks", QUEUE)), "running"),
                Query(total(gauge("penstock_queue_scheduled_tasks", QUEUE)), "scheduled"),
                Query(total(gauge("penstock_queue_overdue_scheduled_tasks", QUEUE)), "overdue"),
                Query(total(gauge("penstock_queue_dead_tasks", QUEUE)), "dead"),
            ],
            decimals=0,
        ),
        8,
    )
    board.add(
        distribution(
            "Waits",
            "How many tasks waited how long from ready to start, at each moment. Only what has started is in it.",
            "s",
            Query(total(increase(f"{_WAIT}_bucket", QUEUE), "le"), "{{le}}"),
        ),
        12,
    )
    board.add(
        lines(
            "Wait, delay of schedules, end to end",
            "p95 of: ready to start; due to ready; sent (or due) to the end, retries included.",
            "s",
            [
                Query(quantile(0.95, _WAIT, QUEUE), "wait"),
                Query(quantile(0.95, "penstock_schedule_delay_seconds", QUEUE), "schedule delay"),
                Query(quantile(0.95, "penstock_task_end_to_end_seconds", QUEUE), "end to end"),
            ],
        ),
        12,
    )


def _working(board: Board) -> None:
    board.row("Who works")
    board.add(
        lines(
            "Slots and workers",
            "Slots of the workers that serve the queue (of the kind that is fullest), how many of them are taken, and how many workers live; with several queues chosen, a worker counts for each that it serves. Taken near all: PenstockSaturated; no worker: PenstockQueueWithoutWorkers.",
            "none",
            [
                Query(f"sum({most('penstock_queue_slots', QUEUE, 'job, queue')})", "slots"),
                Query(f"sum({most('penstock_queue_busy_slots', QUEUE, 'job, queue')})", "taken"),
                Query(f"sum({most('penstock_queue_live_workers', QUEUE, 'job, queue')})", "workers"),
            ],
            decimals=0,
        ),
        8,
    )
    board.add(
        lines(
            "Leases",
            "Tasks that nobody renews (PenstockOverdueLeases), and tasks that run for the second time or more, since a worker died with them.",
            "none",
            [
                Query(total(gauge("penstock_queue_overdue_leases", QUEUE)), "overdue"),
                Query(total(gauge("penstock_queue_redelivered_pending_tasks", QUEUE)), "delivered again"),
                Query(total(gauge("penstock_queue_consumers", QUEUE)), "consumers"),
            ],
            decimals=0,
        ),
        8,
    )
    board.add(
        lines(
            "Taken over, and leases lost",
            "Per second. PenstockRedeliveryStorm.",
            "ops",
            [
                Query(total(rate("penstock_tasks_redelivered_total", QUEUE)), "taken over"),
                Query(total(rate("penstock_tasks_lease_lost_total", QUEUE)), "leases lost"),
            ],
        ),
        8,
    )


def _endings(board: Board) -> None:
    board.row("What becomes of them")
    ended = rate("penstock_tasks_finished_total", QUEUE)
    board.add(
        lines(
            "Added and ended per second",
            "What comes beside what goes, retries with it.",
            "ops",
            [
                Query(total(rate("penstock_queue_entries_added_total", QUEUE)), "added"),
                Query(total(ended), "ended"),
                Query(f"{total(rate('penstock_tasks_retried_total', QUEUE))} or vector(0)", "retried"),
            ],
        ),
        8,
    )
    board.add(
        lines(
            "Ended per second, by outcome",
            "Failed ones are dead letters; PenstockErrorRatioHigh.",
            "ops",
            [Query(total(ended, "outcome"), "{{outcome}}")],
            stacked=True,
        ),
        8,
    )
    board.add(
        lines(
            "Failures, by reason",
            "Tasks that failed for good in each step. error: what the code raised; timeout; rejected: by the task itself; max_deliveries: its workers died; unknown_task: nobody has it.",
            "none",
            [Query(total(increase("penstock_task_failures_total", QUEUE), "reason"), "{{reason}}")],
            stacked=True,
        ),
        8,
    )
    board.add(
        rows(
            "Tasks",
            "By name, over the time that is shown: how many ended, failed and were retried, how long they ran together, and the longest tenth of a run. A click on the name opens the task's dashboard.",
            "task",
            [
                (
                    "ended",
                    "none",
                    Query(
                        f"sum by (task) (max without (instance, pod, endpoint, container) (increase(penstock_tasks_finished_total{{{QUEUE}}}[$__range])))",
                        instant=True,
                    ),
                    (),
                ),
                (
                    "failed",
                    "none",
                    Query(
                        f'sum by (task) (max without (instance, pod, endpoint, container) (increase(penstock_tasks_finished_total{{{QUEUE}, outcome="failed"}}[$__range])))',
                        instant=True,
                    ),
                    ((None, GREEN), (1, RED)),
                ),
                (
                    "retried",
                    "none",
                    Query(
                        f"sum by (task) (max without (instance, pod, endpoint, container) (increase(penstock_tasks_retried_total{{{QUEUE}}}[$__range])))",
                        instant=True,
                    ),
                    ((None, GREEN), (1, ORANGE)),
                ),
                (
                    "run time, all",
                    "s",
                    Query(
                        f"sum by (task) (max without (instance, pod, endpoint, container) (increase(penstock_task_run_duration_seconds_sum{{{QUEUE}}}[$__range])))",
                        instant=True,
                    ),
                    (),
                ),
                (
                    "run time, p90",
                    "s",
                    Query(
                        f"histogram_quantile(0.9, sum by (task, le) (max without (instance, pod, endpoint, container) (rate(penstock_task_run_duration_seconds_bucket{{{QUEUE}}}[$__range]))))",
                        instant=True,
                    ),
                    (),
                ),
            ],
            "/d/penstock-task?${job:queryparam}&${queue:queryparam}&var-task=${__value.text}&${__url_time_range}",
        ),
        24,
        8,
    )
    board.add(
        lines(
            "Returned, by reason",
            "Deliveries that went back without an attempt spent. released: a worker shut down; snoozed: the task asked for it; unknown: the worker does not have the task (a deployment?).",
            "ops",
            [Query(f"{total(rate('penstock_tasks_returned_total', QUEUE), 'reason')}", "{{reason}}")],
        ),
        12,
    )
    board.add(
        lines(
            "Dead letters deleted",
            "Dropped because there are more than 10,000 (dead_max): they cannot be sent again.",
            "ops",
            [Query(total(rate("penstock_dead_letters_trimmed_total", QUEUE)), "deleted")],
        ),
        12,
    )
