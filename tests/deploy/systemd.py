"""A real systemd, as a user manager in namespaces of its own: it sees no process and no mount of this machine.

It needs root, for the namespaces and because units of a system manager have rights to give up.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

from tests.commands import PATIENCE
from tests.servers import die_with_parent, wait_until
from tests.source import ROOT

UNITS = ROOT / "deploy" / "systemd"
_BINARY = next(
    (path for path in ("/usr/lib/systemd/systemd", "/lib/systemd/systemd") if os.access(path, os.X_OK)), None
)
_SPACES = ["--fork", "--pid", "--mount", "--mount-proc", "--cgroup", "--kill-child"]
#: Mount points of hierarchies that systemd writes to: version 2 alone, or both versions side by side.
_CGROUPS = [Path("/sys/fs/cgroup", name) for name in ("", "unified", "systemd")]
_RUNTIME = "/run/penstock-test"
#: What a system's boot has made before the first unit starts, and a socket that all users may write to.
_SCRIPT = f"""
umask 0
mount -t tmpfs -o mode=755 tmpfs /run
for d in /run/systemd {_RUNTIME}/systemd; do
    mkdir -p -m 755 $d/inaccessible/dir
    touch $d/inaccessible/reg
    mkfifo $d/inaccessible/fifo
    mknod $d/inaccessible/chr c 0 0
    mknod $d/inaccessible/blk b 0 0
done
mkdir -p /run/systemd/system
{_BINARY} --user &
wait
"""


def reason_not_to_run() -> str:
    """Why there can be none here; empty if there can."""
    if sys.platform != "linux" or _BINARY is None:
        return "systemd is not installed"
    if os.geteuid() != 0:
        return "needs root"
    missing = [name for name in ("unshare", "nsenter", "mount", "systemctl") if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if subprocess.run(["unshare", *_SPACES, "mount", "-t", "tmpfs", "t", "/run"], capture_output=True).returncode:
        return "no namespaces may be made here"
    return "" if _Cgroup.is_possible() else "no cgroup may be made here"


class _Cgroup:
    """One of our own, for a process to enter: the namespace's root is there, and all is gone after it."""

    def __init__(self) -> None:
        name = f"penstock-test-{secrets.token_hex(4)}"
        self.paths = [root / name for root in _CGROUPS if (root / "cgroup.procs").exists()]
        for path in self.paths:
            path.mkdir()

    @classmethod
    def is_possible(cls) -> bool:
        try:
            made = cls()
        except OSError:
            return False
        made.remove()
        return bool(made.paths)

    def enter(self) -> None:
        for path in self.paths:
            (path / "cgroup.procs").write_text(str(os.getpid()))

    def remove(self) -> None:
        wait_until(self._removed, 30)

    def _removed(self) -> bool:
        for path in self.paths:
            for folder, _, _ in os.walk(path, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:  # its last process has not gone yet
                    return False
        return True


class Systemd:
    """Units go into `units`; `run` is systemctl."""

    def __init__(self, folder: Path) -> None:
        self.units = folder / "config" / "systemd" / "user"
        self.units.mkdir(parents=True)
        self._cgroup = _Cgroup()

        def enter() -> None:
            die_with_parent()
            self._cgroup.enter()

        self._process = subprocess.Popen(
            ["unshare", *_SPACES, "sh", "-c", _SCRIPT],
            env={**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), **self._variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=enter,
        )
        self._inside = wait_until(self._child)
        wait_until(lambda: self.run("is-system-running").stdout.strip() in ("running", "degraded"), 30)

    @property
    def _variables(self) -> dict[str, str]:
        return {"XDG_RUNTIME_DIR": _RUNTIME}

    def _child(self) -> str:
        pid = self._process.pid
        return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()

    def run(self, *words: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        return self.inside("systemctl", "--user", "--no-pager", *words, timeout=timeout)

    def inside(self, *words: str, timeout: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespaces."""
        command = ["nsenter", "--target", self._inside, "--mount", "--pid", "--cgroup", *words]
        environment = {**os.environ, **self._variables}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)

    def show(self, unit: str, *names: str) -> list[str]:
        """Properties of a unit, in the order of `names`."""
        lines = self.run("show", unit, *(f"--property={name}" for name in names)).stdout.splitlines()
        values = dict(line.split("=", 1) for line in lines)
        return [values[name] for name in names]

    def install(self, unit: str, drop_in: str) -> None:
        """One of ours, as it stands there, with what differs on this machine."""
        shutil.copy(UNITS / unit, self.units)
        folder = self.units / f"{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(drop_in)
        self.run("daemon-reload")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._cgroup.remove()
