"""``pytest --access=acl`` and ``--access=tls``: the whole suite once more, each server closed in that way.

acl: the URLs of the tests' servers are those of a user who has the rights of docs/security.md for the
test's own namespace, and no others; afterwards the server must have refused nothing, not even what a
script or a fallback would swallow. tls: they are rediss:// URLs, with certificates made for the run.
Clients of the tests themselves (`raw`, `Server.client`) have all rights in both.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.streams.rights import INSPECTOR, OPERATOR, PRODUCER, WORKER, Role, rules
from tests.access import ACCESS, ALL, USER
from tests.servers import Server
from tests.source import ROOT

#: Not collected: they use no server of the tests.
NO_SERVER = (
    "tests/acceptance/test_bench.py", "tests/acceptance/test_demo.py", "tests/acceptance/test_embedded.py",
    "tests/acceptance/test_examples.py", "tests/deploy/test_kubernetes.py", "tests/deploy/test_rules.py",
    "tests/deploy/test_systemd_units.py", "tests/grafana", "tests/test_caps.py", "tests/test_layers.py",
    "tests/test_public_api.py", "tests/test_typing.py", "tests/typing", "tests/unit",
)  # fmt: skip

#: Tests that cannot run so, and why. In these tables: a folder, a file, or a file and a function.
LEFT_OUT: Mapping[str, str] = {
    "tests/fuzz/test_secrets.py::test_errors_of_a_server_that_refuses": "of servers that let nobody log in",
}

#: Tests whose user has all rights, and why: they still log in.
ALL_RIGHTS: Mapping[str, str] = {
    "tests/acceptance/test_inspect_cli.py::test_with_an_app_the_server_is_the_apps": "looks into two namespaces",
    "tests/contract/test_connection.py": "sends commands that are none of ours",
    "tests/contract/test_outages.py": "sends commands that are none of ours",
    "tests/contract/test_scripts.py::test_plain_commands_read_alike_in_both_clients": (
        "sends commands that are none of ours"
    ),
    "tests/rules/test_rule_10_retries_and_settling.py::test_a_write_whose_reply_was_lost_happens_once": (
        "sends commands that are none of ours"
    ),
    "tests/integration/test_outages.py::test_a_server_that_is_too_old": "lacks a command that the rules name",
}

#: Roles of the user, where it is more than a producer and a worker.
USUAL = (PRODUCER, WORKER)
INSPECTS = (*USUAL, INSPECTOR)
OPERATES = (*USUAL, INSPECTOR, OPERATOR)
ROLES: Mapping[str, tuple[Role, ...]] = {
    "tests/acceptance/test_doctor.py": OPERATES,  # without --role it asks for all
    "tests/acceptance/test_inspect_cli.py": OPERATES,
    "tests/acceptance/test_wrong_use.py": INSPECTS,
    "tests/chaos": OPERATES,
    "tests/contract/test_bury.py": INSPECTS,
    "tests/contract/test_enqueue.py::test_queues_are_registered": INSPECTS,
    "tests/contract/test_heartbeat.py": INSPECTS,
    "tests/contract/test_inspect.py": OPERATES,
    "tests/contract/test_measure.py": INSPECTS,
    "tests/contract/test_on_its_way.py": OPERATES,
    "tests/contract/test_pause.py": OPERATES,
    "tests/contract/test_redrive.py": OPERATES,
    "tests/contract/test_refusals.py": INSPECTS,
    "tests/contract/test_resends.py": OPERATES,
    "tests/contract/test_scripts.py": INSPECTS,
    "tests/contract/test_slots.py": OPERATES,
    "tests/deploy/test_processes.py": INSPECTS,
    "tests/deploy/test_under_systemd.py": INSPECTS,
    "tests/failover": OPERATES,
    "tests/fuzz": OPERATES,
    "tests/integration/test_dead_letters.py": OPERATES,
    "tests/integration/test_pause.py": OPERATES,
    "tests/integration/test_producing.py": INSPECTS,
    "tests/integration/test_retries.py": INSPECTS,
    "tests/integration/test_rolling_deploy.py": OPERATES,
    "tests/lessons": OPERATES,
    "tests/metrics": INSPECTS,
    "tests/model": OPERATES,
    "tests/rules": OPERATES,
    "tests/tracing": OPERATES,
}

_DOCTOR = "tests/rules/test_rule_16_at_least_once.py::test_doctor_finds_the_settings_by_which_redis_may_lose_tasks"

#: Namespaces of tests that have no `namespace`; else it is the default one.
NAMESPACES: Mapping[str, str] = {
    "tests/acceptance/test_wrong_use.py": "nothing-in-it",
    "tests/chaos": "crash-*",
    "tests/contract/test_refusals.py": "t",
    "tests/metrics/test_cluster.py::test_a_node_that_is_away_hides_no_other": "t-away",
    "tests/metrics/test_cluster.py::test_a_slot_that_is_on_its_way_hides_no_other": "t-away",
    "tests/metrics/test_cluster.py::test_when_no_queue_can_be_read_redis_is_not_up": "t-away",
    "tests/rules/test_rule_16_at_least_once.py": "t",
    _DOCTOR: "penstock",
}

#: What the documentation names for an option, beside the roles.
ALSO: Mapping[str, tuple[str, ...]] = {
    "tests/acceptance/test_doctor.py": ("+multi", "+discard"),
    "tests/failover": ("+wait",),
    "tests/integration/test_durability.py": ("+wait", "+waitaof"),
}

#: Asked at a worker's start, to say clearly that a server is too old or not fit; and by the doctor, where there is no
#: ACL DRYRUN. Who may not ask goes on.
OPTIONAL = {
    ("command", name) for name in ("command", "command|info", "info", "config", "config|get", "multi", "discard")
}


def refusals(raw: redis.Redis, user: str) -> set[tuple[str, str]]:
    """(reason, object) of the server's log, of users whose name begins so."""
    entries = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in _log(raw)]
    return {
        (entry[b"reason"].decode(), entry[b"object"].decode().lower())
        for entry in entries
        if entry[b"username"].decode().startswith(user)
    }


def _log(raw: redis.Redis) -> list[list[Any]]:
    """As the server sends it: redis-py's own reading of it differs by version."""
    connection: Any = raw.connection_pool.get_connection()
    try:
        connection.send_command("ACL", "LOG", 128)
        reply: list[list[Any]] = connection.read_response()
        return reply
    finally:
        raw.connection_pool.release(connection)


_NOT = "not by "
_ROLES_ONLY, _TLS = "with the rights of its roles", "through TLS"
_AS_MEANT = (_ROLES_ONLY, _TLS)


class Item:
    """What the tables say of a test."""

    def __init__(self, nodeid: str = "") -> None:
        self.namespace = ""
        #: Why its user has all rights; "": it has not.
        self.all_rights: str = find(ALL_RIGHTS, nodeid) or "" if ACCESS.mode == "acl" else _TLS
        self._roles = find(ROLES, nodeid) or USUAL
        self._also = find(ALSO, nodeid) or ()

    def rules(self, namespace: str) -> list[str]:
        self.namespace = namespace
        return list(ALL) if self.all_rights else [*rules(namespace, *self._roles), *self._also]


def find(table: Mapping[str, Any], nodeid: str) -> Any:
    """The entry for a test, its file or its folder; None: there is none."""
    test = nodeid.partition("[")[0]
    file = test.partition("::")[0]
    return next((table[name] for name in (test, file, file.rpartition("/")[0]) if name in table), None)


_item = Item()


def enter(namespace: str) -> None:
    """From now on the tests' user has its rights in this namespace."""
    if not ACCESS.closed:
        return
    ACCESS.rules = _item.rules(namespace)
    for server in tuple(Server.alive):
        server.admit()
        with server.client() as client:
            client.execute_command("ACL", "LOG", "RESET")


def refused() -> set[tuple[str, str]]:
    """What the tests' user was refused since it has entered, and should not have been."""
    found: set[tuple[str, str]] = set()
    if ACCESS.mode == "acl" and not _item.all_rights:
        for server in tuple(Server.alive):
            server.resume()
            with server.client() as client:
                found |= refusals(client, USER) - OPTIONAL
    # What belongs to another namespace is asked by an app that an earlier test has left open.
    return {(kind, what) for kind, what in found if kind == "command" or "{t-" not in what or _item.namespace in what}


class Run:
    """The plugin of such a run."""

    def __init__(self, mode: str) -> None:
        self._mode = mode
        if ACCESS.tls:
            # For each connection redis-py 8.1 makes a context (ssl.create_default_context) and so reads all that this
            # machine trusts, which takes 17 ms. Here it trusts nobody.
            os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull

    def pytest_report_header(self) -> str:
        return f"access: {self._mode}; not collected, as they use no server of the tests: {', '.join(NO_SERVER)}"

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        return True if collection_path in {ROOT / name for name in NO_SERVER} else None

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            why = find(LEFT_OUT, item.nodeid)
            if why is not None:
                item.add_marker(pytest.mark.skip(reason=f"{_NOT}{self._mode}: {why}"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        global _item
        _item = Item(item.nodeid)
        ACCESS.given = 0
        if "namespace" not in getattr(item, "fixturenames", ()):
            enter(find(NAMESPACES, item.nodeid) or "penstock")

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        yield
        if ACCESS.given:
            item.user_properties.append(("access", _item.all_rights or _ROLES_ONLY))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        stats = terminalreporter.stats
        calls = [
            dict(report.user_properties)
            for outcome in ("passed", "failed")
            for report in stats.get(outcome, ())
            if getattr(report, "when", "") == "call"
        ]
        by = Counter(properties["access"] for properties in calls if "access" in properties)
        terminalreporter.section(f"access: {self._mode}")
        terminalreporter.line(f"{len(calls)} tests ran, {by.total()} of them on servers closed in this way:")
        for how, count in by.most_common():
            with_all = "" if how in _AS_MEANT else "with all rights, as it "
            terminalreporter.line(f"  {count:5}  {with_all}{how}")
        left_out = Counter(each.longrepr[2].partition(_NOT)[2] for each in stats.get("skipped", ()))
        del left_out[""]
        terminalreporter.line(f"{left_out.total()} were left out")
        for why, count in left_out.most_common():
            terminalreporter.line(f"  {count:5}  {why}")

    def pytest_unconfigure(self) -> None:
        ACCESS.close()


def configure(config: pytest.Config) -> None:
    """Takes note of ``--access``."""
    mode = config.getoption("--access")
    if mode == "open":
        return
    ACCESS.mode = mode
    if why := ACCESS.why_not():
        raise pytest.UsageError(f"--access={mode}: {why}")
    if ACCESS.tls:
        # After an error redis-py 8.1 does not wait until its connection is closed: disconnect(nowait=True). Through TLS
        # that takes a round trip, and the test's loop may end before. And a connection that is reset before its
        # handshake is left open by CPython 3.11 (SSLSocket._create).
        config.addinivalue_line("filterwarnings", "ignore:unclosed (transport|<socket|<ssl):ResourceWarning")
    config.pluginmanager.register(Run(mode), "access")
