"""Is anything wrong, and where?"""

from __future__ import annotations

from typing import Any

from grafana.boards import shared
from grafana.boards.board import Board
from grafana.boards.panels import (
    FAILING,
    FEW_ARE_WELL,
    FULL,
    GREEN,
    LATE,
    NONE_IS_WELL,
    ORANGE,
    RED,
    WAITING,
    YES_IS_WELL,
    Column,
    Series,
    lines,
    number,
    rows,
    timeline,
)
from grafana.boards.promql import (
    FIRING,
    JOB,
    LATELY,
    at_present,
    failing,
    gauge,
    known,
    of_queues,
    quantile,
    rate,
    share,
    total,
    unpaused,
)

_BY = "job, queue"
#: Is there while the rules are evaluated, and an exporter is scraped.
_RULES = f"max(job:penstock_redis_up:max{{{JOB}}})"


def build() -> Board:
    """penstock / Overview."""
    board = Board("overview", "Overview", "All queues of penstock: is anything wrong, and where?")
    _state(board)
    _amounts(board)
    board.add(_alerts(), width=24, height=5)
    board.add(_queues(), width=24, height=9)
    board.row("Over time")
    _course(board)
    return board


def _state(board: Board) -> None:
    ended = total(rate("penstock_tasks_finished_total", JOB, LATELY), _BY)
    worst = f"max({failing(JOB, _BY, LATELY)} and on (job, queue) {ended} > 0.05)"
    board.add(
        number(
            "Alerts that fire",
            "By Prometheus's rules. Which ones is shown below; the runbook says what to do. Unknown: the rules are not loaded, or no exporter is scraped (PenstockExporterDown).",
            "none",
            f"count(ALERTS{{{FIRING}}}) or 0 * {_RULES}",
            NONE_IS_WELL,
        ),
        shared.redis_answers(),
        shared.living(JOB),
        shared.silent(JOB),
        number(
            "Slots taken",
            "Share of their slots in which the workers of a queue run a task: of the queue whose workers are fullest. Near 100 % its tasks wait for others to end, PenstockSaturated.",
            "percentunit",
            known(f"max({share(of_queues('busy_slots', JOB), of_queues('slots', JOB))})"),
            FULL,
        ),
        number(
            "Failing",
            "Share of the tasks that ended within 5 minutes which failed for good: of the queue where it is greatest, if a task ends there every 20 s or oftener. Above 5 % PenstockErrorRatioHigh fires.",
            "percentunit",
            known(worst),
            FAILING,
            decimals=1,
        ),
        width=4,
        height=3,
    )


def _amounts(board: Board) -> None:
    def oldest(title: str, description: str, name: str, limits: Any) -> Any:
        description += " Paused queues are left out."
        return number(title, description, "s", unpaused("max", name, JOB), limits, decimals=None)

    board.add(
        number(
            "Ready",
            "Tasks that wait for a worker, of all queues. Some are normal; look whether they grow, and for how long the oldest has waited.",
            "none",
            total(gauge("penstock_queue_ready_tasks", JOB)),
        ),
        oldest(
            "Oldest ready",
            "How long the task that has waited longest has waited. Above two minutes PenstockOldestTaskTooOld fires.",
            "oldest_ready_age_seconds",
            WAITING,
        ),
        oldest(
            "Latest schedule",
            "For how long the scheduled task that is latest has been due without being made ready. Workers do that, each second: PenstockSchedulerLate.",
            "oldest_due_age_seconds",
            LATE,
        ),
        number(
            "Overdue leases",
            "Tasks whose worker no longer renews them, and that nobody has taken over yet. For ten minutes: PenstockOverdueLeases. Paused queues are left out.",
            "none",
            unpaused("sum", "overdue_leases", JOB),
            ((None, GREEN), (1, ORANGE), (10, RED)),
        ),
        number(
            "Dead letters",
            "Tasks that failed for good and are kept for a week: `penstock dead list`. PenstockDeadLetters fires when there are more.",
            "none",
            total(gauge("penstock_queue_dead_tasks", JOB)),
            FEW_ARE_WELL,
        ),
        number(
            "Ended per second",
            "Tasks that ended, however they did, within 5 minutes.",
            "ops",
            known(total(rate("penstock_tasks_finished_total", JOB, LATELY))),
            decimals=1,
        ),
        width=4,
        height=3,
    )


def _alerts() -> Any:
    firing = f'ALERTS{{{FIRING}, severity!="critical"}} or 2 * ALERTS{{{FIRING}, severity="critical"}}'
    # A state timeline without any series says "Data does not have a time field".
    none = f'label_replace(0 * {_RULES} unless on () ALERTS{{{FIRING}}}, "alertname", "none", "", "")'
    return timeline(
        "Alerts",
        "Alerts of penstock that fire, each with the queue, worker or server that it is about: orange ones can wait for the morning, red ones wake somebody. The runbook says what to do. Nothing at all: the rules are not loaded.",
        Series(
            f"max by (alertname, job, queue, worker, node) ({firing}) or {none}",
            "{{job}} {{alertname}} {{queue}}{{worker}}{{node}}",
        ),
        {0: ("none", GREEN), 1: ("warning", ORANGE), 2: ("critical", RED)},
    )


def _queues() -> Any:
    def counted(name: str) -> str:
        return total(gauge(f"penstock_queue_{name}", JOB), _BY)

    alerts = f'count by ({_BY}) (ALERTS{{{FIRING}, queue!=""}}) or 0 * queue:penstock_queue_ready_tasks:max{{{JOB}}}'
    slots = share(of_queues("busy_slots", JOB), of_queues("slots", JOB))
    return rows(
        "Queues",
        "Every queue at this moment, those about which alerts fire first, then those whose tasks have waited longest. late: for how long a scheduled task has been due. failing: share of those that ended within 5 minutes. A click on its name opens the queue's own dashboard.",
        "queue",
        [
            Column("alerts", "none", alerts, NONE_IS_WELL),
            Column("oldest", "s", of_queues("oldest_ready_age_seconds", JOB), WAITING),
            Column("ready", "none", counted("ready_tasks")),
            Column("running", "none", counted("pending_tasks")),
            Column("overdue", "none", counted("overdue_leases"), FEW_ARE_WELL),
            Column("scheduled", "none", counted("scheduled_tasks")),
            Column("late", "s", of_queues("oldest_due_age_seconds", JOB), LATE),
            Column("failing", "percentunit", at_present(failing(JOB, _BY, LATELY)), FAILING),
            Column("dead", "none", counted("dead_tasks"), FEW_ARE_WELL),
            Column("workers", "none", of_queues("live_workers", JOB), YES_IS_WELL),
            Column("slots taken", "percentunit", slots, FULL),
            Column("paused", "bool_yes_no", of_queues("paused", JOB)),
        ],
        worst=("alerts", "oldest"),
        link="/d/penstock-queue?var-job=${__data.fields.job}&var-queue=${__value.text}",
    )


def _course(board: Board) -> None:
    waits = [quantile(q, "penstock_task_queue_wait_seconds", JOB) for q in (0.5, 0.95, 0.99)]
    board.add(
        lines(
            "Ready, by queue",
            "Tasks that wait. A line that climbs and does not come back: too few workers, or none.",
            "none",
            Series(total(gauge("penstock_queue_ready_tasks", JOB), _BY), "{{queue}} ({{job}})"),
            decimals=0,
        ),
        lines(
            "Age of the oldest ready task, by queue",
            "For how long the first of each queue has waited. It grows by a second each second while nobody does anything.",
            "s",
            Series(of_queues("oldest_ready_age_seconds", JOB), "{{queue}} ({{job}})"),
            limit=120,
        ),
        lines(
            "Wait from ready to start",
            "Of tasks that have started. While a queue stands still it stays where it was: look at the age of the oldest, too.",
            "s",
            *(Series(wait, name) for wait, name in zip(waits, ("p50", "p95", "p99"), strict=True)),
            limit=30,
        ),
        shared.taken_over(JOB),
        shared.outcomes(JOB),
        shared.added_and_ended(JOB),
        width=12,
    )
