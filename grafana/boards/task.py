"""One task (or several): how often, how long, how well."""

from __future__ import annotations

from grafana.boards import shared
from grafana.boards.board import Board
from grafana.boards.panels import (
    FAILING,
    GREEN,
    ORANGE,
    Series,
    distribution,
    lines,
    number,
)
from grafana.boards.promql import LATELY, QUEUE, TASK, at_present, failing, known, quantile, rate, total

_RUN = "penstock_task_run_duration_seconds"
_ENDED = rate("penstock_tasks_finished_total", TASK)
_END, _OURS = "penstock_task_end_to_end_seconds", f"penstock_tasks_finished_total{{{TASK}}}"
_EACH, _NAME = "job, task", "{{task}} ({{job}})"


def build() -> Board:
    """penstock / Task."""
    board = Board("task", "Task", "One task: how often it runs, how long it takes, and how it ends.")
    board.variable("queue", "Queue", 'label_values(penstock_queue_ready_tasks{job=~"$job"}, queue)')
    board.variable("task", "Task", 'label_values(penstock_tasks_finished_total{job=~"$job", queue=~"$queue"}, task)')
    _now(board)
    board.row("How often, and how it ends")
    _endings(board)
    board.row("How long")
    _times(board)
    return board


def _now(board: Board) -> None:
    def lately(name: str) -> str:
        return known(total(rate(name, TASK, LATELY)))

    board.add(
        number(
            "Ended",
            "A second, within 5 minutes, however it ended.",
            "ops",
            lately("penstock_tasks_finished_total"),
            decimals=2,
        ),
        number(
            "Failing",
            "Share of those that ended within 5 minutes which failed for good. PenstockErrorRatioHigh looks at the whole queue.",
            "percentunit",
            known(failing(TASK, window=LATELY)),
            FAILING,
            decimals=1,
        ),
        number(
            "Retried",
            "Attempts a second, within 5 minutes, that failed and run again.",
            "ops",
            lately("penstock_tasks_retried_total"),
            ((None, GREEN), (0.01, ORANGE)),
            decimals=2,
        ),
        number(
            "Run time, p95",
            "95 of 100 attempts are shorter, of those of 5 minutes. Unknown: there was none.",
            "s",
            at_present(quantile(0.95, _RUN, TASK, window=LATELY)),
            decimals=None,
        ),
        width=6,
        height=3,
    )


def _endings(board: Board) -> None:
    board.add(
        shared.outcomes(TASK),
        lines(
            "Ended per second, by task",
            "The tasks that are chosen above, beside each other.",
            "ops",
            Series(total(_ENDED, _EACH), _NAME),
        ),
        width=12,
    )
    board.add(
        lines(
            "Share that fails, by task",
            "Of those that ended. Look at `penstock dead list` for why; PenstockErrorRatioHigh.",
            "percentunit",
            Series(failing(TASK, _EACH), _NAME),
            limit=0.05,
        ),
        shared.reasons(TASK),
        lines(
            "Retried and returned per second",
            "Retries spend an attempt; what is snoozed, released at a shutdown or unknown to a worker does not.",
            "ops",
            Series(known(total(rate("penstock_tasks_retried_total", TASK))), "retried"),
            Series(total(rate("penstock_tasks_returned_total", TASK), "reason"), "{{reason}}"),
        ),
        width=8,
    )


def _times(board: Board) -> None:
    board.add(
        distribution(
            "Run times",
            "How many attempts a second took how long.",
            "s",
            total(rate(f"{_RUN}_bucket", TASK), "le"),
        ),
        lines(
            "Run time",
            "Of attempts. A p99 far above the p50: few are slow; all of them rising: what it calls has become slow.",
            "s",
            *(Series(quantile(q, _RUN, TASK), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
        ),
        width=12,
    )
    board.add(
        lines(
            "Run time, p95, by task",
            "The tasks that are chosen above, beside each other.",
            "s",
            Series(quantile(0.95, _RUN, TASK, _EACH), _NAME),
        ),
        lines(
            "Slots taken, by task",
            "Run time per second: how many slots each task takes on average. Who takes most makes others wait.",
            "none",
            Series(total(rate(f"{_RUN}_sum", TASK), _EACH), _NAME),
            stacked=True,
        ),
        lines(
            "End to end, of its queues",
            "From sent (or due) to the end, retries included: of all tasks of the queues that have this one.",
            "s",
            *(Series(quantile(q, _END, QUEUE, of=_OURS), f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
        ),
        width=8,
    )
