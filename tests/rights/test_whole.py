"""The behaviour of the whole, under exactly the documented rules: tests of tests/integration with a user who has
the rights of a producer and a worker and no others, and the command line with a user for each role."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import App
from penstock.metrics import Exporter
from penstock.streams.rights import INSPECTOR, OPERATOR, PRODUCER, WORKER
from tests.acceptance.conftest import folder, penstock
from tests.access_run import OPTIONAL
from tests.commands import Command, Folder
from tests.integration.conftest import app, make_app, seen, start_worker
from tests.integration.test_cancel import (
    test_a_running_task_is_stopped_from_another_app,
    test_a_waiting_task_ends_at_once_with_no_worker_up,
    test_cancel_between_two_retries,
)
from tests.integration.test_consuming import (
    test_a_long_task_keeps_its_lease,
    test_a_task_may_send_others,
    test_async_thread_and_process_tasks_in_one_worker,
    test_drain_runs_everything_parked_tasks_too,
)
from tests.integration.test_priorities import test_a_high_one_overtakes_a_backlog
from tests.integration.test_processes import test_tasks_of_a_killed_worker_run_again
from tests.integration.test_producing import (
    test_a_full_queue_refuses,
    test_handles_of_a_mixed_bulk_come_in_the_order_of_the_calls,
    test_the_same_id_twice_changes_nothing_and_says_so,
)
from tests.integration.test_results import (
    test_a_waiter_is_woken_at_once,
    test_every_other_ending_shows,
    test_info_of_a_task_from_scheduled_to_succeeded,
    test_the_sync_methods_of_a_handle,
)
from tests.integration.test_retries import (
    test_raise_snooze_runs_it_again_and_spends_none,
    test_retries_until_it_succeeds,
)
from tests.integration.test_scheduling import (
    test_delay_eta_and_countdown_start_when_due_and_not_before,
    test_what_has_expired_does_not_run,
)
from tests.integration.test_shutdown import test_an_orderly_end_removes_the_workers_traces
from tests.metrics.support import Scrape
from tests.rights.conftest import Denied, Login

__all__ = [
    "app", "folder", "make_app", "penstock", "seen", "start_worker",
    "test_a_full_queue_refuses",
    "test_a_high_one_overtakes_a_backlog",
    "test_a_long_task_keeps_its_lease",
    "test_a_running_task_is_stopped_from_another_app",
    "test_a_task_may_send_others",
    "test_a_waiter_is_woken_at_once",
    "test_a_waiting_task_ends_at_once_with_no_worker_up",
    "test_an_orderly_end_removes_the_workers_traces",
    "test_async_thread_and_process_tasks_in_one_worker",
    "test_cancel_between_two_retries",
    "test_delay_eta_and_countdown_start_when_due_and_not_before",
    "test_drain_runs_everything_parked_tasks_too",
    "test_every_other_ending_shows",
    "test_handles_of_a_mixed_bulk_come_in_the_order_of_the_calls",
    "test_info_of_a_task_from_scheduled_to_succeeded",
    "test_raise_snooze_runs_it_again_and_spends_none",
    "test_retries_until_it_succeeds",
    "test_tasks_of_a_killed_worker_run_again",
    "test_the_same_id_twice_changes_nothing_and_says_so",
    "test_the_sync_methods_of_a_handle",
    "test_what_has_expired_does_not_run",
]  # fmt: skip

pytestmark = pytest.mark.anyio


@pytest.fixture
def url(login: Login) -> str:
    """The tests' server, for a user who may do what producers and workers do."""
    return login(PRODUCER, WORKER)


@pytest.fixture(autouse=True)
def _nothing_is_refused(denied: Denied, login: Login) -> Iterator[None]:
    """Not even where a script or a fallback would swallow it."""
    yield
    assert denied() - OPTIONAL == set()


def test_each_role_with_a_user_of_its_own(
    penstock: Callable[..., Command], login: Login, namespace: str, folder: Folder
) -> None:
    """A producer without the code, `penstock worker`, the commands that look, a redrive."""
    worker, inspector, operator = login(WORKER), login(INSPECTOR), login(OPERATOR, INSPECTOR)

    def look(*args: object, url: str = inspector) -> Any:
        command = penstock(*args, "--json", env={"PENSTOCK_URL": url})
        assert command.process.stdout is not None
        text = command.process.stdout.read()
        assert command.wait() == 0, command.text
        return json.loads(text)

    with App("producer", url=login(PRODUCER), namespace=namespace) as producer:

        def send(task: str, *args: object, **options: Any) -> Any:
            return producer.task_named(f"tests.apps.chores.{task}", queue="mail", **options).delay(*args)

        command = penstock("-A", "tests.apps.chores:app", "worker", "-Q", "mail", env={"PENSTOCK_URL": worker})
        command.ready()
        assert send("add", 41).get(timeout=30) == 43
        held, later = send("hold", str(folder), "held"), send("add", 1, delay=600)
        folder.wait("begin", "held")
        failed = send("fail", "no way")
        with pytest.raises(Exception, match="no way"):
            failed.get(timeout=30)

        (stats,) = look("queues")
        assert (stats["queue"], stats["dead"], stats["scheduled"]) == ("mail", 1, 1)
        assert [each["queues"] for each in look("workers")] == [["mail"]]
        assert look("check")["alive"] == 1
        with Exporter(inspector, namespace=namespace) as exporter:
            metrics = Scrape(exporter.render().decode())
        assert metrics.value("penstock_queue_dead_tasks", queue="mail") == 1
        assert metrics.value("penstock_redis_noeviction") == 1 and metrics.value("penstock_queue_live_workers") == 1
        assert look("info", failed.id)["state"] == "failed"
        (letter,) = look("dead", "list")
        assert letter["id"] == failed.id
        assert look("dead", "redrive", failed.id, url=operator) == {"redriven": 1}

        assert held.cancel() and later.cancel()
        with pytest.raises(Exception, match="cancelled"):
            held.get(timeout=30)
        with pytest.raises(Exception, match="no way"):
            failed.get(timeout=30)
