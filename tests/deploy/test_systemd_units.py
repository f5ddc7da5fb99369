"""The units of systemd as files: valid, hardened, and of one mind with the supervisor."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.consumers.supervisor import TICK
from penstock.consumers.wards import UNUSABLE
from penstock.settings import ENV_PREFIX
from tests.deploy.files import END, is_refused, parse, settings, tool, variables
from tests.deploy.systemd import UNITS

WORKER, EXPORTER = "penstock-worker@.service", "penstock-exporter.service"
BOTH = [WORKER, EXPORTER]
#: What `systemd-analyze security` may say at most (0: no exposure, 10: unconfined).
LIMITS = {WORKER: 1.4, EXPORTER: 1.3}


class Unit(dict[str, list[str]]):
    """The section ``[Service]``: each setting may be given several times."""

    def __init__(self, name: str) -> None:
        super().__init__()
        section = ""
        for line in (UNITS / name).read_text("utf-8").splitlines():
            if line.startswith("["):
                section = line
            elif section == "[Service]" and "=" in line and not line.startswith("#"):
                key, value = line.split("=", 1)
                self.setdefault(key, []).append(value)

    def one(self, key: str) -> str:
        [value] = self[key]
        return value


def copy(name: str, folder: Path, instance: str = "shop", **changes: str) -> Path:
    """The unit with a program that exists on this machine; `verify` looks for it."""
    text = (UNITS / name).read_text("utf-8")
    for program in ("/srv/%i/.venv/bin/penstock", "/opt/penstock/.venv/bin/penstock"):
        text = text.replace(f"ExecStart={program} ", f"ExecStart={sys.executable} -m penstock ")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = folder / name.replace("@.", f"@{instance}.")
    path.write_text(text)
    return path


def analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [tool("systemd-analyze"), "--no-pager", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("name", BOTH)
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", copy(name, tmp_path))
    # An unknown key prints a line, and the exit code is 0.
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", BOTH)
def test_a_misspelt_key_would_be_found(name: str, tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", copy(name, tmp_path, NoNewPrivileges="NoNewPriviliges"))
    assert "NoNewPriviliges" in done.stderr


@pytest.mark.parametrize("name", BOTH)
def test_they_are_hardened(name: str, tmp_path: Path) -> None:
    path = copy(name, tmp_path)
    done = analyze("security", "--offline=true", f"--threshold={LIMITS[name] * 10:.0f}", path)
    assert done.returncode == 0, done.stdout
    # The threshold is one: a unit without a sandbox fails it.
    path.write_text(f"[Service]\nExecStart={sys.executable}\n")
    assert analyze("security", "--offline=true", f"--threshold={LIMITS[name] * 10:.0f}", path).returncode != 0


@pytest.mark.parametrize("name", BOTH)
def test_what_they_start_is_a_command_of_ours(name: str) -> None:
    program, *words = shlex.split(Unit(name).one("ExecStart"))
    assert Path(program).is_absolute() and Path(program).name == "penstock"
    assert parse(words)[0] == ("worker" if name == WORKER else "exporter")


@pytest.mark.parametrize("name", BOTH)
def test_their_notifications_are_those_that_we_send(name: str) -> None:
    unit = Unit(name)
    assert (unit.one("Type"), unit.one("NotifyAccess"), unit.one("Restart")) == ("notify", "main", "always")
    assert float(unit.one("WatchdogSec")) / 2 > 5 * TICK  # a slow machine is no dead supervisor
    assert int(unit.one("RestartPreventExitStatus")) == UNUSABLE


def test_the_workers_unit_leaves_the_supervisor_its_time() -> None:
    unit = Unit(WORKER)
    grace = settings({name: value for name, value in variables(UNITS / "shop.env").items() if _is_setting(name)}).grace
    assert float(unit.one("TimeoutStopSec")) >= grace + END
    assert unit.one("KillMode") == "mixed" and unit.one("OOMPolicy") == "continue"


def _is_setting(name: str) -> bool:
    return name.startswith(ENV_PREFIX)


@pytest.mark.parametrize(("unit", "name"), [(WORKER, "shop"), (EXPORTER, "exporter")])
def test_the_example_of_the_environment_is_understood(unit: str, name: str) -> None:
    found = variables(UNITS / f"{name}.env")
    settings(found)
    assert "PENSTOCK_URL" in found and all(map(_is_setting, found))
    assert ("PENSTOCK_APP" in found) == (unit == WORKER)
    assert Unit(unit).one("EnvironmentFile") in (f"/etc/penstock/{name}.env", "/etc/penstock/%i.env")
    assert "PASSWORD@" in found["PENSTOCK_URL"]  # an example, no secret


def test_a_wrong_command_would_be_found() -> None:
    assert is_refused(["worker", "--concurency", "3"]) and is_refused(["wroker"])
    assert is_refused(["worker", "--grace", "soon"]) and not is_refused(["worker", "--grace", "20"])
