"""What makes no sense is refused with an error that says why, and harms nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import msgspec
import pytest
import redis

from penstock import (
    App,
    ConfigurationError,
    InvalidArguments,
    InvalidTask,
    PenstockError,
    RetryPolicy,
    TaskFailed,
    TaskOptions,
    TaskSet,
    WrongKeyType,
)
from penstock.events import BrokerDown, Succeeded
from tests.integration.support import Seen
from tests.servers import await_until

MakeApp = Callable[..., App]


class A(msgspec.Struct):
    n: int


class B(msgspec.Struct):
    n: int


# Options and settings


@pytest.mark.parametrize(
    ("options", "meant"),
    [
        ({"queu": "mail"}, "did you mean 'queue'"),
        ({"queue": "no spaces"}, "queue"),
        ({"priority": "urgent"}, "high, default, low"),
        ({"run": "fork"}, "async, thread, process"),
        ({"retry": 3}, r"RetryPolicy\(max_retries=3\)"),
        ({"timeout": -1}, "timeout"),
        ({"timeout": "5"}, "timeout"),
        ({"soft_timeout": 5, "timeout": 5}, "soft_timeout"),
        ({"max_deliveries": 0}, "max_deliveries"),
        ({"name": ""}, "task name"),
    ],
)
def test_unknown_and_senseless_task_options(app: App, options: dict[str, Any], meant: str) -> None:
    with pytest.raises(ConfigurationError, match=meant):

        @app.task(**options)
        def work() -> None: ...


@pytest.mark.parametrize(
    ("settings", "meant"),
    [
        ({"leese": 5}, "did you mean 'lease'"),
        ({"lease": 0}, "lease must be more than 0 seconds"),
        ({"lease": "5 s"}, "lease must be float"),
        ({"namespace": "a:b"}, "namespace"),
        ({"sync_in_loop": "maybe"}, "error or warn or allow"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
    ],
)
def test_unknown_and_senseless_settings(settings: dict[str, Any], meant: str) -> None:
    with pytest.raises(ConfigurationError, match=meant):
        App("test", **settings)


def test_settings_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_LEASE", "5.5")
    monkeypatch.setenv("PENSTOCK_NAMESPACE", "staging")
    monkeypatch.setenv("PENSTOCK_STRICT", "yes")
    settings = App().settings
    assert (settings.lease, settings.namespace, settings.strict) == (5.5, "staging", True)
    assert App(lease=7).settings.lease == 7  # the argument wins
    monkeypatch.setenv("PENSTOCK_LEESE", "5")
    with pytest.raises(ConfigurationError, match=r"PENSTOCK_LEESE.*PENSTOCK_LEASE"):
        App()


def test_a_workers_settings_are_checked_too(app: App) -> None:
    with pytest.raises(ConfigurationError, match="concurrency"), app.running(concurency=5):
        pass


def test_urls_that_make_no_sense_and_passwords_that_stay_secret() -> None:
    with pytest.raises(ConfigurationError, match="http"):
        App(url="http://localhost")
    app = App(url="redis://:hunter2@localhost:1/0", connect_timeout=0.2, retry_for=0)
    assert "hunter2" not in repr(app)
    with pytest.raises(PenstockError) as caught:
        app.send("x")
    assert "hunter2" not in str(caught.value)


# Registering


def test_a_name_taken_twice(app: App) -> None:
    @app.task(name="work")
    def one() -> None: ...

    with pytest.raises(InvalidTask, match=r"'work' is taken by .*one"):

        @app.task(name="work")
        def two() -> None: ...

    tasks = TaskSet()

    @tasks.task(name="work")
    def three() -> None: ...

    with pytest.raises(InvalidTask, match="taken"):
        app.include(tasks)


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda app: app.task(lambda: None), "lambda.*name="),
        (lambda app: app.task(5), "not 5"),
        (lambda app: app.task(_generator), "generator"),
        (lambda app: app.task(_ambiguous), "UUID"),
        (lambda app: app.task(_two_structs), "tag"),
        (lambda app: app.task(bind=True)(_no_parameter), "Context"),
        (lambda app: app.task(run="async")(_no_parameter), "async def"),
        (lambda app: app.task(run="thread")(_coroutine), "def"),
        (lambda app: app.task(name="a|b")(_no_parameter), "name"),
    ],
)
def test_functions_that_cannot_be_tasks(app: App, make: Callable[[App], Any], meant: str) -> None:
    with pytest.raises(InvalidTask, match=meant):
        make(app)
    assert not app.tasks


def _generator() -> Iterator[int]:
    yield 1


def _ambiguous(id: UUID | str) -> None: ...


def _two_structs(value: A | B) -> None: ...


def _no_parameter() -> None: ...


async def _coroutine() -> None: ...


def test_a_task_set_that_nobody_included(app: App) -> None:
    tasks = TaskSet()

    @tasks.task
    def work() -> int:
        return 1

    assert work() == 1
    with pytest.raises(ConfigurationError, match="include"):
        work.delay()
    with pytest.raises(ConfigurationError, match="include"):
        work.handle("x")
    app.include(tasks)
    with app.running():
        assert work.delay().get(timeout=10) == 1


def test_defaults_of_an_app_and_of_a_task_set(make_app: MakeApp) -> None:
    policy = RetryPolicy(max_retries=1)
    app = make_app(defaults=TaskOptions(queue="mail", retry=policy, timeout=30))
    tasks = TaskSet(defaults=TaskOptions(timeout=5))

    @tasks.task(queue="own")
    def one() -> None: ...

    @app.task(retry=None)
    def two() -> None: ...

    app.include(tasks)
    assert (one.config.queue, one.config.timeout, one.config.retry) == ("own", 5, policy)
    assert (two.config.queue, two.config.timeout, two.config.retry) == ("mail", 30, None)


def test_imports_and_autodiscover(make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "found_by_tests"
    for name in ("", "shop", "shop/deep", "empty"):
        (package / name).mkdir(exist_ok=True)
        (package / name / "__init__.py").touch()
    text = "from found_by_tests.home import app\n@app.task\ndef work() -> str: return __name__\n"
    for name in ("tasks", "shop/tasks", "shop/deep/tasks", "shop/other"):
        (package / f"{name}.py").write_text(text)
    home = ModuleType("found_by_tests.home")
    monkeypatch.setitem(sys.modules, home.__name__, home)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        app = make_app(imports=["found_by_tests.shop.other"])
        home.app = app  # type: ignore[attr-defined]
        found = ["found_by_tests.shop.deep.tasks", "found_by_tests.shop.tasks", "found_by_tests.tasks"]
        assert sorted(app.autodiscover()) == found
        assert sorted(app.tasks) == [f"{module}.work" for module in found]
        app.load()
        assert "found_by_tests.shop.other.work" in app.tasks
        assert app.autodiscover("found_by_tests.empty") == []
        with pytest.raises(ModuleNotFoundError):
            app.autodiscover("no_such_package")
    finally:
        for module in [m for m in sys.modules if m.startswith("found_by_tests")]:
            del sys.modules[module]


def test_an_annotation_that_is_never_defined(app: App) -> None:
    @app.task
    def work(value: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    with pytest.raises(InvalidTask, match=r"value.*Missing"):
        work.delay(1)
    with pytest.raises(InvalidTask, match="Missing"), app.running():
        pass


# Arguments


def test_types_are_kept_on_the_way(app: App) -> None:
    @app.task
    def show(when: datetime, path: Path, id: UUID, a: A, numbers: set[int], pair: tuple[int, str]) -> str:
        return repr((when, path, id, a, numbers, pair))

    values = (datetime(2026, 1, 2), Path("/a"), UUID(int=5), A(1), {1}, (1, "x"))
    with app.running():
        assert show.delay(*values).get(timeout=10) == repr(values)


def test_subclasses_of_str_and_int_are_sent_as_such(app: App) -> None:
    class Safe(str):
        pass

    @app.task
    def show(text: str) -> str:
        return type(text).__name__ + text

    with app.running():
        assert show.delay(Safe("x")).get(timeout=10) == "strx"


def test_hooks_for_custom_types(make_app: MakeApp) -> None:
    class Money:
        def __init__(self, cents: int) -> None:
            self.cents = cents

    def enc(value: Any) -> Any:
        if isinstance(value, Money):
            return value.cents
        raise NotImplementedError

    def dec(kind: type, value: Any) -> Any:
        if kind is Money:
            return Money(value)
        raise NotImplementedError

    app = make_app(enc_hook=enc, dec_hook=dec)

    def double(money: Money) -> Money:
        return Money(2 * money.cents)

    double.__annotations__ = {"money": Money, "return": Money}  # local to this test
    task = app.task(double)
    with app.running():
        assert task.delay(Money(4)).get(timeout=10).cents == 8
        with pytest.raises(InvalidArguments, match="money"):
            task.delay(object())  # type: ignore[arg-type]


def test_too_large_an_int_and_a_value_that_contains_itself(app: App) -> None:
    @app.task
    def work(value: Any) -> None: ...

    with pytest.raises(InvalidArguments, match="value: an int beyond 64 bits"):
        work.delay(2**70)
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(InvalidArguments, match="contains itself"):
        work.delay(endless)


@pytest.mark.parametrize("id", ["", "with space", "a{b}", "x" * 201, 5, "a\nb"])
def test_ids_that_cannot_be_keys(app: App, id: Any) -> None:
    @app.task
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match="id"):
        work.options(id=id)


def test_an_unusual_id_works(app: App) -> None:
    @app.task
    def work() -> int:
        return 1

    with app.running():
        for id in ("a:b:c", "ünïcödé", "*[x]?", "x" * 200):
            assert work.options(id=id).delay().get(timeout=10) == 1
            assert app.handle(f"default:{id}").get() == 1


def test_bulk_of_something_else(app: App) -> None:
    @app.task
    def work(name: str) -> None: ...

    with pytest.raises(ConfigurationError, match="tuple"):
        work.bulk(["ann", "bob"])
    with pytest.raises(ConfigurationError, match="same id"):
        work.options(id="x").bulk([("a",), ("b",)])
    assert work.bulk([]) == [] and app.bulk([]) == []


# Keys that hold something else


def test_sending_to_a_queue_whose_key_holds_another_type(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    def work() -> None: ...

    raw.set(f"{{{namespace}:default}}:s:default", "taken", px=60_000)
    with pytest.raises(WrongKeyType, match="WRONGTYPE"):
        work.delay()
    assert work.options(priority="high").delay().created
    raw.delete(f"{{{namespace}:default}}:s:default")


@pytest.mark.anyio
async def test_a_worker_goes_on_beside_a_key_of_another_type(
    app: App,
    seen: Seen,
    raw: redis.Redis,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @app.task(queue="good")
    async def good() -> int:
        return 1

    @app.task(queue="bad")
    async def bad() -> int:
        return 2

    for module in ("state", "fetcher", "promoter", "reclaimer"):
        monkeypatch.setattr(f"penstock.consumers.{module}.LEAVE_OUT", 0.5, raising=False)
    monkeypatch.setattr("penstock.consumers.fetcher.BLOCK", 0.5)
    raw.set(f"{{{namespace}:bad}}:s:default", "taken", px=600_000)
    high = await bad.options(priority="high").adelay()
    async with app.running(lease=60):
        for _ in range(5):
            assert await (await good.adelay()).aget(timeout=20) == 1
        assert any("WRONGTYPE" in record.getMessage() for record in caplog.records)
        assert not seen.of(BrokerDown)
        assert await high.aget(timeout=20) == 2  # of the same queue, and read in the same script
        raw.delete(f"{{{namespace}:bad}}:s:default")
        assert await (await bad.adelay()).aget(timeout=30) == 2


@pytest.mark.anyio
async def test_a_record_of_another_type_keeps_only_its_own_task(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = await work.abulk([(i,) for i in range(3)])
    record = f"{{{namespace}:default}}:t:{handles[1].id.partition(':')[2]}"
    raw.delete(record)
    raw.rpush(record, "taken")
    async with app.running(lease=0.6):
        assert [await handles[n].aget(timeout=20) for n in (0, 2)] == [0, 2]
        raw.delete(record)  # out of the way: its turn comes
        await seen.arrive(Succeeded, id=handles[1].id)
        assert await handles[1] == 1


@pytest.mark.anyio
async def test_a_wrong_type_of_result_on_the_readers_side(app: App, make_app: MakeApp) -> None:
    @app.task(name="work")
    async def work() -> str:
        return "text"

    other = make_app("other")

    @other.task(name="work")
    async def older() -> int:
        return 1

    async with app.running():
        handle = await work.options(id="x").adelay()
        assert await handle == "text"
        with pytest.raises(msgspec.ValidationError):
            await older.handle("x")


@pytest.mark.anyio
async def test_a_failure_with_an_endless_message_is_cut(app: App) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("x" * 1_000_000)

    class Broken(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    @app.task
    async def fail_badly() -> None:
        raise Broken

    async with app.running():
        with pytest.raises(TaskFailed) as caught:
            await (await fail.adelay())
        assert len(caught.value.message) == 10_000
        with pytest.raises(TaskFailed, match="Broken"):
            await (await fail_badly.adelay()).aget(timeout=20)
    await await_until(lambda: True)
