"""What the supervisor tells systemd: over a real socket, by a real process."""

from __future__ import annotations

import os
import re
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from penstock.consumers import notify
from penstock.consumers.notify import SOCKET, WATCHDOG, WATCHDOG_PID, Notify
from penstock.consumers.supervisor import SPARE
from penstock.consumers.wards import MARGIN
from tests.commands import Command, Folder
from tests.deploy.manager import Manager
from tests.servers import wait_until

Start = Callable[..., Command]
Send = Callable[..., Any]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that `notify` sees."""

    def set_to(now: float) -> None:
        monkeypatch.setattr("penstock.consumers.notify.time.monotonic", lambda: now)

    set_to(1000.0)
    return set_to


# The protocol


def test_what_is_told(manager: Manager) -> None:
    told = Notify(manager.address)
    told.ready("here we\nare")
    told.status("here we\nare")  # nothing new
    told.status("busy")
    told.stopping(40.5, "bye")
    told.alive()  # nobody asked for it
    assert manager.told() == [
        "READY=1", "STATUS=here we are", "STATUS=busy", "STOPPING=1", "EXTEND_TIMEOUT_USEC=40500000", "STATUS=bye",
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_an_abstract_socket() -> None:
    with Manager(f"@penstock-{secrets.token_hex(8)}") as manager:
        Notify(manager.address).ready()
        assert manager.told() == ["READY=1", "STATUS="]


def test_the_watchdog_is_fed_at_half_its_time(manager: Manager, clock: Callable[[float], None]) -> None:
    told = Notify(manager.address, watchdog=30)
    for now in (1000, 1001, 1014.9, 1015, 1016, 1030):
        clock(now)
        told.alive()
    assert manager.told() == ["WATCHDOG=1"] * 3 and told.next_alive() == 1045


def test_a_manager_that_has_gone_is_told_again_but_not_in_each_round(
    tmp_path: Path, clock: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "notify")
    told = Notify(path, watchdog=30)
    told.alive()
    told.alive()
    told.status("a")
    assert told.next_alive() == 1001  # else the supervisor's loop would not rest
    assert len(caplog.records) == 1 and "was not told WATCHDOG=1" in caplog.text
    with Manager(path) as manager:
        clock(1001)
        told.alive()
        told.status("a")
        assert manager.told() == ["WATCHDOG=1", "STATUS=a"]


def test_a_manager_that_does_not_read_holds_nobody_up(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "PATIENCE", 0.05)
    told = Notify(manager.address)
    for number in range(2000):  # more than any queue takes
        told.status(str(number))
        if told._status != str(number):
            break
    assert 0 < number < 1999 and manager.told()[-1] == f"STATUS={number - 1}"


def test_without_a_manager_nothing_happens() -> None:
    told = Notify.from_environment()
    told.ready()
    told.alive()
    told.stopping(1)
    assert told.next_alive() is None


@pytest.mark.parametrize(
    ("usec", "pid", "every"),
    [
        ("3000000", "", 1.5),
        ("3000000", "own", 1.5),
        ("3000000", "1", None),  # meant for another process
        ("", "", None),
        ("x", "", None),
        ("0", "", None),
    ],
)
def test_the_environment_is_read_once_and_hidden_from_children(
    usec: str, pid: str, every: float | None, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {SOCKET: manager.address, WATCHDOG: usec, WATCHDOG_PID: str(os.getpid()) if pid == "own" else pid}
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    told = Notify.from_environment()

    assert told._every == every
    told.ready()
    assert manager.told() == ["READY=1", "STATUS="]
    assert not given.keys() & os.environ.keys()


# The supervisor


def test_ready_is_told_when_a_worker_fetches_and_not_before(
    worker: Start, own_server: Any, namespace: str, send: Send, manager: Manager
) -> None:
    own_server.stop()
    command = worker("--workers", 2, **manager.variables())
    command.logged("the server does not answer")
    assert manager.told() == ["STATUS=workers ready: 0 of 2"]
    own_server.start()

    manager.wait("READY=1")

    assert send("add", 1, queue="mail").get(timeout=30) == 3
    manager.wait("STATUS=workers ready: 2 of 2")
    assert manager.told().count("READY=1") == 1


def test_the_watchdog_is_fed_as_long_as_the_supervisor_turns(worker: Start, manager: Manager) -> None:
    command = worker(**manager.variables(watchdog=0.4))
    command.ready()
    manager.wait("WATCHDOG=1", count=10)

    command.signal(signal.SIGSTOP)
    wait_until(lambda: " T " in Path(f"/proc/{command.process.pid}/stat").read_text())
    manager.forget()
    with pytest.raises(TimeoutError):
        manager.wait("WATCHDOG=1", timeout=2)

    command.signal(signal.SIGCONT)
    manager.wait("WATCHDOG=1", count=3)


def test_stopping_is_told_with_the_time_that_it_may_take(
    worker: Start, send: Send, folder: Folder, manager: Manager
) -> None:
    command = worker("--grace", 120, **manager.variables(watchdog=0.4))
    command.ready()
    send("hold", str(folder), "held")
    folder.wait("begin", "held")

    command.signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    manager.forget()
    manager.wait("WATCHDOG=1", count=5)  # it still lives
    assert "READY=1" not in manager.told()
    command.signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    assert f"EXTEND_TIMEOUT_USEC={int((MARGIN + SPARE) * 1e6)}" in manager.told()
    assert command.wait() == 0
    folder.release("held")
    worker("--burst").wait()


def test_the_grace_period_of_the_app_counts_not_the_units(worker: Start, manager: Manager) -> None:
    command = worker("--grace", 120, **manager.variables())
    command.ready()
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert f"EXTEND_TIMEOUT_USEC={int((120 + MARGIN + SPARE) * 1e6)}" in manager.told()
    assert "STATUS=stopping; workers that have not ended: 1" in manager.told()


def test_a_worker_that_has_died_shows_in_the_status(worker: Start, manager: Manager) -> None:
    command = worker("--workers", 2, **manager.variables())
    pids = command.ready(2)
    manager.wait("STATUS=workers ready: 2 of 2")
    manager.forget()
    os.kill(pids[0], signal.SIGKILL)
    manager.wait("STATUS=workers ready: 1 of 2")
    manager.wait("STATUS=workers ready: 2 of 2")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_do_not_inherit_the_socket(worker: Start, manager: Manager) -> None:
    command = worker(**manager.variables(watchdog=10))
    [pid] = command.ready()
    names = {line.partition("=")[0] for line in Path(f"/proc/{pid}/environ").read_text().split("\0")}
    assert "PENSTOCK_URL" in names and not names & {SOCKET, WATCHDOG, WATCHDOG_PID}


def test_a_socket_that_is_not_there_stops_no_worker(worker: Start, send: Send, tmp_path: Path) -> None:
    command = worker(NOTIFY_SOCKET=str(tmp_path / "none"), WATCHDOG_USEC="100000")
    command.ready()
    assert send("add", 1, queue="mail").get(timeout=30) == 3
    assert len(re.findall("the service manager was not told", command.text)) == 1
