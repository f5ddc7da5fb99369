"""`penstock worker` as a process: signals, crashes, restarts, bursts, logs. Nothing is ever lost."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

import redis

from penstock import App, State
from tests.commands import Command, Folder, is_alive
from tests.servers import wait_until

Start = Callable[..., Command]
Send = Callable[..., Any]


def test_sigterm_lets_tasks_finish_and_hands_the_rest_to_others_at_once(
    worker: Start, send: Send, folder: Folder
) -> None:
    # The lease is so long that what another worker runs can only have been handed back.
    first = worker("--grace", 2, "--lease", 60)
    [pid] = first.ready()
    quick, stubborn = send("hold", str(folder), "quick"), send("hold", str(folder), "stubborn")
    folder.wait("begin", count=2)
    second = worker("--lease", 60)
    second.ready()

    first.signal(signal.SIGTERM)
    first.logged("stopping: 2 tasks in flight")
    folder.release("quick")

    assert first.wait() == 0
    first.logged("handing back 1 tasks")
    begun = folder.wait("begin", "stubborn", count=2)
    assert begun[0].pid == pid != begun[1].pid
    assert [(note.word, note.pid) for note in folder.notes(name="quick")] == [("begin", pid), ("end", pid)]
    folder.release("stubborn")
    assert stubborn.get(timeout=20) == "stubborn" and quick.get(timeout=20) == "quick"
    info = stubborn.info()
    assert (info.attempt, info.deliveries) == (1, 1) or info.deliveries == 0  # being handed back is no crash


def test_a_worker_that_is_stopping_takes_nothing_new(
    worker: Start, send: Send, folder: Folder, raw: redis.Redis
) -> None:
    stopping = worker("--grace", 60)
    stopping.ready()
    send("hold", str(folder), "running")
    folder.wait("begin", "running")

    stopping.signal(signal.SIGTERM)
    wait_until(lambda: raw.info("clients")["blocked_clients"] == 0)  # its read has ended
    late = send("nap", str(folder), "late", 0)
    folder.release("running")

    assert stopping.wait() == 0
    assert folder.notes(name="late") == [] and late.state() is State.QUEUED
    folder.wait("end", "running")
    worker("--burst").wait()
    assert late.state() is State.SUCCEEDED


def test_a_second_sigterm_hands_everything_back_now(worker: Start, send: Send, folder: Folder) -> None:
    first = worker("--grace", 600, "--lease", 60)
    first.ready()
    held = send("hold", str(folder), "held")
    folder.wait("begin", "held")

    first.signal(signal.SIGTERM)
    first.logged("stopping: 1 tasks in flight")
    assert held.state() is State.RUNNING
    first.signal(signal.SIGTERM)

    assert first.wait(timeout=30) == 0  # of 600 s
    assert held.state() in (State.QUEUED, State.SCHEDULED) and folder.notes("end") == []
    folder.release("held")
    worker("--lease", 60).ready()
    assert held.get(timeout=30) == "held"


def test_ctrl_c_reaches_only_the_supervisor(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--grace", 60, "--workers", 2)
    pids = command.ready(2)
    held = send("hold", str(folder), "held")
    folder.wait("begin", "held")
    assert len({os.getpgid(pid) for pid in (*pids, command.process.pid)}) == 3

    command.signal(signal.SIGINT)
    command.logged("stopping: 1 tasks in flight")
    folder.release("held")

    assert command.wait() == 0
    assert held.get(timeout=20) == "held" and len(folder.notes("begin")) == 1


def test_sigkill_of_a_worker_loses_nothing_and_it_is_restarted(worker: Start, send: Send, folder: Folder) -> None:
    lease = 3.0
    command = worker("--lease", lease, "--workers", 2, "--concurrency", 10)
    pids = command.ready(2)
    held = [send("hold", str(folder), f"held{i}") for i in range(4)]
    naps = [send("nap", str(folder), f"nap{i}", 0.05) for i in range(30)]
    begun = folder.wait("begin", "held0")
    victim = begun[0].pid
    running = {note.name for note in folder.notes("begin") if note.pid == victim}
    running -= {note.name for note in folder.notes("end")}

    os.kill(victim, signal.SIGKILL)
    killed = next(note.time for note in begun)
    killed = max(killed, *(note.time for note in folder.notes()))
    command.logged(rf"worker {victim} was killed by SIGKILL.*starting another")
    new = command.ready(3)[-1]

    assert new not in pids and "held0" in running
    again = folder.wait("begin", "held0", count=2)
    assert again[1].pid != victim and not is_alive(victim)
    assert again[1].time - killed < lease + 2
    folder.release(*(f"held{i}" for i in range(4)))
    assert [handle.get(timeout=30) for handle in held] == [f"held{i}" for i in range(4)]
    assert all(handle.get(timeout=30) for handle in naps)
    assert held[0].info().deliveries >= 1
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_workers_end_with_a_supervisor_that_was_killed(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--workers", 2, "--grace", 1, "--lease", 60)
    pids = command.ready(2)
    held = send("hold", str(folder), "held")
    folder.wait("begin", "held")

    command.signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL

    wait_until(lambda: not any(is_alive(pid) for pid in pids), 30)
    # They ended in order: what ran was handed back long before its lease is over.
    assert command.text.count("stopped") == 2
    assert held.state() in (State.QUEUED, State.SCHEDULED)
    folder.release("held")
    worker("--lease", 60).ready()
    assert held.get(timeout=30) == "held"


def test_a_worker_whose_supervisor_dies_before_it_is_ready_ends(
    worker: Start, own_server: Any, namespace: str, folder: Folder
) -> None:
    own_server.stop()
    command = worker()
    command.logged("the server does not answer")
    [child] = _children(command.process.pid)
    assert is_alive(child)

    command.signal(signal.SIGKILL)
    assert command.wait() == -signal.SIGKILL

    wait_until(lambda: not is_alive(child), 30)


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


def test_two_workers_share_the_load(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--workers", 2, "--concurrency", 1)
    pids = command.ready(2)

    handles = [send("nap", str(folder), f"nap{i}", 0.1) for i in range(20)]
    ran_in = [handle.get(timeout=60) for handle in handles]

    assert set(ran_in) == set(pids)
    assert min(ran_in.count(pid) for pid in pids) >= 5
    assert len(folder.notes("begin")) == 20  # each once


def test_a_burst_ends_by_itself(worker: Start, send: Send, folder: Folder) -> None:
    handles = [send("nap", str(folder), f"nap{i}", 0.01) for i in range(50)]
    tomorrow = send("nap", str(folder), "tomorrow", 0, delay=86400)

    assert worker("--burst", "--workers", 2).wait() == 0

    assert {handle.state() for handle in handles} == {State.SUCCEEDED}
    assert tomorrow.state() is State.SCHEDULED
    assert tomorrow.cancel()


def test_a_burst_replaces_a_worker_that_was_killed(worker: Start, send: Send, folder: Folder) -> None:
    held = send("hold", str(folder), "held")
    command = worker("--burst", "--lease", 1)
    [pid] = command.ready()
    folder.wait("begin", "held")

    os.kill(pid, signal.SIGKILL)
    command.logged(f"worker {pid} was killed by SIGKILL")
    command.ready(2)
    folder.release("held")

    assert command.wait() == 0
    worker("--lease", 1).ready()
    assert held.get(timeout=30) == "held"


def test_only_the_queues_asked_for_are_served(worker: Start, send: Send, app: App) -> None:
    mail = send("add", 1, queue="mail", priority="high")
    other = send("add", 2, queue="other")

    assert worker("-Q", "mail,default", "--burst").wait() == 0

    assert mail.state() is State.SUCCEEDED and other.state() is State.QUEUED
    assert worker("--queues", "other", "--burst").wait() == 0
    assert other.state() is State.SUCCEEDED


def test_each_line_of_a_json_log_parses_and_says_whose_it_is(worker: Start, send: Send) -> None:
    handles = {kind: send(f"say.{kind}", kind) for kind in ("async", "thread", "process")}

    command = worker("--burst", "--log-format", "json", "--workers", 2)
    assert command.wait() == 0

    lines = [json.loads(line) for line in command.text.splitlines()]
    assert all({"ts", "level", "logger", "message"} <= line.keys() for line in lines)
    said = {line["word"]: line for line in lines if line["logger"] == "chores"}
    for kind, handle in handles.items():
        line = said[kind]
        assert (line["task_id"], line["task_name"], line["attempt"]) == (handle.id, f"say.{kind}", 1)
        assert line["worker"] == handle.info().worker and line["level"] == "info"
    loggers = {line["logger"] for line in lines}
    assert {"penstock.supervisor", "penstock.worker", "chores"} <= loggers


def test_the_log_level_can_come_from_the_environment(worker: Start, send: Send) -> None:
    send("say.process", "quiet")
    command = worker("--burst", PENSTOCK_LOG_LEVEL="error", PENSTOCK_WORKERS="2")
    assert command.wait() == 0 and command.text == ""


def test_max_tasks_replaces_the_process(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--max-tasks", 5)
    [old] = command.ready()

    handles = [send("nap", str(folder), f"first{i}", 0.01) for i in range(6)]
    command.logged(rf"worker {old} is replaced: it has run \d+ tasks")
    new = command.ready(2)[-1]
    wait_until(lambda: not is_alive(old), 30)
    handles += [send("nap", str(folder), f"second{i}", 0.01) for i in range(3)]
    ran_in = [handle.get(timeout=60) for handle in handles]

    assert set(ran_in[:1]) == {old} and set(ran_in[6:]) == {new}
    assert len(folder.notes("begin")) == 9
    assert command.process.poll() is None


def test_max_rss_replaces_the_process_and_what_runs_there_ends_there(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--max-rss", "300M", "--grace", 0)
    [old] = command.ready()
    held = send("hold", str(folder), "held")
    folder.wait("begin", "held")

    send("eat", str(folder), 400)
    command.logged(rf"worker {old} is replaced: it uses \d+ MB")
    new = command.ready(2)[-1]
    elsewhere = send("nap", str(folder), "elsewhere", 0)

    assert elsewhere.get(timeout=30) == new
    assert is_alive(old) and held.state() is State.RUNNING  # no limit, though the grace period is 0
    folder.release("held")
    assert held.get(timeout=30) == "held" and [note.pid for note in folder.notes(name="held")] == [old, old]
    wait_until(lambda: not is_alive(old), 30)


def test_sigterm_ends_also_what_drains(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--max-tasks", 1, "--grace", 2, "--lease", 60)
    [old] = command.ready()
    held = send("hold", str(folder), "held")
    folder.wait("begin", "held")
    assert send("nap", str(folder), "nap", 0).get(timeout=30) == old
    command.logged(f"worker {old} is replaced")
    new = command.ready(2)[-1]

    command.signal(signal.SIGTERM)
    assert command.wait() == 0

    assert not is_alive(old) and not is_alive(new)
    assert held.state() in (State.QUEUED, State.SCHEDULED) and folder.notes("end", "held") == []
    folder.release("held")
    worker("--burst").wait()


def test_a_wedged_process_is_killed_and_replaced_and_innocents_run(worker: Start, send: Send, folder: Folder) -> None:
    command = worker("--lease", 2)
    [old] = command.ready()
    innocent = send("hold", str(folder), "innocent")
    folder.wait("begin", "innocent")
    guilty = send("wedge", str(folder), "guilty")
    folder.wait("begin", "guilty")
    later = send("nap", str(folder), "later", 0)

    command.logged(f"worker {old} is killed: a task is past its time limit and cannot be stopped")
    command.logged(f"{guilty.id} is past its time limit")
    new = command.ready(2)[1]
    folder.release("innocent")

    assert innocent.get(timeout=60) == "innocent" and later.get(timeout=60) == new
    assert folder.notes("begin", "innocent")[0].pid == old and not is_alive(old)
    wait_until(lambda: guilty.info().state is State.FAILED, 60)
    assert [note.pid for note in folder.notes("begin", "guilty")] == [old]


def test_a_worker_that_cannot_start_is_given_up(worker: Start, folder: Folder) -> None:
    command = worker(app="dies")

    assert command.wait() == 1

    assert (folder.path / "deaths").read_text().count("died") == 5
    assert "ended with exit code 3; no worker could start in 5 tries" in command.text


def test_a_worker_that_starts_after_all_is_kept(worker: Start, folder: Folder) -> None:
    command = worker("--workers", 3, app="dies")
    command.logged("ended with exit code 3; starting another")
    folder.release("mended")

    pids = command.ready(3)

    assert len(set(pids)) == 3 and command.process.poll() is None
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_a_worker_waits_for_a_server_that_is_not_there_yet(
    worker: Start, own_server: Any, namespace: str, send: Send
) -> None:
    own_server.stop()
    command = worker("--workers", 2)
    command.logged("the server does not answer")
    assert "ready" not in command.text
    own_server.start()

    command.ready(2)

    assert send("add", 1, queue="mail").get(timeout=30) == 3


def test_a_sigterm_while_the_server_is_away_ends_the_worker(worker: Start, own_server: Any, namespace: str) -> None:
    command = worker("--grace", 1)
    command.ready()
    own_server.kill()
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_heartbeats_and_keys_are_gone_after_an_orderly_end(
    worker: Start, send: Send, raw: redis.Redis, namespace: str
) -> None:
    command = worker()
    command.ready()
    wait_until(lambda: raw.zcard(f"{{{namespace}}}:workers") == 1)
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert raw.zcard(f"{{{namespace}}}:workers") == 0
    assert not list(raw.scan_iter(match=f"{{{namespace}}}:w:*"))


def test_the_first_lines_say_what_runs_where_without_the_password(worker: Start, url: str, namespace: str) -> None:
    command = worker("--burst", "-c", 7, "--workers", 2, PENSTOCK_URL=url.replace("://", "://default:sesame@"))
    command.wait()
    assert "sesame" not in command.text
    assert (
        len(re.findall(r"app chores at redis://.*, queues: default, mail; 9 tasks; slots: 7 async", command.text)) <= 1
    )
