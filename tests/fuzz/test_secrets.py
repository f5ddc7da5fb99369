"""No password and no task's argument is ever printed: each surface is run with a canary in it, and searched."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
import rich.pretty
from rich.console import Console

from penstock import App, PenstockError
from penstock.streams import keys
from penstock.streams.message import Message, encode_message
from penstock.streams.urls import Address, parse
from tests.conftest import binary
from tests.fuzz.secret_app import app as secretive
from tests.servers import DEFAULT, SERVERS, Server, free_port, wait_until

CANARY = "c4n/ry:h?nt@r2"
#: As it may turn up: as it is, percent-encoded, as repr shows it.
TRACES = (CANARY, quote(CANARY, safe=""), quote(CANARY), "c4n/ry", "c4n%2Fry", "nt@r2", "nt%40r2")
ROOT = Path(__file__).parents[2]


def search(where: str, text: str) -> None:
    """Fail if any trace of the canary is in `text`."""
    for trace in TRACES:
        at = text.find(trace)
        assert at < 0, f"{where}: {text[max(0, at - 300) : at + 100]}"


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Server]:
    """A server whose password is the canary."""
    server = Server(binary(DEFAULT), tmp_path / "locked", "--requirepass", CANARY).start()
    yield server
    server.kill()


def url_of(server: Server, password: str = CANARY) -> str:
    return f"redis://:{quote(password, safe='')}@127.0.0.1:{server.port}/0"


def everything(app: App) -> str:
    """What repr, str and rich's pretty printer make of an app and what hangs on it."""
    connector = app.connector
    parts = [app, app.settings, connector, connector.address, parse(connector.address), parse(connector.address).tls]
    console = Console(width=200, file=open(os.devnull, "w"))  # noqa: SIM115 - nothing is written
    with console.capture() as capture:
        console.print(*parts)
    console.file.close()
    shown = [f"{part!r} {part}" for part in parts] + [rich.pretty.pretty_repr(parts), capture.get()]
    return "\n".join([*shown, repr(vars(connector)), repr(connector.sync_client()), repr(connector.async_client())])


URLS = [
    "redis://:{}@127.0.0.1:{port}/0",
    "redis://user:{}@127.0.0.1:{port}/0",
    "redis://127.0.0.1:{port}/0?password={}",
    "rediss://user:{}@127.0.0.1:{port}/0?ssl_password={}",
    "redis+sentinel://user:{}@127.0.0.1:{port}/primary/0?sentinel_password={}",
    "redis+cluster://user:{}@127.0.0.1:{port}",
    "unix://user:{}@/tmp/no-such-socket",
    "unix:///tmp/no-such-socket?password={}",
]


@pytest.mark.anyio
@pytest.mark.parametrize("url", URLS)
async def test_reprs_and_errors_of_every_scheme(url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given = url.replace("{}", quote(CANARY, safe="")).replace("{port}", str(free_port()))
    app = App("shop", url=given, connect_timeout=0.5, retry_for=0, sync_in_loop="allow")
    search("repr", everything(app))
    said = []
    with pytest.raises(PenstockError) as sync_error:
        app.send("x")
    said += traceback.format_exception(sync_error.value)
    with pytest.raises(PenstockError) as async_error:
        await app.asend("x")
    said += traceback.format_exception(async_error.value)
    await app.aclose()
    assert len(said) > 4 and CANARY in str(msgspec.structs.asdict(parse(Address(given))))  # it is there to be found
    search("error", "\n".join([*said, *(repr(each.value.__cause__) for each in (sync_error, async_error))]))
    search("log", caplog.text)


@pytest.mark.parametrize("server_name", list(SERVERS))
@pytest.mark.parametrize("refusal", ["a wrong password", "no AUTH"])
@pytest.mark.anyio
async def test_errors_of_a_server_that_refuses(
    server_name: str, refusal: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server without AUTH answers with the beginning of what it was sent: the password."""
    caplog.set_level(logging.DEBUG)
    options = ("--requirepass", "other") if refusal == "a wrong password" else ("--rename-command", "AUTH", "LOGIN")
    server = Server(binary(server_name), tmp_path / "server", *options).start()
    try:
        app = App("shop", url=url_of(server), retry_for=0, sync_in_loop="allow")
        said = []
        for send in (lambda: app.send("x"), lambda: app.handle("default:x").info()):
            with pytest.raises(PenstockError) as caught:
                send()
            said += traceback.format_exception(caught.value)
        with pytest.raises(PenstockError) as caught:
            await app.asend("x")
        said += traceback.format_exception(caught.value)
        with pytest.raises(PenstockError) as caught:
            async with app.running():
                raise AssertionError("it cannot run")
        said += traceback.format_exception(caught.value)
        await app.aclose()
        search("error", "\n".join(said))
        search("log", caplog.text)
    finally:
        server.kill()


def penstock(url: str, *args: str) -> str:
    """All that a command prints, until it ends by itself."""
    env = {**os.environ, "PENSTOCK_URL": url, "PENSTOCK_NAMESPACE": "canary"}
    command = [sys.executable, "-m", "penstock", *args]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, timeout=60, check=False)
    return (done.stdout + done.stderr).decode(errors="replace")


def command_lines(parent: int) -> list[str]:
    """Of a process and all its descendants, as `ps` shows them."""
    found, todo = [], [str(parent)]
    while todo:
        pid = todo.pop()
        try:
            found.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            todo += [c for t in Path(f"/proc/{pid}/task").iterdir() for c in (t / "children").read_text().split()]
        except OSError:  # ended meanwhile
            continue
    return found


COMMANDS = [
    ("doctor",), ("doctor", "--json"), ("queues",), ("queues", "--json"), ("workers",), ("workers", "--json"),
    ("dead", "list"), ("dead", "list", "--json"),
    ("info", "default:x"), ("result", "default:x"), ("cancel", "default:x"),
    ("-A", "tests.fuzz.secret_app:app", "worker", "--burst", "--log-level", "debug"),
    ("-A", "tests.fuzz.secret_app:app", "worker", "--burst", "--log-level", "debug", "--log-format", "json"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_the_command_line(command: tuple[str, ...], locked: Server) -> None:
    said = penstock(url_of(locked), *command)
    assert said
    search(" ".join(command), said)


@pytest.mark.parametrize("command", [("doctor", "--json"), ("queues",), COMMANDS[-1]], ids=" ".join)
def test_the_command_line_when_it_is_refused(command: tuple[str, ...], tmp_path: Path) -> None:
    server = Server(binary(DEFAULT), tmp_path / "other", "--requirepass", "other").start()
    try:
        said = penstock(url_of(server), *command)
    finally:
        server.kill()
    assert "invalid" in said and "password" in said
    search(" ".join(command), said)


SECRET = "arg-c4n4ry-5e71"
#: Tasks whose argument does not fit their annotation: a producer without their code sends it.
MISFITS = ("wants_a_kind", "wants_a_word", "wants_a_login", "wants_a_number", "wants_a_login_in_process")


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_arguments_are_in_no_log(server: Server, tmp_path: Path, namespace: str, log_format: str) -> None:
    names = [task.__name__ for task in secretive.tasks.values()]
    with App("producer", url=server.url, namespace=namespace) as app, open(tmp_path / "log", "w+b") as log:
        for name in names:
            value: Any = {"name": SECRET, "password": SECRET} if "login" in name else SECRET
            app.task_named(f"tests.fuzz.secret_app.{name}", id=name, meta={"m": SECRET}).delay(secret=value)
        app.task_named("nobody.knows", id="nobody").delay(SECRET)
        _send_bytes(server, namespace)
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "-A", "tests.fuzz.secret_app:app", "worker", "--log-level", "debug",
             "--log-format", log_format],
            cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "PENSTOCK_URL": server.url, "PENSTOCK_NAMESPACE": namespace, "PYTHONASYNCIODEBUG": "1"},
        )  # fmt: skip
        try:
            ended = [name for name in names if name != "snoozes"] + ["nobody", "hostile"]
            wait_until(lambda: all(app.handle(f"default:{name}").done() for name in ended), 60)
            wait_until(lambda: app.handle("default:snoozes").state() == "scheduled", 60)
            for line in command_lines(process.pid):
                assert SECRET not in line
            errors = [app.handle(f"default:{name}").info().error or "" for name in names]
            letters = {letter.id: letter for letter in app.dead_letters().list()}
        finally:
            process.terminate()
            process.wait(30)
        log.seek(0)
        said = log.read().decode()
        app.handle("default:snoozes").cancel()
    assert f"default:{MISFITS[0]}" in letters and "failed" in said  # they did fail, and it was logged
    for name in MISFITS:
        assert letters[f"default:{name}"].reason == "unknown_task"
        assert SECRET not in letters[f"default:{name}"].error, letters[f"default:{name}"].error
    assert SECRET not in "\n".join(errors)
    at = said.find(SECRET)
    assert at < 0, said[max(0, at - 1000) : at + 100]


def _send_bytes(server: Server, namespace: str) -> None:
    stream = keys.stream(keys.base(namespace, "default"), "default")
    with server.client() as client:
        client.xadd(stream, {"k": "hostile", "m": encode_message(Message("x", timeout=None)) + SECRET.encode()})


def test_events_carry_no_arguments(app: App, seen: Any, server: Server) -> None:
    @app.task(name="fails")
    async def fails(secret: str) -> None:
        raise ValueError("no")

    with app.running():
        handle = fails.options(meta={"m": SECRET}).delay(SECRET)
        wait_until(handle.done, 20)
    assert len(seen.events) >= 3
    assert SECRET not in repr(seen.events)
    assert SECRET not in repr(handle) and SECRET not in repr(fails.s(SECRET)) and SECRET not in repr(fails)
