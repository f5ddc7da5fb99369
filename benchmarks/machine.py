"""Where and when: what a reader needs to judge the figures. No host name."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.servers import server_version


def describe() -> dict[str, str]:
    """What the report begins with."""
    return {
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}, {platform.machine()}",
        "python": platform.python_version(),
        "server": f"{server_version()}, no persistence, TCP on loopback, a new one for each run",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "command": " ".join(["python -m benchmarks", *_measures(sys.argv[1:])]),
    }


def _measures(arguments: list[str]) -> list[str]:
    """Without where the report goes."""
    kept: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        if "--report" not in (before, argument) and not argument.startswith("--report="):
            kept.append(argument)
    return kept


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
        said = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        return said.stdout.strip() or platform.machine()
    except OSError:
        return platform.machine()
