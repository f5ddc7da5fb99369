"""One queue (or several): what waits, who works on it, what becomes of its tasks."""

from __future__ import annotations

from typing import Any

from grafana.boards import shared
from grafana.boards.board import Board
from grafana.boards.panels import (
    FEW_ARE_WELL,
    NEUTRAL,
    NONE_IS_WELL,
    WAITING,
    Column,
    Limits,
    Series,
    distribution,
    lines,
    number,
    rows,
)
from grafana.boards.promql import QUEUE, gauge, increase, most, of_queues, quantile, rate, share, total, unpaused

_WAIT = "penstock_task_queue_wait_seconds"
_NAME = "{{queue}} ({{job}})"


def build() -> Board:
    """penstock / Queue."""
    board = Board("queue", "Queue", "One queue: what waits, who works on it, and what becomes of its tasks.")
    board.variable("queue", "Queue", 'label_values(penstock_queue_ready_tasks{job=~"$job"}, queue)')
    _now(board)
    board.row("What waits")
    _waiting(board)
    _waits(board)
    board.row("Who works")
    _working(board)
    board.row("What becomes of them")
    board.add(shared.added_and_ended(QUEUE), shared.outcomes(QUEUE), shared.reasons(QUEUE), width=8)
    _tasks(board)
    _losses(board)
    return board


def _now(board: Board) -> None:
    def figure(title: str, description: str, name: str, limits: Limits = NEUTRAL) -> Any:
        return number(title, description, "none", total(gauge(name, QUEUE)), limits)

    board.add(
        figure("Ready", "Tasks that wait for a worker.", "penstock_queue_ready_tasks"),
        number(
            "Oldest ready",
            "How long the first of them has waited. Above two minutes: PenstockOldestTaskTooOld. Paused queues are left out.",
            "s",
            unpaused("max", "oldest_ready_age_seconds", QUEUE),
            WAITING,
            decimals=None,
        ),
        figure("Running", "Tasks that were handed to a worker and have not ended.", "penstock_queue_pending_tasks"),
        figure("Scheduled", "Tasks that wait for their time, or for a retry.", "penstock_queue_scheduled_tasks"),
        figure(
            "Dead letters",
            "Tasks that failed for good: `penstock dead list -Q QUEUE`. More of them: PenstockDeadLetters.",
            "penstock_queue_dead_tasks",
            FEW_ARE_WELL,
        ),
        number(
            "Paused",
            "How many of the queues are paused: nothing of them starts, and most alerts are silent. `penstock resume QUEUE`.",
            "none",
            f"sum({of_queues('paused', QUEUE)})",
            FEW_ARE_WELL,
        ),
        width=4,
        height=3,
    )


def _waiting(board: Board) -> None:
    board.add(
        lines(
            "Ready, by priority",
            "Priorities are streams of their own, read by weight: low waits longer, and does not starve.",
            "none",
            Series(total(gauge("penstock_queue_ready_tasks", QUEUE), "priority"), "{{priority}}"),
            stacked=True,
            decimals=0,
        ),
        lines(
            "Age of the oldest",
            "The first task that is ready, that a worker has, that is due. Ready: too few workers, PenstockOldestTaskTooOld. Running: a long task. Due: nobody makes it ready, PenstockSchedulerLate.",
            "s",
            Series(f"max({of_queues('oldest_ready_age_seconds', QUEUE)})", "ready"),
            Series(f"max({of_queues('oldest_pending_age_seconds', QUEUE)})", "running"),
            Series(f"max({of_queues('oldest_due_age_seconds', QUEUE)})", "due"),
        ),
        lines(
            "Running, scheduled, dead",
            "Scheduled tasks include retries; overdue are those whose time has come and that are not ready yet.",
            "none",
            Series(total(gauge("penstock_queue_pending_tasks", QUEUE)), "running"),
            Series(total(gauge("penstock_queue_scheduled_tasks", QUEUE)), "scheduled"),
            Series(total(gauge("penstock_queue_overdue_scheduled_tasks", QUEUE)), "overdue"),
            Series(total(gauge("penstock_queue_dead_tasks", QUEUE)), "dead"),
            decimals=0,
        ),
        width=8,
    )


def _waits(board: Board) -> None:
    def late(window: str) -> Series:
        ratio = most(f"queue:penstock_task_queue_wait_slow:ratio_rate{window}", QUEUE, "job, queue")
        return Series(f"max({ratio})", window)

    board.add(
        distribution(
            "Waits",
            "How many tasks a second waited how long from ready to start. Only what has started is in it.",
            "s",
            total(rate(f"{_WAIT}_bucket", QUEUE), "le"),
        ),
        lines(
            "Wait, delay of schedules, end to end",
            "p95 of: ready to start; due to ready; sent (or due) to the end, retries included.",
            "s",
            Series(quantile(0.95, _WAIT, QUEUE), "wait"),
            Series(quantile(0.95, "penstock_schedule_delay_seconds", QUEUE), "schedule delay"),
            Series(quantile(0.95, "penstock_task_end_to_end_seconds", QUEUE), "end to end"),
        ),
        lines(
            "Started late",
            "Share of the tasks that waited longer than 30 s, over 5 minutes, an hour, and six: of the queue where it is greatest. The aim is 1 % in 30 days. Above 14.4 % for an hour: PenstockWaitBudgetBurnFast; above 6 % for six: PenstockWaitBudgetBurnSlow.",
            "percentunit",
            *map(late, ("5m", "1h", "6h")),
            limit=0.144,
        ),
        width=8,
    )


def _working(board: Board) -> None:
    board.add(
        lines(
            "Slots taken",
            "Share of the slots of the workers that serve the queue, by tasks of any queue: of the kind (async, thread, process) that is fullest. Near all: PenstockSaturated.",
            "percentunit",
            Series(share(of_queues("busy_slots", QUEUE), of_queues("slots", QUEUE)), _NAME),
            limit=0.9,
        ),
        lines(
            "Workers",
            "Workers that serve the queue and live, and consumers of its group, also those that are gone: workers remove them after a while. No worker: PenstockQueueWithoutWorkers.",
            "none",
            Series(of_queues("live_workers", QUEUE), _NAME),
            Series(of_queues("consumers", QUEUE), f"{_NAME}: consumers"),
            decimals=0,
        ),
        lines(
            "Leases",
            "Tasks that nobody renews (PenstockOverdueLeases), and tasks that run for the second time or more, since a worker died with them.",
            "none",
            Series(total(gauge("penstock_queue_overdue_leases", QUEUE)), "overdue"),
            Series(total(gauge("penstock_queue_redelivered_pending_tasks", QUEUE)), "delivered again"),
            decimals=0,
        ),
        shared.taken_over(QUEUE),
        width=6,
    )


def _tasks(board: Board) -> None:
    by, run = "job, queue, task", "penstock_task_run_duration_seconds"

    ended = f"round({total(increase('penstock_tasks_finished_total', QUEUE), by)})"

    def counted(name: str, selector: str = QUEUE) -> str:
        # Of what has never happened there is no series.
        return f"round({total(increase(name, selector), by)}) or 0 * {ended}"

    p90 = f"histogram_quantile(0.9, {total(increase(f'{run}_bucket', QUEUE), f'{by}, le')})"
    board.add(
        rows(
            "Tasks",
            "By name, over the time that is shown: how many ended, failed and were retried, how long they ran together, and the run time that a tenth of them exceeds; those that failed most often first. A click on the name opens the task's dashboard.",
            "task",
            [
                Column("ended", "none", ended),
                Column(
                    "failed",
                    "none",
                    counted("penstock_tasks_finished_total", f'{QUEUE}, outcome="failed"'),
                    NONE_IS_WELL,
                ),
                Column("retried", "none", counted("penstock_tasks_retried_total"), FEW_ARE_WELL),
                Column("run time, all", "s", total(increase(f"{run}_sum", QUEUE), by)),
                Column("run time, p90", "s", p90),
            ],
            worst=("failed", "run time, all"),
            link="/d/penstock-task?var-job=${__data.fields.job}&var-queue=${__data.fields.queue}&var-task=${__value.text}",
        ),
        width=24,
    )


def _losses(board: Board) -> None:
    board.add(
        lines(
            "Returned, by reason",
            "Deliveries that went back without an attempt spent. released: a worker shut down; snoozed: the task asked for it; unknown: the worker does not have the task (a deployment?).",
            "ops",
            Series(total(rate("penstock_tasks_returned_total", QUEUE), "reason"), "{{reason}}"),
        ),
        lines(
            "Dead letters deleted",
            "Dropped because there are more than 10,000 (dead_max): they cannot be sent again.",
            "ops",
            Series(total(rate("penstock_dead_letters_trimmed_total", QUEUE)), "deleted"),
        ),
        width=12,
    )
