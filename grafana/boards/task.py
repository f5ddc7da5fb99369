"""One task (or several): how often, how long, how well."""

from __future__ import annotations

from grafana.boards.board import GREEN, ORANGE, RED, Board, Query, distribution, lines, number
from grafana.boards.promql import QUEUE, TASK, increase, quantile, rate, total

_RUN = "penstock_task_run_duration_seconds"


def build() -> Board:
    """penstock / Task."""
    board = Board("task", "Task", "One task: how often it runs, how long it takes, and how it ends.")
    board.variable("queue", "Queue", 'label_values(penstock_queue_ready_tasks{job=~"$job"}, queue)')
    board.variable("task", "Task", 'label_values(penstock_tasks_finished_total{job=~"$job", queue=~"$queue"}, task)')
    ended = rate("penstock_tasks_finished_total", TASK)
    failed = rate("penstock_tasks_finished_total", f'{TASK}, outcome="failed"')
    retried = rate("penstock_tasks_retried_total", TASK)
    board.add(number("Ended per second", "However it ended.", "ops", Query(total(ended)), decimals=2), 6, 4)
    board.add(
        number(
            "Failing",
            "Share of those that ended which failed for good. PenstockErrorRatioHigh looks at the whole queue.",
            "percentunit",
            Query(f"({total(failed)} or vector(0)) / ({total(ended)} > 0) or vector(0)"),
            ((None, GREEN), (0.01, ORANGE), (0.05, RED)),
            decimals=1,
        ),
        6,
        4,
    )
    board.add(
        number(
            "Retried per second",
            "Attempts that failed and run again.",
            "ops",
            Query(f"{total(retried)} or vector(0)"),
            ((None, GREEN), (0.01, ORANGE)),
            decimals=2,
        ),
        6,
        4,
    )
    board.add(
        number(
            "Run time, p95",
            "95 of 100 attempts are shorter.",
            "s",
            Query(quantile(0.95, _RUN, TASK)),
        ),
        6,
        4,
    )
    board.row("How often, and how it ends")
    board.add(
        lines(
            "Ended per second, by outcome",
            "Succeeded, failed (a dead letter), cancelled, expired before its start.",
            "ops",
            [Query(total(ended, "outcome"), "{{outcome}}")],
            stacked=True,
        ),
        12,
    )
    board.add(
        lines(
            "Ended per second, by task",
            "The tasks that are chosen above, beside each other.",
            "ops",
            [Query(total(ended, "task"), "{{task}}")],
        ),
        12,
    )
    board.add(
        lines(
            "Share that fails, by task",
            "Of those that ended. Look at `penstock dead list` for why.",
            "percentunit",
            [
                Query(
                    f"({total(failed, 'task')} / ({total(ended, 'task')} > 0)) or {total(ended, 'task')} * 0",
                    "{{task}}",
                )
            ],
            limit=0.05,
        ),
        8,
    )
    board.add(
        lines(
            "Failures, by reason",
            "For good, in each step. timeout: longer than it may; max_deliveries: its workers died.",
            "none",
            [Query(total(increase("penstock_task_failures_total", TASK), "reason"), "{{reason}}")],
            stacked=True,
        ),
        8,
    )
    board.add(
        lines(
            "Retried and returned per second",
            "Retries spend an attempt; what is snoozed, released at a shutdown or unknown to a worker does not.",
            "ops",
            [
                Query(f"{total(retried)} or vector(0)", "retried"),
                Query(total(rate("penstock_tasks_returned_total", TASK), "reason"), "{{reason}}"),
            ],
        ),
        8,
    )
    board.row("How long")
    board.add(
        distribution(
            "Run times",
            "How many attempts took how long, at each moment.",
            "s",
            Query(total(increase(f"{_RUN}_bucket", TASK), "le"), "{{le}}"),
        ),
        12,
    )
    board.add(
        lines(
            "Run time",
            "Of attempts. A p99 far above the p50: few are slow; all of them rising: what it calls has become slow.",
            "s",
            [Query(quantile(q, _RUN, TASK), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)],
        ),
        12,
    )
    board.add(
        lines(
            "Run time, p95, by task",
            "The tasks that are chosen above, beside each other.",
            "s",
            [Query(quantile(0.95, _RUN, TASK, "task"), "{{task}}")],
        ),
        8,
    )
    board.add(
        lines(
            "Slots taken, by task",
            "Run time per second: how many slots each task takes on average. Who takes most makes others wait.",
            "none",
            [Query(total(rate(f"{_RUN}_sum", TASK), "task"), "{{task}}")],
            stacked=True,
        ),
        8,
    )
    board.add(
        lines(
            "End to end, of its queues",
            "From sent (or due) to the end, retries included: of the whole queue, not of the task alone.",
            "s",
            [Query(quantile(q, "penstock_task_end_to_end_seconds", QUEUE), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)],
        ),
        8,
    )
    return board
