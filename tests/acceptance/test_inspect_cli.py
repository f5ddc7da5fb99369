"""The commands that look and act from outside, as tables and as JSON."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from penstock import App
from penstock.cli.root import COMMANDS, root
from tests.commands import Command, Folder
from tests.servers import wait_until

Start = Callable[..., Command]
Send = Callable[..., Any]


@pytest.fixture
def cli(url: str, namespace: str) -> Callable[..., Any]:
    """Runs a command in this process, and reads what it prints if it is JSON."""

    def run(*args: str, code: int = 0) -> Any:
        done = CliRunner().invoke(root, [*args, "--url", url, "--namespace", namespace])
        assert done.exit_code == code, done.output
        return json.loads(done.stdout) if "--json" in args else done.stdout

    return run


@pytest.fixture
def failed(worker: Start, send: Send) -> Any:
    """A dead letter."""
    handle = send("fail", "no\nway", queue="mail")
    assert worker("--burst").wait() == 0
    wait_until(lambda: _burst_until_done(worker, handle))
    return handle


def _burst_until_done(worker: Start, handle: Any) -> bool:
    """A burst does not wait for a retry."""
    return bool(handle.done()) or (worker("--burst").wait() == 0 and handle.done())


def test_queues(cli: Any, send: Send, worker: Start, folder: Folder) -> None:
    for priority, count in (("high", 1), ("default", 2), ("low", 3)):
        for _ in range(count):
            send("add", 1, queue="mail", priority=priority)
    send("add", 1, queue="mail", delay=100, id="later")
    held = send("hold", str(folder), "held")
    command = worker("-Q", "default")
    command.ready()
    folder.wait("begin", "held")

    default, mail = cli("queues", "--json")

    assert mail["queue"] == "mail" and mail["ready"] == {"high": 1, "default": 2, "low": 3}
    assert (mail["scheduled"], mail["dead"], sum(mail["running"].values())) == (1, 0, 0)
    assert 90 < mail["next_due_seconds"] <= 100 and 0 <= mail["oldest_ready_seconds"] < 60
    assert default["running"]["default"] == 1 and default["ready"]["default"] == 0
    assert default["oldest_ready_seconds"] is None

    table = cli("queues").splitlines()
    assert re.split(r"\s{2,}", table[0].strip())[:9] == [
        "queue", "high", "default", "low", "ready", "running", "scheduled", "dead", "oldest",
    ]  # fmt: skip
    [row] = [line.split() for line in table if line.strip().startswith("mail")]
    assert row[1:8] == ["1", "2", "3", "6", "0", "1", "0"]
    assert len(cli("queues", "mail", "--json")) == 1

    folder.release("held")
    assert held.get(timeout=30) == "held"
    assert cli("queues", "default", "--json")[0]["counters"]["succeeded"] == {"tests.apps.chores.hold": 1}
    assert cli("cancel", "mail:later")


def test_ready_is_right_after_redeliveries_and_deletions(
    cli: Any, send: Send, raw: redis.Redis, namespace: str
) -> None:
    handles = [send("add", i, queue="mail", priority="low") for i in range(5)]
    stream = f"{{{namespace}:mail}}:s:low"
    raw.xgroup_create(stream, "w", id="0")
    raw.xreadgroup("w", "somebody", {stream: ">"}, count=2)
    assert handles[4].cancel()  # deleted while undelivered: from here on XINFO's own lag is nil

    [mail] = cli("queues", "--json")

    assert mail["ready"]["low"] == 2 and mail["running"]["low"] == 2


def test_pause_and_resume(cli: Any, send: Send, worker: Start) -> None:
    waiting = send("add", 1, queue="mail")
    assert cli("pause", "mail", "mial").splitlines() == [
        "mail  paused",
        "mial  paused; so far there is no such queue; did you mean 'mail'?",
    ]
    assert cli("pause", "mail", "--json") == [{"queue": "mail", "paused": True, "changed": False}]
    assert cli("queues", "--json", "mail")[0]["paused_seconds"] >= 0 and "mail (paused" in cli("queues")
    assert worker("--burst").wait() == 0
    assert cli("info", waiting.id, "--json")["state"] == "queued"
    assert (
        cli("resume", "mail", "mial")
        == "mail  resumed\nmial  resumed; so far there is no such queue; did you mean 'mail'?\n"
    )
    assert cli("resume", "mail").split("  ")[1] == "was not paused\n"
    assert cli("queues", "--json", "mail")[0]["paused_seconds"] is None
    assert worker("--burst").wait() == 0
    assert waiting.get(timeout=20) == 3


def test_an_empty_namespace(cli: Any, namespace: str) -> None:
    assert cli("queues") == f"no queue in the namespace '{namespace}'\n" and cli("queues", "--json") == []
    assert cli("workers") == f"no worker in the namespace '{namespace}'\n" and cli("workers", "--json") == []
    assert cli("dead", "list") == "no dead letters\n" and cli("dead", "list", "--json") == []


def test_workers(cli: Any, worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--workers", 2)
    pids = command.ready(2)
    wait_until(lambda: len(cli("workers", "--json")) == 2)

    found = cli("workers", "--json")

    assert {each["pid"] for each in found} == set(pids)
    assert all(each["queues"] == ["default", "mail"] and each["heard_seconds_ago"] < 30 for each in found)
    table = cli("workers")
    assert all(str(pid) in table for pid in pids) and "default, mail" in table and " ago" in table


def test_info_and_result(cli: Any, send: Send, worker: Start) -> None:
    handle = send("add", 40, queue="mail", priority="low")
    assert cli("info", handle.id, "--json")["state"] == "queued"
    assert worker("--burst").wait() == 0

    info = cli("info", handle.id, "--json")

    assert (info["id"], info["name"], info["state"]) == (handle.id, "tests.apps.chores.add", "succeeded")
    assert (info["queue"], info["priority"], info["attempt"], info["error"]) == ("mail", "low", 1, None)
    assert info["finished_at"] >= info["started_at"] >= info["enqueued_at"]
    text = cli("info", handle.id)
    assert re.search(r"^state +succeeded$", text, re.MULTILINE) and "mail (low)" in text
    assert cli("result", handle.id, "--json") == 42 and cli("result", handle.id) == "42\n"


def test_an_unknown_task_is_exit_code_1(cli: Any) -> None:
    for command in ("info", "result"):
        assert cli(command, "mail:nobody", code=1) == ""
    assert cli("cancel", "mail:nobody", "--json", code=1) == [{"id": "mail:nobody", "outcome": "not found"}]


def test_a_result_that_is_not_there_yet(cli: Any, send: Send) -> None:
    handle = send("add", 1, queue="mail")
    cli("result", handle.id, code=1)
    cli("result", handle.id, "--wait", "0.1", code=1)
    cli("cancel", handle.id)
    cli("result", handle.id, code=1)


def test_cancel(cli: Any, send: Send, worker: Start, folder: Folder) -> None:
    running = send("hold", str(folder), "running")
    worker("-Q", "default").ready()
    folder.wait("begin", "running")
    done = send("nap", str(folder), "done", 0)
    done.get(timeout=30)
    scheduled = send("nap", str(folder), "scheduled", 0, delay=3600)

    answers = cli("cancel", running.id, done.id, scheduled.id, "--json")

    assert [each["outcome"] for each in answers] == ["cancelling", "had ended already", "cancelled"]
    wait_until(lambda: cli("info", running.id, "--json")["state"] == "cancelled")
    assert folder.notes("end", "running") == []
    assert re.fullmatch(r"\S+ +had ended already\n", cli("cancel", done.id))


def test_dead_list_show_and_redrive(cli: Any, failed: Any, worker: Start) -> None:
    [letter] = cli("dead", "list", "-Q", "mail", "--json")
    assert (letter["id"], letter["name"], letter["reason"]) == (failed.id, "tests.apps.chores.fail", "error")
    assert letter["attempts"] == 2 and letter["error"] == "ValueError: no\nway"
    assert letter == cli("dead", "show", failed.id, "--json")
    assert "raise ValueError(word)" in letter["traceback"]
    table = cli("dead", "list")
    assert failed.id in table and "ValueError: no" in table and "way" not in table
    shown = cli("dead", "show", failed.id)
    assert "raise ValueError(word)" in shown and re.search(r"^arguments +'no\\nway'$", shown, re.MULTILINE)
    assert cli("dead", "list", "-Q", "default", "--json") == []
    assert cli("queues", "mail", "--json")[0]["dead"] == 1

    assert cli("dead", "redrive", failed.id, "--json") == {"redriven": 1}

    assert cli("info", failed.id, "--json")["state"] == "queued"
    assert cli("dead", "list", "--json") == [] and cli("dead", "show", failed.id, code=1) == ""
    cli("dead", "redrive", failed.id, code=2)
    wait_until(lambda: _burst_until_done(worker, failed))
    assert cli("dead", "redrive", "--all", "-Q", "mail") == "1 sent again\n"
    assert cli("dead", "redrive", "--all", "-Q", "mail") == "0 sent again\n"
    cli("cancel", failed.id)


def test_with_an_app_the_server_is_the_apps(
    app: App, send: Send, url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send("add", 1, queue="mail")
    monkeypatch.setenv("PENSTOCK_URL", url)
    monkeypatch.setenv("PENSTOCK_NAMESPACE", namespace)
    monkeypatch.setitem(sys.modules, "tests_cli_app", type(sys)("tests_cli_app"))
    sys.modules["tests_cli_app"].app = App("x")  # type: ignore[attr-defined]
    monkeypatch.setenv("PENSTOCK_URL", "redis://127.0.0.1:1")
    monkeypatch.delenv("PENSTOCK_NAMESPACE")

    done = CliRunner().invoke(root, ["-A", "tests_cli_app:app", "queues", "--json"])
    assert [each["queue"] for each in json.loads(done.stdout)] == ["mail"]
    done = CliRunner().invoke(root, ["-A", "tests_cli_app:app", "queues", "--json", "--namespace", "other"])
    assert json.loads(done.stdout) == []


def test_commands_load_no_more_than_they_need() -> None:
    code = "import sys, penstock.cli; print(sorted(m for m in sys.modules if m.startswith('penstock.cli.')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "['penstock.cli.invocation', 'penstock.cli.printable', 'penstock.cli.root']"


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_explains_itself(name: str) -> None:
    command = root.get_command(root.make_context("penstock", [name, "--help"], resilient_parsing=True), name)
    if command is None:
        pytest.skip(f"{name} is not part of this installation")
    done = CliRunner().invoke(root, [name, "--help"])
    assert done.exit_code == 0 and "Usage: penstock" in done.stdout
    overview = CliRunner().invoke(root, ["--help"])
    assert name in overview.stdout and "Examples:" in overview.stdout


def test_the_version() -> None:
    done = CliRunner().invoke(root, ["--version"])
    assert re.fullmatch(r"penstock \d+\.\d+\.\d+\S*\n", done.stdout)
