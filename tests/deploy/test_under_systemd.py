"""The units under a real systemd: what they say of readiness, watchdog, stopping and rights is so."""

from __future__ import annotations

import re
import signal
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.access import ACCESS
from tests.commands import Folder
from tests.deploy.systemd import Systemd, reason_not_to_run
from tests.servers import wait_until
from tests.source import ROOT

WORKER, EXPORTER = "penstock-worker@.service", "penstock-exporter.service"
_PYTHON = Path(sys.executable)
#: Whether what runs lies where the units' processes see nothing: homes, /tmp (with TLS also the certificates), folders
#: that are root's alone.
HIDDEN = ACCESS.tls or any(
    str(path).startswith(("/tmp/", "/var/tmp/", "/home/", "/root/"))
    or any(not parent.stat().st_mode & 0o001 for parent in path.parents)
    for path in (ROOT, _PYTHON, _PYTHON.resolve())
)
#: Then these rights are not taken away here. All others are.
LIFTED = "DynamicUser=no\nProtectHome=no\nPrivateTmp=no\n" if HIDDEN else ""

REASON = reason_not_to_run()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


@pytest.fixture(scope="module")
def systemd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Systemd]:
    systemd = Systemd(tmp_path_factory.mktemp("systemd"))
    yield systemd
    systemd.close()


Install = Callable[..., str]
Send = Callable[..., Any]


@pytest.fixture
def install(systemd: Systemd, folder: Folder, url: str, namespace: str, tmp_path: Path) -> Iterator[Install]:
    """Installs a unit to run this command, with these lines and variables; the instance's name."""
    installed: list[str] = []

    def install(*lines: str, unit: str = WORKER, command: str = "worker", **variables: str) -> str:
        given = {"PENSTOCK_URL": url, "PENSTOCK_NAMESPACE": namespace, **variables}
        environment = tmp_path / f"{command.split()[0]}.env"
        environment.write_text("".join(f"{name}={value}\n" for name, value in given.items()))
        folder.path.chmod(0o777)
        systemd.install(
            unit,
            f"[Service]\nExecStart=\nExecStart={sys.executable} -m penstock {command}\nWorkingDirectory={ROOT}\n"
            f"EnvironmentFile=\nEnvironmentFile={environment}\nStandardError=append:{tmp_path / 'log'}\n"
            f"BindPaths={folder}\n{LIFTED}" + "\n".join(lines),
        )
        installed.append(unit.replace("@.", f"@{namespace}."))
        return installed[-1]

    yield install
    for unit in installed:
        systemd.run("kill", "--signal=KILL", unit)
        systemd.run("stop", unit)
        systemd.run("reset-failed", unit)


@pytest.fixture
def workers(install: Install) -> Install:
    """Installs the workers' unit for `tests.apps.chores`."""
    return lambda *lines, **variables: install(*lines, **{"PENSTOCK_APP": "tests.apps.chores:app", **variables})


def workers_of(systemd: Systemd, unit: str) -> list[str]:
    """Process ids of a unit's workers, inside."""
    [main] = systemd.show(unit, "MainPID")
    return systemd.inside("cat", f"/proc/{main}/task/{main}/children").stdout.split()


def test_a_unit_is_active_when_its_worker_fetches(
    systemd: Systemd, workers: Install, own_server: Any, send: Send
) -> None:
    unit = workers(PENSTOCK_WORKERS="2")
    own_server.stop()
    assert systemd.run("start", "--no-block", unit).returncode == 0
    wait_until(lambda: systemd.show(unit, "StatusText") == ["workers ready: 0 of 2"])
    assert systemd.show(unit, "ActiveState") == ["activating"]
    own_server.start()

    wait_until(lambda: systemd.show(unit, "ActiveState", "StatusText") == ["active", "workers ready: 2 of 2"], 30)

    assert send("add", 1, queue="mail").get(timeout=30) == 3
    assert systemd.run("stop", unit).returncode == 0
    assert systemd.show(unit, "ActiveState", "Result", "NRestarts") == ["inactive", "success", "0"]


def test_a_task_runs_with_no_rights_to_speak_of(systemd: Systemd, workers: Install, send: Send) -> None:
    unit = workers()
    assert systemd.run("start", unit).returncode == 0
    [pid] = workers_of(systemd, unit)
    status = dict(line.split(":\t") for line in systemd.inside("cat", f"/proc/{pid}/status").stdout.splitlines()[:-2])
    assert (status["CapEff"], status["CapBnd"]) == ("0000000000000000",) * 2
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    if not HIDDEN:
        assert int(status["Uid"].split()[0]) >= 61184  # systemd's range for dynamic users
    said = [send(f"say.{kind}", kind) for kind in ("async", "thread", "process")]
    assert [handle.get(timeout=60) for handle in said] == [None] * 3


def test_a_supervisor_that_hangs_is_replaced(systemd: Systemd, workers: Install, send: Send) -> None:
    unit = workers("WatchdogSec=2", "RestartSec=0.1")
    assert systemd.run("start", unit).returncode == 0
    [main] = systemd.show(unit, "MainPID")
    with pytest.raises(TimeoutError):  # a healthy one is not
        wait_until(lambda: systemd.show(unit, "MainPID", "NRestarts") != [main, "0"], 5)

    systemd.inside("kill", "-STOP", main)

    wait_until(lambda: systemd.show(unit, "NRestarts", "ActiveState") == ["1", "active"], 60)
    assert systemd.show(unit, "MainPID") != [main]
    assert send("add", 1, queue="mail").get(timeout=30) == 3


def test_a_grace_period_that_the_unit_knows_nothing_of_is_granted(
    systemd: Systemd, workers: Install, send: Send, folder: Folder
) -> None:
    unit = workers("TimeoutStopSec=2", PENSTOCK_GRACE="60")
    assert systemd.run("start", unit).returncode == 0
    held = send("hold", str(folder), "held")
    folder.wait("begin", "held")

    systemd.run("stop", "--no-block", unit)
    wait_until(lambda: systemd.show(unit, "ActiveState") == ["deactivating"])
    with pytest.raises(TimeoutError):
        wait_until(lambda: systemd.show(unit, "ActiveState") != ["deactivating"], 5)
    folder.release("held")

    wait_until(lambda: systemd.show(unit, "ActiveState", "Result") == ["inactive", "success"], 30)
    assert held.get(timeout=10) == "held" and len(folder.notes("begin", "held")) == 1


def test_a_worker_that_is_killed_is_the_supervisors_matter(systemd: Systemd, workers: Install, send: Send) -> None:
    unit = workers()
    assert systemd.run("start", unit).returncode == 0
    before = workers_of(systemd, unit)
    [main] = systemd.show(unit, "MainPID")

    systemd.inside("kill", f"-{signal.SIGKILL.value}", *before)

    wait_until(lambda: workers_of(systemd, unit) not in ([], before), 30)
    assert send("add", 1, queue="mail").get(timeout=30) == 3
    assert systemd.show(unit, "MainPID", "NRestarts", "ActiveState") == [main, "0", "active"]


def test_what_cannot_start_is_not_started_again(systemd: Systemd, workers: Install) -> None:
    unit = workers("RestartSec=0.1", PENSTOCK_APP="tests.apps.missing:app")
    assert systemd.run("start", unit).returncode != 0
    assert systemd.show(unit, "ActiveState", "ExecMainStatus", "NRestarts") == ["failed", "2", "0"]


def test_the_exporter_under_its_unit(systemd: Systemd, install: Install, tmp_path: Path) -> None:
    unit = install("WatchdogSec=2", unit=EXPORTER, command="exporter --host 127.0.0.1 --port 0")
    assert systemd.run("start", unit).returncode == 0

    def place() -> str:
        found = re.search(r"http://127\.0\.0\.1:\d+/", (tmp_path / "log").read_text())
        return found[0] if found else ""

    with urllib.request.urlopen(f"{wait_until(place)}metrics", timeout=10) as reply:
        assert b"\npenstock_redis_up 1.0\n" in reply.read()
    with pytest.raises(TimeoutError):  # it feeds its watchdog
        wait_until(lambda: systemd.show(unit, "ActiveState", "NRestarts") != ["active", "0"], 5)
    assert systemd.run("stop", unit).returncode == 0
    assert systemd.show(unit, "ActiveState", "Result") == ["inactive", "success"]
