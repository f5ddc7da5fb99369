"""Sees to it that Prometheus and Alertmanager are there: installs Debian's packages, or says what to install."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

#: Programs, and Debian's packages of them.
PROGRAMS = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}


def missing() -> list[str]:
    """The packages that are not there; elsewhere than on Debian Alertmanager's program has a shorter name."""
    found = {name for name in PROGRAMS if shutil.which(name) or shutil.which(name.removeprefix("prometheus-"))}
    return sorted({package for name, package in PROGRAMS.items() if name not in found})


def main() -> int:
    packages = missing()
    if not packages:
        return 0
    command = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        print(f"not installed: {', '.join(packages)}. On Debian or Ubuntu:  sudo {' '.join(command)}", file=sys.stderr)
        return 1
    # No service is to be started by the way: the tests start their own.
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    for words in (["apt-get", "update", "-q"], command):
        code = subprocess.run(words, env=environment, stdout=subprocess.DEVNULL, check=False).returncode
        if code:
            return code
    return 1 if missing() else 0


if __name__ == "__main__":
    sys.exit(main())
