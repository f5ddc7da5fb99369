"""Every example runs as it stands, with warnings as errors, and prints what it says it does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.source import ROOT

EXAMPLES = ROOT / "examples"

#: Lines that each must print, as regular expressions, in this order.
PRINTS = {
    "all_kinds.py": [
        r"50 pages, the last 'page 49'",
        r"factors: \[71, 839, 1471, 6857\]",
        r"slow_async: timeout: .*HardTimeout",
        r"slow_thread: timeout: .*HardTimeout",
        r"slow_process: timeout: .*HardTimeout",
        r"polite: saved what was done",
        r"done in [\d.]+ s",
    ],
    "by_name.py": [
        r"\{'welcome to ada@example\.org': 2\}",
        r"\{'hello to bob@example\.org': 1\}",
        r"mail\.send",
        r"waits for a worker that knows it: True",
        r"given up: True",
        r"does not fit: ResultTimeout; send\(\): copies: expected int, got str",
    ],
    "email_receipts.py": [
        r"sent mail:receipt-1: new True; sent again: new False",
        r"receipt 1 over 19\.90 to ada@example\.org and the shop",
        r"receipt 4 over 20\.00 to customer4@example\.org",
        r"500 sent in bulk; the last one: receipt 599 .*",
        r"refused: send_receipt\(\): order\.total: expected float, got str",
    ],
    "library_taskset/main.py": [
        r"found: shop\.mail\.tasks, shop\.stock\.tasks",
        r"tasks: imaging\.describe, imaging\.thumbnail, shop\.mail\.tasks\.send_receipt, shop\.stock\.tasks\.add_item",
        r"receipt 42",
        r"on the queue images: tea\.png@50",
        r"tea\.png described on the queue images",
    ],
    "notebook_style.py": [
        r"\[0\.2, 0\.2, 0\.2, 0\.3, 0\.2, 0\.2\]",
        r"100 texts embedded",
        r"difference: 0\.1",
        r"\['queued', 'queued'\]",
        r"\['succeeded', 'succeeded'\]",
    ],
    "quickstart.py": [r"receipt 42 sent, and a copy"],
    "results_and_info.py": [
        r"queued, done: False",
        r"not yet: ResultTimeout",
        r"never-sent is not known.*",
        r"Report of February 29: results_and_info\.py, True",
        r"results_and_info\.count_lines succeeded, attempt 1, run once: True",
        r"in order: True",
        r"ZeroDivisionError: division by zero; line of the fault shown: True",
        r"touch succeeded, and its result was not kept",
    ],
    "retries.py": [
        r"flaky: worked in attempt 3",
        r"asks_for_it: worked in attempt 2",
        r"not_yet: snoozed twice, and this is attempt 1",
        r"hopeless: rejected: order 7 does not exist",
        r"payments:charge-1 failed: ConnectionError: the bank does not answer",
        r"dead: payments:charge-\d retries\.charge \{'order_id': \d\} after 2 attempts: ConnectionError: .*",
        r"sent again: 2",
        r"order 1 charged",
        r"order 2 charged",
    ],
    "scheduled.py": [
        r"default:tomorrow is scheduled",
        r"cancelled: True, and it is cancelled",
        r"reminder: no delay",
        r"reminder: tea is ready; not early: True",
        r"'default:stale' was not started before it expired",
        r"cancel of a running task: True",
        r"export was cancelled",
    ],
    "tracing.py": [
        r"order 42 is paid",
        r"traces: 1",
        r"POST /orders",
        r"send default",
        r"run tracing\.pay +retried",
        r"run tracing\.pay +succeeded",
        r"send mail",
        r"run tracing\.send_receipt +succeeded",
    ],
}


def programs(folder: Path) -> list[str]:
    """Each file of the folder itself, and the ``main.py`` of each folder in it."""
    found = [*folder.glob("*.py"), *folder.glob("*/main.py")]
    return sorted(path.relative_to(folder).as_posix() for path in found)


def missing(output: str, wanted: list[str]) -> list[str]:
    """The first of the `wanted` lines that is not in `output` after those before it, and all that follow."""
    lines = iter(output.splitlines())
    for i, pattern in enumerate(wanted):
        if not any(re.fullmatch(pattern, line) for line in lines):
            return wanted[i:]
    return []


@pytest.mark.parametrize("program", programs(EXAMPLES))
def test_it_runs_as_it_stands(program: str, tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / program)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=tmp_path,
        env=environment,
    )
    everything = f"{done.stdout}\n{done.stderr}"
    assert done.returncode == 0, everything
    assert missing(done.stdout, PRINTS[program]) == [], everything
    assert "Warning" not in done.stderr, everything


def test_it_also_runs_on_a_server_of_ones_own(url: str, tmp_path: Path, namespace: str) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PENSTOCK_URL": url, "PENSTOCK_NAMESPACE": namespace}
    command = [sys.executable, "-W", "error", str(EXAMPLES / "quickstart.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=environment)
    assert missing(done.stdout, PRINTS["quickstart.py"]) == [], done.stderr


# The check itself.


def test_a_missing_line_is_found() -> None:
    assert missing("a\nb\nc", ["a", "c"]) == []
    assert missing("a\nb\nc", ["c", "a"]) == ["a"]
    assert missing("a 5\nb", [r"a \d", "x", "b"]) == ["x", "b"]
