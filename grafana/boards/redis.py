"""Redis as penstock needs it, and the exporter itself."""

from __future__ import annotations

from grafana.boards.board import GREEN, ORANGE, RED, Board, Query, lines, number
from grafana.boards.promql import JOB, NODE, gauge, increase, most, rate, total


def build() -> Board:
    """penstock / Redis."""
    board = Board("redis", "Redis", "The server that carries the tasks, and the exporter that reads it.")
    board.variable("node", "Server", 'label_values(penstock_redis_info{job=~"$job"}, node)')
    used = f"{most('penstock_redis_memory_used_bytes', NODE, 'job, node')} / ({most('penstock_redis_memory_max_bytes', NODE, 'job, node')} > 0)"
    bad = ((None, RED), (1, GREEN))
    board.add(
        number(
            "Up",
            "Yes: the exporters' last read succeeded. No: PenstockRedisDown.",
            "bool_yes_no",
            Query(f"min({most('penstock_redis_up', JOB, 'job')})"),
            bad,
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Memory",
            "Share of its limit that it uses; 0 without a limit. Above 85 %: PenstockRedisMemoryNearMax.",
            "percentunit",
            Query(f"max({used}) or vector(0)"),
            ((None, GREEN), (0.7, ORANGE), (0.85, RED)),
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Refuses when full",
            "Yes: noeviction, as it must be. No: it deletes keys, and tasks with them: PenstockRedisMayEvict.",
            "bool_yes_no",
            Query(f"min({most('penstock_redis_noeviction', NODE, 'job, node')})"),
            bad,
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Append-only file",
            "Yes: it writes one. No: a restart loses tasks: PenstockRedisNotPersistent.",
            "bool_yes_no",
            Query(f"min({most('penstock_redis_aof_enabled', NODE, 'job, node')})"),
            bad,
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Last save",
            "Yes: its last snapshot and its last write to the file succeeded. No: a full disk? PenstockRedisNotPersistent.",
            "bool_yes_no",
            Query(f"min({most('penstock_redis_last_save_ok', NODE, 'job, node')})"),
            bad,
            decimals=0,
        ),
        4,
        4,
    )
    board.add(
        number(
            "Keys deleted",
            "For want of memory, in the time that is shown. Not 0: PenstockRedisEvicted.",
            "none",
            Query(
                f"sum(max without (instance, pod, endpoint, container) (increase(penstock_redis_evicted_keys_total{{{NODE}}}[$__range])))",
                instant=True,
            ),
            ((None, GREEN), (1, RED)),
            decimals=0,
        ),
        4,
        4,
    )
    board.row("Redis")
    board.add(
        lines(
            "Memory",
            "Used, and the limit (0: none).",
            "bytes",
            [
                Query(most("penstock_redis_memory_used_bytes", NODE, "node"), "{{node}}: used"),
                Query(most("penstock_redis_memory_max_bytes", NODE, "node"), "{{node}}: limit"),
            ],
        ),
        8,
    )
    board.add(
        lines(
            "Connections",
            "Open ones, those that wait in a blocking command (idle workers), and how many it takes.",
            "none",
            [
                Query(most("penstock_redis_clients", NODE, "node"), "{{node}}: open"),
                Query(most("penstock_redis_clients_blocked", NODE, "node"), "{{node}}: blocked"),
                Query(most("penstock_redis_clients_max", NODE, "node"), "{{node}}: at most"),
            ],
            decimals=0,
        ),
        8,
    )
    board.add(
        lines(
            "Keys deleted, connections refused",
            "Per step. Both are 0 in good times. Refused: more clients than maxclients.",
            "none",
            [
                Query(total(increase("penstock_redis_evicted_keys_total", NODE), "node"), "{{node}}: keys deleted"),
                Query(total(increase("penstock_redis_rejected_connections_total", NODE), "node"), "{{node}}: refused"),
            ],
        ),
        8,
    )
    board.add(
        lines(
            "Offset of its clock",
            "Redis's clock minus the exporter's host's. Ages, leases and due times go by Redis's clock alone; producers' `eta` goes by theirs.",
            "s",
            [Query(most("penstock_redis_clock_offset_seconds", NODE, "node"), "{{node}}")],
        ),
        8,
    )
    board.add(
        lines(
            "Servers",
            "One line for each, with its version, role and what it does when it is full.",
            "none",
            [
                Query(
                    f"max by (node, version, role, maxmemory_policy) ({gauge('penstock_redis_info', NODE)})",
                    "{{node}} {{version}} {{role}} {{maxmemory_policy}}",
                )
            ],
            decimals=0,
        ),
        16,
    )
    board.row("Exporter")
    board.add(
        lines(
            "Time of a read",
            "What reading all queues takes; one read serves all scrapes of a second. Above 0.9 s the exporter says that Redis is down.",
            "s",
            [Query(most("penstock_exporter_scrape_duration_seconds", JOB, "job, instance"), "{{instance}}")],
            limit=0.9,
        ),
        8,
    )
    board.add(
        lines(
            "Reads that failed",
            "Per second: all of it, or of one queue (a key of another type, a missing right). The exporter's log says which.",
            "ops",
            [Query(f"sum by (instance) ({rate_of_each()})", "{{instance}}")],
        ),
        8,
    )
    board.add(
        lines(
            "Task names folded",
            'Names beyond 200 of a queue are counted together as task="other". More and more: names are made up at run time.',
            "none",
            [Query(most("penstock_exporter_folded_tasks", JOB, "queue"), "{{queue}}")],
            decimals=0,
        ),
        8,
    )
    board.add(
        lines(
            "Exporters",
            "How many there are, by version. None: PenstockExporterDown.",
            "none",
            [Query(f"count by (version) (penstock_exporter_build_info{{{JOB}}})", "{{version}}")],
            decimals=0,
        ),
        24,
    )
    return board


def rate_of_each() -> str:
    """Of each exporter by itself: here they are what is looked at."""
    return f"rate(penstock_exporter_scrape_errors_total{{{JOB}}}[$__rate_interval])"


__all__ = ["build", "rate"]
