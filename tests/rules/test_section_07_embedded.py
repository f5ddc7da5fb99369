"""Section 7: "`embedded://DIR`: the first process that needs it starts a real server. Start and stop under an exclusive
flock; users hold a shared one, and a guardian stops the server when the last is gone, also after kill -9. App, worker
and exporter share it."

Every case of sharing a folder is tested in `tests/acceptance/test_embedded.py`; here whole apps race for one.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import App
from penstock.streams import embedded
from penstock.streams.embedded import disconnect_embedded
from tests.servers import wait_until

#: A program that waits for a line, sends three tasks, and tells which server it has talked to.
PROGRAM = """
import sys
from penstock import App
app = App("race", url=f"embedded://{sys.argv[1]}", namespace="race")
print("ready", flush=True)
sys.stdin.readline()
for n in range(3):
    app.task_named("work", id=f"{sys.argv[2]}-{n}").delay(n)
info = app.connector.sync_node().info("server")
print(info["run_id"], info["process_id"], flush=True)
sys.stdin.readline()
app.close()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    disconnect_embedded(str(folder))
    wait_until(lambda: not embedded._is_locked(folder / "guardian"), 20)


def start(folder: Path, number: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, str(folder), str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line(program: subprocess.Popen[str], say: str | None = None) -> str:
    """What it says next, after it was told to go on."""
    assert program.stdin is not None and program.stdout is not None
    if say is not None:
        program.stdin.write(say + "\n")
        program.stdin.flush()
    return program.stdout.readline().strip()


def test_apps_that_race_for_one_folder_share_one_server_and_lose_nothing(folder: Path) -> None:
    """Both would start a server. One of them is killed afterwards, and perhaps it is the one that did."""
    programs = [start(folder, number) for number in range(3)]
    try:
        assert [line(program) for program in programs] == ["ready"] * 3
        for program in programs:
            assert program.stdin is not None
            program.stdin.write("go\n")
            program.stdin.flush()
        servers = {line(program) for program in programs}
        assert len(servers) == 1 and len(servers.pop().split()) == 2
        programs[0].kill()

        app = App("race", url=f"embedded://{folder}", namespace="race")

        @app.task(name="work")
        def work(n: int) -> int:
            return n

        app.drain(timeout=30)
        assert [app.handle(f"default:{k}-{n}").get(timeout=10) for k in range(3) for n in range(3)] == [0, 1, 2] * 3
        app.close()
    finally:
        for program in programs:
            program.kill()
            program.communicate()
