"""The workers: who lives, how full and how large they are, and whether their event loops turn."""

from __future__ import annotations

from typing import Any

from grafana.boards import shared
from grafana.boards.board import Board
from grafana.boards.panels import (
    FULL,
    GREEN,
    LAG,
    ORANGE,
    RED,
    Column,
    Series,
    lines,
    number,
    rows,
)
from grafana.boards.promql import WORKER, most, rate, share

_EACH = "job, worker"
_HEARD = shared.heard(WORKER)
#: Those that died are shown for ten minutes, as they were when they were heard of last.
_ALIVE = f"and on (job, worker) {_HEARD} <= 20"
_UP = f"time() - {most('penstock_worker_start_time_seconds', WORKER, _EACH)}"
_SLOTS = most("penstock_worker_slots", WORKER, _EACH)
_BUSY = most("penstock_worker_busy_slots", WORKER, _EACH)
_MEMORY = most("penstock_worker_resident_memory_bytes", WORKER, _EACH)
_LAG = most("penstock_worker_event_loop_lag_seconds", WORKER, _EACH)
#: A worker's name is its own, whatever the job.
_NAME = "{{worker}}"


def build() -> Board:
    """penstock / Worker."""
    board = Board("worker", "Worker", "The worker processes: who lives, how full they are, and whether they are well.")
    board.variable("worker", "Worker", 'label_values(penstock_worker_info{job=~"$job"}, worker)')
    _now(board)
    board.add(_workers(), width=24, height=9)
    board.row("Over time")
    _life(board)
    _loop(board)
    return board


def _now(board: Board) -> None:
    board.add(
        shared.living(WORKER),
        shared.silent(WORKER),
        number(
            "Slots taken",
            "By the workers that live, of slots of all kinds. A single kind may be full before: see the queue's dashboard.",
            "percentunit",
            share(f"sum({_BUSY} {_ALIVE})", f"sum({_SLOTS} {_ALIVE})"),
            FULL,
        ),
        number("Memory", "Of all workers that live.", "bytes", f"sum({_MEMORY} {_ALIVE})", decimals=None),
        number(
            "Greatest lag",
            "The longest time that an event loop was late between two heartbeats. Much more than 100 ms: a task computes, or blocks.",
            "s",
            f"max({_LAG} {_ALIVE})",
            LAG,
            decimals=None,
        ),
        number(
            "Versions",
            "How many versions of penstock run. Two during a deployment; else somebody was left behind.",
            "none",
            f"count(count by (version) ({most('penstock_worker_info', WORKER, 'job, worker, version')} {_ALIVE}))",
            ((None, GREEN), (2, ORANGE)),
        ),
        width=4,
        height=3,
    )


def _workers() -> Any:
    about = most("penstock_worker_info", WORKER, "job, worker, host, pid, version, python")
    return rows(
        "Workers",
        "Every worker at this moment, those that have been silent for longest first. heard: since its last heartbeat. A click on its name shows it alone.",
        "worker",
        [
            Column("heard", "s", f"{about} * on (job, worker) group_left () {_HEARD}", ((None, GREEN), (20, RED))),
            Column("up", "s", _UP),
            Column("slots", "none", _SLOTS),
            Column("taken", "none", _BUSY),
            Column("memory", "bytes", _MEMORY),
            Column("lag", "s", _LAG, LAG),
        ],
        worst=("heard",),
        link="/d/penstock-worker?var-job=${__data.fields.job}&var-worker=${__value.text}",
    )


def _life(board: Board) -> None:
    board.add(
        lines(
            "Age of the last heartbeat",
            "5 s at most in good times. A line that climbs is a worker that died or hangs: PenstockWorkerHeartbeatStale.",
            "s",
            Series(_HEARD, _NAME),
            limit=30,
        ),
        lines(
            "Slots taken, by worker",
            "Tasks that each worker runs that lives, at its heartbeats.",
            "none",
            Series(f"{_BUSY} {_ALIVE}", _NAME),
            stacked=True,
            decimals=0,
        ),
        lines(
            "Since its start",
            "For how long each worker has run. Short lines, again and again: workers die, and the supervisor starts others.",
            "s",
            Series(_UP, _NAME),
        ),
        lines(
            "Last heartbeat",
            "When each was heard of last, as seconds ago by Prometheus's clock: it differs from the first panel only if clocks do.",
            "s",
            Series(f"time() - {most('penstock_worker_last_heartbeat_timestamp_seconds', WORKER, _EACH)}", _NAME),
            least=None,
        ),
        width=12,
    )


def _loop(board: Board) -> None:
    still = rate("penstock_worker_event_loop_blocked_seconds_total", WORKER)
    board.add(
        lines(
            "Memory, by worker",
            "Resident. One that climbs without end is a leak; `--max-rss` replaces such a worker in order.",
            "bytes",
            Series(_MEMORY, _NAME),
        ),
        lines("Lag of the event loop", "The greatest between two heartbeats.", "s", Series(_LAG, _NAME)),
        lines(
            "Event loop blocked",
            "Share of the time in which it stood still for a second or more at a stretch. The worker's log names the task: PenstockEventLoopBlocked.",
            "percentunit",
            Series(f"max by ({_EACH}) ({still})", _NAME),
        ),
        width=8,
    )
