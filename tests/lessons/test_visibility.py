"""What waits, runs, is scheduled or dead can be seen, while workers are busy and when none is there."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner

from penstock import App, State, TaskFailed
from penstock.cli.root import root
from tests.commands import Folder
from tests.lessons.conftest import StartJobs
from tests.servers import wait_until


@pytest.fixture
def cli(url: str, namespace: str) -> Any:
    """Runs a command in this process, and reads its JSON."""

    def run(*args: str) -> Any:
        done = CliRunner().invoke(root, [*args, "--json", "--url", url, "--namespace", namespace])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    return run


def test_what_waits_runs_is_scheduled_or_dead_can_be_seen(
    app: App, worker: StartJobs, folder: Folder, cli: Any
) -> None:
    """celery/celery#8556, mher/flower PR #953, #542, Koed00/django-q#615: only workers could be asked, and only for
    what they had prefetched; what waited in Redis could not be seen, and what had been was forgotten."""
    hold = app.task_named("tests.lessons.jobs.hold")
    waiting = [hold.options(priority="low").delay(str(folder), f"w{n}") for n in range(3)]
    scheduled = hold.options(delay=600).delay(str(folder), "later")
    (seen,) = cli("queues")  # no worker is there
    assert (seen["ready"]["low"], seen["scheduled"], sum(seen["running"].values())) == (3, 1, 0)
    busy = worker("-c", "1")
    busy.ready()
    wait_until(lambda: len(folder.notes("begin")) == 1)
    (seen,) = cli("queues")
    assert (seen["ready"]["low"], sum(seen["running"].values()), seen["scheduled"]) == (2, 1, 1)
    states = sorted(cli("info", handle.id)["state"] for handle in [*waiting, scheduled])
    assert states == ["queued", "queued", "running", "scheduled"]
    folder.release("w0", "w1", "w2")
    assert [handle.get(timeout=30) for handle in waiting] == ["w0", "w1", "w2"]
    broken = app.task_named("tests.lessons.jobs.add").delay(1, "x")
    wait_until(lambda: broken.state() in (State.FAILED, State.SCHEDULED), 30)
    (seen,) = cli("queues")
    assert sum(seen["ready"].values()) + sum(seen["running"].values()) == 0
    assert seen["counters"]["succeeded"] == {"tests.lessons.jobs.hold": 3}
    assert cli("info", waiting[0].id)["state"] == "succeeded"  # what has been is known for as long as its result
    assert scheduled.cancel()
    if not broken.done():
        broken.cancel()


def test_dead_tasks_are_listed_with_all_that_is_needed_to_send_them_again(app: App, cli: Any) -> None:
    """Koed00/django-q#615, mher/flower PR #953: the history of failures was lost, or without arguments."""
    works = False

    @app.task
    def charge(order: int) -> int:
        if not works:
            raise ValueError(f"no such order: {order}")
        return order

    handles = [charge.delay(n) for n in range(30)]
    with app.running():
        for handle in handles:
            with pytest.raises(TaskFailed):
                handle.get(timeout=30)
        assert cli("queues")[0]["dead"] == 30
        assert len(cli("dead", "list")) == 20 and len(cli("dead", "list", "--limit", "100")) == 30
        letter = cli("dead", "show", handles[7].id)
        assert letter["args"] == {"order": 7} and letter["error"] == "ValueError: no such order: 7"
        assert letter["worker"] and letter["died_at"] and "raise ValueError" in letter["traceback"]
        works = True
        assert cli("dead", "redrive", handles[7].id) == {"redriven": 1}
        assert handles[7].get(timeout=30) == 7
