"""Redis as penstock needs it, and the exporter itself."""

from __future__ import annotations

from typing import Any

from grafana.boards import shared
from grafana.boards.board import Board
from grafana.boards.panels import (
    GREEN,
    NONE_IS_WELL,
    ORANGE,
    RED,
    YES_IS_WELL,
    Column,
    Series,
    lines,
    number,
    rows,
)
from grafana.boards.promql import JOB, NODE, at_present, increase, known, most, rate, share, total

_EACH = "job, node"
_USED = most("penstock_redis_memory_used_bytes", NODE, _EACH)
_LIMIT = most("penstock_redis_memory_max_bytes", NODE, _EACH)
#: PenstockRedisMemoryNearMax.
_MEMORY = ((None, GREEN), (0.7, ORANGE), (0.85, RED))
_NAME = "{{node}} ({{job}})"


def build() -> Board:
    """penstock / Redis."""
    board = Board("redis", "Redis", "The server that carries the tasks, and the exporter that reads it.")
    board.variable("node", "Server", 'label_values(penstock_redis_info{job=~"$job"}, node)')
    _now(board)
    board.row("Redis")
    board.add(_servers(), width=24, height=5)
    _redis(board)
    board.row("Exporter")
    _exporter(board)
    return board


def _now(board: Board) -> None:
    def all_say(title: str, description: str, name: str, selector: str, by: str) -> Any:
        return number(title, description, "bool_yes_no", f"min({most(name, selector, by)})", YES_IS_WELL)

    board.add(
        shared.redis_answers(),
        number(
            "Memory taken",
            "Share of its limit that it uses; 0 without a limit. Above 85 %: PenstockRedisMemoryNearMax.",
            "percentunit",
            known(f"max({share(_USED, _LIMIT)})"),
            _MEMORY,
        ),
        all_say(
            "Refuses when full",
            "Yes: noeviction, as it must be. No: it deletes keys, and tasks with them: PenstockRedisMayEvict.",
            "penstock_redis_noeviction",
            NODE,
            _EACH,
        ),
        all_say(
            "Append-only file",
            "Yes: it writes one. No: a restart loses tasks: PenstockRedisNotPersistent.",
            "penstock_redis_aof_enabled",
            NODE,
            _EACH,
        ),
        all_say(
            "Last save",
            "Yes: its last snapshot and its last write to the file succeeded. No: a full disk? PenstockRedisNotPersistent.",
            "penstock_redis_last_save_ok",
            NODE,
            _EACH,
        ),
        number(
            "Keys deleted",
            "For want of memory, in the time that is shown. Not 0: PenstockRedisEvicted.",
            "none",
            at_present(f"sum({increase('penstock_redis_evicted_keys_total', NODE)})"),
            NONE_IS_WELL,
        ),
        width=4,
        height=3,
    )


def _servers() -> Any:
    about = most("penstock_redis_info", NODE, "job, node, version, role, maxmemory_policy")

    def says(name: str) -> str:
        return most(f"penstock_redis_{name}", NODE, _EACH)

    return rows(
        "Servers",
        "Every server that holds something of penstock, the fullest first. limit 0: none.",
        "node",
        [
            Column("memory", "bytes", f"{about} * on (job, node) group_left () {_USED}"),
            Column("limit", "bytes", _LIMIT),
            Column("full", "percentunit", share(_USED, _LIMIT), _MEMORY),
            Column("clients", "none", says("clients")),
            Column("noeviction", "bool_yes_no", says("noeviction"), YES_IS_WELL),
            Column("AOF", "bool_yes_no", says("aof_enabled"), YES_IS_WELL),
            Column("last save", "bool_yes_no", says("last_save_ok"), YES_IS_WELL),
        ],
        worst=("full", "memory"),
        labels={"maxmemory_policy": "when full"},
        link="/d/penstock-redis?var-job=${__data.fields.job}&var-node=${__value.text}",
    )


def _redis(board: Board) -> None:
    def line(name: str, said: str) -> Series:
        return Series(most(f"penstock_redis_{name}", NODE, _EACH), f"{_NAME}: {said}")

    def counted(name: str, said: str) -> Series:
        return Series(total(rate(f"penstock_redis_{name}_total", NODE), _EACH), f"{_NAME}: {said}")

    board.add(
        lines(
            "Memory", "Used, and the limit (0: none).", "bytes", Series(_USED, _NAME), Series(_LIMIT, f"{_NAME}: limit")
        ),
        lines(
            "Connections",
            "Open ones, those that wait in a blocking command (idle workers), and how many it takes.",
            "none",
            line("clients", "open"),
            line("clients_blocked", "blocked"),
            line("clients_max", "at most"),
            decimals=0,
        ),
        lines(
            "Keys deleted, connections refused",
            "Per second. Both are 0 in good times. Refused: more clients than maxclients.",
            "ops",
            counted("evicted_keys", "keys deleted"),
            counted("rejected_connections", "refused"),
        ),
        lines(
            "Offset of its clock",
            "Redis's clock minus the exporter's host's. Ages, leases and due times go by Redis's clock alone; producers' `eta` goes by theirs.",
            "s",
            line("clock_offset_seconds", "offset"),
            least=None,
        ),
        width=6,
    )


def _exporter(board: Board) -> None:
    board.add(
        lines(
            "Time of a read",
            "What reading all queues takes; one read serves all scrapes of a second. Above 0.9 s the exporter says that Redis is down.",
            "s",
            Series(most("penstock_exporter_scrape_duration_seconds", JOB, "job, instance"), "{{instance}} ({{job}})"),
            limit=0.9,
        ),
        lines(
            "Reads that failed",
            "Per second: all of it, or of a queue or node (a key of another type, a missing right). The exporter's log says which; PenstockReadsFail.",
            "ops",
            # Of each exporter by itself: here they are what is looked at.
            Series(
                f"sum by (job, instance) (rate(penstock_exporter_scrape_errors_total{{{JOB}}}[$__rate_interval]))",
                "{{instance}} ({{job}})",
            ),
        ),
        lines(
            "Task names folded",
            'Names beyond 200 of a queue are counted together as task="other". More and more: names are made up at run time.',
            "none",
            Series(most("penstock_exporter_folded_tasks", JOB, "job, queue"), "{{queue}} ({{job}})"),
            decimals=0,
        ),
        lines(
            "Exporters",
            "How many there are, by version. None: PenstockExporterDown.",
            "none",
            Series(f"count by (job, version) (penstock_exporter_build_info{{{JOB}}})", "{{version}} ({{job}})"),
            decimals=0,
        ),
        width=6,
    )
