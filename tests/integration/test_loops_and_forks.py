"""One app over several event loops, threads and processes."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import anyio
import pytest
import uvloop

from penstock import App
from tests.processes import in_child

MakeApp = Callable[..., App]


@pytest.fixture(autouse=True)
def _resource_warnings_are_errors(monkeypatch: pytest.MonkeyPatch) -> object:
    """A connection that nobody closes warns when it is collected: here, and not in some later test."""
    caught: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", caught.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        yield
        gc.collect()
    assert caught == []


def test_two_asyncio_runs_in_a_row(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async def main(n: int) -> int:
        async with app.running():
            return await (await double.adelay(n))

    assert asyncio.run(main(1)) == 2
    gc.collect()
    assert asyncio.run(main(2)) == 4
    assert anyio.run(main, 3) == 6
    assert uvloop.run(main(4)) == 8


def test_sending_in_many_short_loops(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    ids = []
    for n in range(5):
        ids.append(asyncio.run(_send(double, n)))
        gc.collect()
    with app.running():
        assert [app.handle(id).get(timeout=10) for id in ids] == [0, 2, 4, 6, 8]


async def _send(task: object, n: int) -> str:
    return (await task.adelay(n)).id  # type: ignore[attr-defined,no-any-return]


def test_loops_in_several_threads_at_once(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    results: list[list[int]] = []

    async def main() -> list[int]:
        return list(await asyncio.gather(*[(await double.adelay(i)).aget(timeout=30) for i in range(10)]))

    threads = [threading.Thread(target=lambda: results.append(asyncio.run(main()))) for _ in range(4)]
    with app.running():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [[2 * i for i in range(10)]] * 4


def test_closing_leaves_nothing_and_the_app_works_on(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    async def main() -> int:
        async with app, app.running():
            return await (await double.adelay(1))

    assert asyncio.run(main()) == 2
    with app:
        handle = double.delay(2)
    with app, app.running():
        assert handle.get(timeout=10) == 4
    assert not [t for t in threading.enumerate() if t.name.startswith("penstock-results")]


@pytest.mark.parametrize("used", [False, True], ids=["before use", "after use"])
def test_fork(app: App, used: bool) -> None:
    """As a web server that imports the app and then forks its workers."""

    @app.task
    def double(n: int) -> int:
        return 2 * n

    if used:
        with app.running():
            assert double.delay(1).get(timeout=10) == 2
    keys = [f"child{i}" for i in range(3)]
    codes = [in_child(partial(double.options(id=key).delay, 5)) for key in keys]
    assert codes == [0, 0, 0]
    assert double.options(id="parent").delay(6).created
    with app.running():
        assert [double.handle(key).get(timeout=10) for key in (*keys, "parent")] == [10, 10, 10, 12]


def test_a_forked_child_waits_for_results_itself(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    with app.running():
        assert double.delay(1).get(timeout=10) == 2  # its listener runs
        assert in_child(lambda: _check(double.delay(4).get(timeout=30) == 8)) == 0

        async def main() -> None:
            _check(await (await double.adelay(5)).aget(timeout=30) == 10)

        assert in_child(lambda: asyncio.run(main())) == 0
        assert double.delay(2).get(timeout=10) == 4


def _check(condition: bool) -> None:
    if not condition:
        raise AssertionError


def test_parent_and_child_do_not_mix_up_their_replies(app: App) -> None:
    @app.task
    def echo(n: int) -> int:
        return n

    def send(first: int) -> None:
        for n in range(first, first + 50):
            _check(echo.options(id=f"k{n}").delay(n).id == f"default:k{n}")

    send(0)
    children = []
    for i in range(1, 4):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                send(100 * i)
                code = 0
            finally:
                os._exit(code)
        children.append(pid)
    send(1000)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0]
    with app.running():
        assert echo.handle("k349").get(timeout=20) == 349


def test_multiprocessing_fork(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    double.options(id="first").delay(1)
    context = multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        processes = [context.Process(target=double.options(id=f"m{i}").delay, args=(i,)) for i in range(3)]
        for process in processes:
            process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
        process.close()
    with app.running():
        assert [double.handle(f"m{i}").get(timeout=10) for i in range(3)] == [0, 2, 4]


def test_names_of_a_script_are_importable(tmp_path: Path, url: str, namespace: str) -> None:
    """``__main__`` is resolved: the worker imports the script under its own name."""
    script = tmp_path / "my_shop.py"
    script.write_text(
        textwrap.dedent(
            f"""
            from penstock import App
            app = App("shop", url={url!r}, namespace={namespace!r})

            @app.task
            def double(n: int) -> int:
                return 2 * n

            class Mail:
                @staticmethod
                def send() -> None: ...

            app.task(Mail.send)
            if __name__ == "__main__":
                print(*app.tasks)
                print(double.delay(4).id)
            """
        )
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=True)
    names, id = ran.stdout.split("\n")[:2]
    assert names == "my_shop.double my_shop.Mail.send"
    worker = f"import my_shop; my_shop.app.drain(timeout=30); print(my_shop.app.handle({id!r}).get())"
    ran = subprocess.run(
        [sys.executable, "-c", worker], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    assert ran.stdout == "8\n"
    module = subprocess.run(
        [sys.executable, "-m", "my_shop"], capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    assert module.stdout.startswith("my_shop.double my_shop.Mail.send\n")


def test_a_shell_must_give_a_name() -> None:
    code = "from penstock import App\napp = App()\n@app.task\ndef f() -> None: ...\n"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.returncode != 0 and "give name=" in ran.stderr
    code = code.replace("@app.task", "@app.task(name='f')")
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
