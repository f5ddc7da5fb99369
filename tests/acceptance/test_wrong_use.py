"""Misspelt options, apps and settings: exit code 2, and one line that says what was meant."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from penstock.cli.root import root
from tests.commands import Command

Start = Callable[..., Command]


def run(*args: str) -> tuple[int, str]:
    """Exit code and standard error of a command in this process."""
    done = CliRunner().invoke(root, list(args))
    return done.exit_code, done.stderr


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["wroker"], "did you mean 'worker'?"),
        (["-A", "tests.apps.chores:app", "worker", "--quees", "mail"], "--queues"),
        (["-A", "tests.apps.chores:app", "worker", "-Q", "ma il"], "not 'ma il'"),
        (["-A", "tests.apps.chores:app", "worker", "--max-rss", "5X"], "write 500M, 1.5G"),
        (["-A", "tests.apps.chores:app", "worker", "--log-level", "loud"], "loud"),
        (["worker"], "PENSTOCK_APP=shop.tasks:app"),
        (["info", "no-colon"], "'queue:key'"),
        (["dead", "redrive"], "--all with -Q"),
        (["dead", "redrive", "--all"], "--all with -Q"),
        (["queues", "--namespace", "a b"], "not 'a b'"),
        (["queues", "--url", "reddis://localhost"], "reddis"),
    ],
)
def test_wrong_options(args: list[str], says: str) -> None:
    code, text = run(*args)
    assert code == 2 and says in text and "Traceback" not in text


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, as a user's project."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "__init__.py").write_text("")
    (tmp_path / "shop" / "taskz.py").write_text(
        "from penstock import App\nclass Holder: app = App('a')\napp = App('b')\nother = App('c')\nnumber = 3\n"
    )
    (tmp_path / "shop" / "single.py").write_text("from penstock import App\nqueue_app = App('single')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [each for each in __import__("sys").path if each not in ("", os.getcwd())])
    yield tmp_path
    for name in [name for name in __import__("sys").modules if name.split(".")[0] == "shop"]:
        del __import__("sys").modules[name]


@pytest.mark.parametrize(
    ("app", "says"),
    [
        ("shpo.taskz:app", "no module 'shpo'"),
        ("shpo.taskz:app", "did you mean 'shop'?"),
        ("shop.tasks:app", "did you mean 'shop.taskz'?"),
        ("shop.taskz:ap", "did you mean 'app'?"),
        ("shop.taskz:zzzzzz", "its apps are: app, other"),
        ("shop.taskz:number", "is no penstock.App: it is of type 'int'"),
        ("shop.taskz:Holder.ap", "did you mean 'app'?"),
        ("shop.taskz", "which app of 'shop.taskz'"),
        ("shop/taskz.py:app", "did you mean 'shop.taskz:app'?"),
        ("shop.taskz:", "module:attribute"),
    ],
)
def test_an_app_that_is_not_there(modules: Path, app: str, says: str) -> None:
    code, text = run("-A", app, "queues")
    assert code == 2 and says in text and len(text.splitlines()) == 1


@pytest.mark.parametrize("app", ["shop.taskz:app", "shop.taskz:Holder.app", "shop.single", "shop.single:queue_app"])
def test_an_app_that_is_there(modules: Path, app: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_URL", url)
    monkeypatch.setenv("PENSTOCK_NAMESPACE", "nothing-in-it")
    assert run("-A", app, "queues") == (0, "")
    assert run("queues", "-A", app) == (0, "")
    monkeypatch.setenv("PENSTOCK_APP", app)
    assert run("queues") == (0, "")


def test_an_error_in_the_users_module_shows_the_users_traceback() -> None:
    code, text = run("-A", "tests.apps.broken:app", "queues")
    lines = text.splitlines()
    assert code == 2 and lines[0].startswith("Traceback") and "tests/apps/broken.py" in lines[1]
    assert "in read_config" in text and "penstock/cli" not in text and "importlib" not in text
    assert lines[-1].startswith("Error: importing tests.apps.broken failed: JSONDecodeError")


def test_a_missing_dependency_of_the_users_module_is_no_missing_app(modules: Path) -> None:
    (modules / "shop" / "needy.py").write_text("import shop_needs_this\n")
    code, text = run("-A", "shop.needy:app", "queues")
    assert code == 2 and "needy.py" in text and "No module named 'shop_needs_this'" in text


def test_a_wrong_setting_names_its_line() -> None:
    code, text = run("-A", "tests.apps.misspelt:app", "queues")
    assert code == 2 and text == "Error: tests/apps/misspelt.py:7: no such setting: 'leese'; did you mean 'lease'?\n"


def test_a_server_that_does_not_answer_is_said_at_once() -> None:
    code, text = run("queues", "--url", "redis://127.0.0.1:1")
    assert code == 1 and "127.0.0.1:1" in text and len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("app", "args", "env", "says"),
    [
        ("chorez", (), {}, "no module 'tests.apps.chorez' in 'tests.apps'; did you mean 'tests.apps.chores'?"),
        ("misspelt", (), {}, "did you mean 'lease'?"),
        ("chores", ("--lease", "0.1"), {}, "lease must be at least 0.3 s"),
        ("chores", (), {"PENSTOCK_LEESE": "3"}, "did you mean 'PENSTOCK_LEASE'?"),
        ("chores", (), {"PENSTOCK_URL": "redis://127.0.0.1:6379/zero"}, "zero"),
    ],
)
def test_a_worker_that_is_configured_wrongly_says_so_once(
    worker: Start, app: str, args: tuple[str, ...], env: dict[str, str], says: str
) -> None:
    command = worker("--workers", 3, *args, app=app, **env)
    assert command.wait() == 2
    assert says in command.text and len(command.text.splitlines()) == 1


def test_a_worker_without_a_server_names_the_embedded_one(worker: Start) -> None:
    # Nothing listens on the default's port here, or else this test says nothing.
    command = worker("--workers", 2, PENSTOCK_URL="")
    if "serves" in command.logged("serves|embedded://")[0]:
        pytest.skip("a server listens on localhost:6379")
    assert command.wait() == 2
    errors = [line for line in command.text.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and "embedded://" in errors[0]


def test_a_wrong_password_is_final_and_not_shown(worker: Start, url: str) -> None:
    command = worker("--workers", 2, PENSTOCK_URL=url.replace("://", "://:sesame@"))
    assert command.wait() == 2
    assert "sesame" not in command.text and command.text.count("Error:") == 1 and "Traceback" not in command.text
