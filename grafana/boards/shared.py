"""Panels that are on more than one dashboard, of other series each time."""

from __future__ import annotations

from typing import Any

from grafana.boards.panels import NONE_IS_WELL, OUTCOMES, YES_IS_WELL, Limits, Series, lines, number
from grafana.boards.promql import JOB, UP, at_present, known, most, rate, total

#: No worker is there, and it is not that workers are not reported by name.
_NOBODY = f"0 * ({UP} unless on () max(penstock_queue_live_workers{{{JOB}}}) > 0)"
_BY_NAME = "Unknown also where the exporter does not report workers by name (`--no-workers`)."


def heard(selector: str) -> str:
    """How long ago each worker was heard of."""
    return most("penstock_worker_heartbeat_age_seconds", selector, "job, worker")


def redis_answers() -> Any:
    """Whether anything here is known."""
    return number(
        "Redis answers",
        "No: it does not answer the exporters (PenstockRedisDown), or a job has lost its exporters (PenstockExporterDown); what is not known is not shown. Yes, and a queue or a node is missing all the same: PenstockReadsFail.",
        "bool_yes_no",
        UP,
        YES_IS_WELL,
    )


def living(selector: str) -> Any:
    """How many workers."""
    said = "Worker processes that were heard of within 20 s; each sends a heartbeat every 5 s. 0: nobody does anything, see PenstockQueueWithoutWorkers."
    return _workers("Living workers", said, selector, "<= 20", YES_IS_WELL)


def silent(selector: str) -> Any:
    """How many workers died."""
    said = "Not heard of for more than 20 s, and not ended in order: killed, or hanging. They are shown for ten minutes. PenstockWorkerHeartbeatStale."
    return _workers("Silent workers", said, selector, "> 20", NONE_IS_WELL)


def _workers(title: str, description: str, selector: str, silence: str, limits: Limits) -> Any:
    ages = heard(selector)
    found = at_present(f"count({ages} {silence}) or 0 * count({ages}) or {_NOBODY}")
    return number(title, f"{description} {_BY_NAME}", "none", found, limits)


def taken_over(selector: str) -> Any:
    """What workers lose."""
    return lines(
        "Taken over, and leases lost",
        "Deliveries taken over from workers that died or hang, and attempts whose worker lost its lease while they ran. Both are 0 in good times; PenstockRedeliveryStorm.",
        "ops",
        Series(total(rate("penstock_tasks_redelivered_total", selector)), "taken over"),
        Series(total(rate("penstock_tasks_lease_lost_total", selector)), "leases lost"),
    )


def added_and_ended(selector: str) -> Any:
    """What comes and what goes."""
    return lines(
        "Added and ended per second",
        "What comes (new tasks, and scheduled ones and retries that became ready) beside what goes. If more comes than goes, tasks pile up. Redis 6.2 does not count what comes.",
        "ops",
        Series(total(rate("penstock_queue_entries_added_total", selector)), "added"),
        Series(total(rate("penstock_tasks_finished_total", selector)), "ended"),
        Series(known(total(rate("penstock_tasks_retried_total", selector))), "retried"),
    )


def outcomes(selector: str) -> Any:
    """How tasks end."""
    return lines(
        "Ended per second, by outcome",
        "Succeeded, failed (dead letters: PenstockDeadLetters, PenstockErrorRatioHigh), cancelled, expired before its start.",
        "ops",
        Series(total(rate("penstock_tasks_finished_total", selector), "outcome"), "{{outcome}}"),
        stacked=True,
        colours=OUTCOMES,
    )


def reasons(selector: str) -> Any:
    """Why tasks fail."""
    return lines(
        "Failures per second, by reason",
        "Tasks that failed for good. error: what the code raised; timeout: longer than it may; rejected: by the task itself; max_deliveries: its workers died; unknown_task: nobody has it.",
        "ops",
        Series(total(rate("penstock_task_failures_total", selector), "reason"), "{{reason}}"),
        stacked=True,
    )
