"""What happens in the run, and what is true of it: the tests compare what Prometheus says with this.

Everything goes on at once, as an operator would not wish it: workers are killed, stand still, or are missing; tasks
fail, time out and are retried; queues stall and are paused; Redis is about to be full. When all that has raised its
alerts the causes are mended, and the alerts must end. Then Redis itself goes away, and then the exporters.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

from penstock import Handle
from penstock.streams import keys
from tests.observability.programs import poll
from tests.observability.stage import NAMESPACE, Stage, about

#: Seconds: how long ago the tasks of the queue `old` were sent, so it is said.
OLD = 600.0
#: Alerts of Redis itself, and of workers and queues: all of these fire until the height.
OF_REDIS = {
    "PenstockRedisMayEvict",
    "PenstockRedisMemoryNearMax",
    "PenstockRedisNotPersistent",
    "PenstockRedisEvicted",
}
OF_QUEUES = {
    "PenstockOldestTaskTooOld",
    "PenstockQueueWithoutWorkers",
    "PenstockErrorRatioHigh",
    "PenstockDeadLetters",
    "PenstockSchedulerLate",
    "PenstockOverdueLeases",
    "PenstockSaturated",
    "PenstockWorkerHeartbeatStale",
    "PenstockEventLoopBlocked",
    "PenstockRedeliveryStorm",
    "PenstockWaitBudgetBurnFast",
    "PenstockWaitBudgetBurnSlow",
    "PenstockReadsFail",
}
#: Those whose cause lasts until the end: a queue that nobody serves, and workers that will never come back. And one
#: that ends half an hour after its cause, which is a minute here.
LASTING = {"PenstockQueueWithoutWorkers", "PenstockWorkerHeartbeatStale", "PenstockWaitBudgetBurnSlow"}
#: Tasks of the queue `busy`: more than its worker will do. The rest is cancelled.
NAPS = 300
#: Queue -> how many of its tasks nobody starts until the height; those of `stalled`, nobody ever.
WAITING = {"stalled": 5, "old": 4, "paused": 3, "late": 1}
#: Queue -> how many of its tasks are in the hands of a worker that is killed or stands still.
HELD = {"killed": 4, "hung": 1, "storm": 12}
_MEGABYTE = 1024 * 1024
_FOREIGN = keys.stream(keys.base(NAMESPACE, "hidden"), "high")


def _held(*queues: str) -> list[str]:
    return [f"{queue}{number}" for queue in queues for number in range(HELD[queue])]


class Truth:
    """What is known without asking penstock."""

    def __init__(self) -> None:
        #: (task, outcome), (task), (task, reason) -> how many.
        self.finished: Counter[tuple[str, str]] = Counter()
        self.retried: Counter[str] = Counter()
        self.failures: Counter[tuple[str, str]] = Counter()
        self.returned: Counter[tuple[str, str]] = Counter()
        #: Of queues.
        self.dead: Counter[str] = Counter()
        self.redelivered: Counter[str] = Counter()
        #: When the first task of a queue was sent: by this host's clock, which is the server's, too.
        self.sent_at: dict[str, float] = {}
        #: When something had been reached.
        self.moments: dict[str, float] = {}

    def mark(self, name: str) -> None:
        self.moments[name] = time.time()


class Story:
    """Tells itself on a stage."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.truth = Truth()
        self._handles: list[Handle[Any]] = []
        self._naps: list[Handle[Any]] = []
        self._fails = threading.Event()
        #: Processes that will be killed.
        self._victims: list[int] = []
        #: What Alertmanager knew of at the moment `calm`.
        self.known: set[tuple[str, str]] = set()

    def tell(self) -> None:
        """All of it."""
        stage, truth = self.stage, self.truth
        self._start_workers()
        truth.mark("begin")
        self._hide_a_queue()
        self._stall()
        self._fill_redis()
        self._die()
        with self._load():
            self._late_faults()
            stage.wait_fired(OF_QUEUES | OF_REDIS, 120)
            truth.mark("height")
            self._mend()
        self._settle()
        self._outages()
        truth.mark("end")

    # The beginning

    def _start_workers(self) -> None:
        """Those that will not get far come first, so that they have all of their tasks in their hands."""
        start, truth = self.stage.start_worker, self.truth
        # Before any worker looks: from the beginning there is more than one slot can do.
        self._naps = [self._task("shop.nap", "busy").delay(0.5) for _ in range(NAPS)]
        started = [
            start("doomed", "-Q", "killed"),
            start("frozen", "-Q", "hung"),
            start("storm", "-Q", "storm", "-c", "4", "--workers", "3"),
            start("narrow", "-Q", "busy", "-c", "1"),
            start("blocked", "-Q", "blocks", "-c", "1"),
        ]
        for command, workers in zip(started, (1, 1, 3, 1, 1), strict=True):
            command.ready(workers)
        for queue, how_many in HELD.items():
            names = [f"{queue}{number}" for number in range(how_many)]
            self._handles += [self._task("shop.hold", queue).delay(name) for name in names]
            truth.redelivered[queue] = how_many
            truth.finished["shop.hold", "succeeded"] += how_many
        poll(lambda: all(map(self.stage.began, _held(*HELD))), 30, "these tasks run")
        port = ("--metrics-host", "127.0.0.1", "--metrics-port", str(self.stage.metrics_port))
        self._send("shop.note", "slept", 4)
        self._make_old("slept", OLD)
        truth.finished["shop.note", "succeeded"] += 4
        start("main", "-Q", "mail,paused,storm,slept", "--workers", "2", *port).ready(2)
        poll(self._all_up, 30, "all targets are up")

    def _all_up(self) -> bool:
        return len(self.stage.prometheus.query("up == 1")) == 5

    def _fill_redis(self) -> None:
        """A server that may use a little more than it does, and would then delete keys; and that saves nothing."""
        with self.stage.server.client() as client:
            # Enough to be full of, in a moment. No key of penstock's ends as soon as these do; and they are most of
            # all keys, as the server looks at a few only when it chooses.
            with client.pipeline(transaction=False) as pipe:
                for number in range(6000):
                    pipe.set(f"ballast:{number}", bytes(4096), ex=300)
                pipe.execute()
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory-policy", "volatile-ttl")
            client.config_set("maxmemory-samples", "64")
            client.config_set("maxmemory", str(used + 2 * _MEGABYTE))
            client.config_set("appendonly", "no")

    def _hide_a_queue(self) -> None:
        """Somebody else's key is where the streams of a queue would be: it cannot be read."""
        with self.stage.server.client() as client:
            client.set(_FOREIGN, "x", ex=600)
            client.sadd(keys.queues(NAMESPACE), "hidden")

    def _show_it(self) -> None:
        with self.stage.server.client() as client:
            client.delete(_FOREIGN)

    def _stall(self) -> None:
        """Queues that nobody serves, and one that is paused."""
        truth = self.truth
        truth.sent_at["stalled"] = time.time()
        self._send("shop.note", "stalled", WAITING["stalled"])
        self._send("shop.note", "old", WAITING["old"])
        self._make_old("old", OLD)
        self.stage.app.pause("paused")
        self._send("shop.note", "paused", WAITING["paused"])
        self._make_old("paused", OLD)
        truth.sent_at["late"] = time.time() + 0.2
        self._handles += [self._task("shop.note", "late", delay=0.2).delay() for _ in range(3)]
        self._handles += [self._task("shop.note", "late", expires=1).delay()]
        truth.finished["shop.note", "succeeded"] += WAITING["old"] + WAITING["paused"] + 3
        truth.finished["shop.note", "expired"] += 1

    def _die(self) -> None:
        """Workers are killed, or stand still, with tasks in their hands."""
        stage = self.stage
        stage.kill_worker("doomed")
        stage.freeze_worker("frozen")
        self.truth.mark("killed")
        # One after the other, while others of the queue live; their supervisor does not see it.
        for name in _held("storm"):
            stage.release(name)
        supervisor, *self._victims = stage.pids("storm")
        os.kill(supervisor, signal.SIGSTOP)

    def _make_old(self, queue: str, seconds: float) -> None:
        """What the server would hold had these tasks been sent `seconds` ago: the ids of entries tell the time."""
        base = f"{{{NAMESPACE}:{queue}}}"
        with self.stage.server.client() as client:
            stream = f"{base}:s:default"
            found: Any = client.xrange(stream)
            client.delete(stream)
            for entry, fields in found:
                ms, _, number = entry.partition(b"-")
                older = f"{int(ms) - round(seconds * 1000)}-{int(number)}"
                client.xadd(stream, fields, id=older)
                client.hset(f"{base}:t:{fields[b'k'].decode()}", "e", older)
            client.xgroup_create(stream, "w", "0")
        self.truth.sent_at[queue] = int(found[0][0].partition(b"-")[0]) / 1000 - seconds

    # While it goes on

    @contextmanager
    def _load(self) -> Iterator[None]:
        """Tasks of every ending, ten and more a second."""
        stop = threading.Event()
        self._fails.set()
        thread = threading.Thread(target=self._pour, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _pour(self, stop: threading.Event) -> None:
        for number in count():
            if number % 20 == 0 and self._victims:
                os.kill(self._victims.pop(), signal.SIGKILL)
            self._send("shop.ok", "mail", 2)
            self._send("shop.thread", "mail")
            if number % 5 == 0:
                self._send("shop.flaky", "mail")
                self.truth.retried["shop.flaky"] += 1
                self._send("shop.sleepy", "mail")
                self.truth.returned["shop.sleepy", "snoozed"] += 1
                self._handles.append(self._task("shop.ok", "mail", delay=1).delay())
                self.truth.finished["shop.ok", "succeeded"] += 1
            if number % 5 == 2:
                self._handles.append(cancelled := self._task("shop.ok", "mail", delay=600).delay())
                cancelled.cancel()
                self.truth.finished["shop.ok", "cancelled"] += 1
            if number % 3 == 0 and self._fails.is_set():
                for name, reason in (("bad", "error"), ("slow", "timeout"), ("refused", "rejected")):
                    self._fail(f"shop.{name}", reason)
            if stop.wait(0.2):
                return

    def _fail(self, name: str, reason: str) -> None:
        self._handles.append(self._task(name, "mail").delay())
        self.truth.finished[name, "failed"] += 1
        self.truth.failures[name, reason] += 1
        self.truth.dead["mail"] += 1

    def _send(self, name: str, queue: str, how_many: int = 1) -> None:
        self._handles += [self._task(name, queue).delay() for _ in range(how_many)]
        if queue == "mail":
            self.truth.finished[name, "succeeded"] += how_many

    def _task(self, name: str, queue: str, **options: Any) -> Any:
        return self.stage.app.task_named(name, queue=queue, **options)

    def _late_faults(self) -> None:
        """Tasks that stop the event loop, and those that fail, until that was seen; then Redis is full for a moment."""
        self._handles += [self._task("shop.block", "blocks").delay(1.8) for _ in range(12)]
        self.truth.finished["shop.block", "succeeded"] += 12
        seen = {"PenstockErrorRatioHigh", "PenstockDeadLetters", "PenstockRedisMayEvict", "PenstockRedisMemoryNearMax"}
        self.stage.wait_fired(seen, 40)
        # These alerts look back: their end comes long after that of their cause, so that comes now.
        self._fails.clear()
        self.truth.mark("full")
        self._evict()

    # The end of it

    def _evict(self) -> None:
        """The server becomes full for a moment. What ends first are the ballast's keys."""
        with self.stage.server.client() as client:
            used = int(client.info("memory")["used_memory"])
            client.config_set("maxmemory", str(used - 3 * _MEGABYTE))
            client.set("ballast:last", b"x")  # whoever writes makes room
            client.config_set("maxmemory", str(used + 200 * _MEGABYTE))
            client.config_set("maxmemory-policy", "noeviction")

    def _mend(self) -> None:
        """The causes go away."""
        stage = self.stage
        self._show_it()
        for name in _held("hung", "killed"):
            stage.release(name)
        stage.start_worker("rescue", "-Q", "old,late,killed,hung").ready()
        stage.app.resume("paused")
        with stage.server.client() as client:
            client.config_set("appendonly", "yes")
        for handle in reversed(self._naps):
            handle.cancel()
        self._handles += self._naps
        hung = [handle for handle in self._handles if handle.id.startswith("hung:")]
        poll(lambda: all(handle.done() for handle in hung), 30, "others have done what the frozen worker had to do")
        stage.thaw_worker("frozen")

    def _settle(self) -> None:
        """All tasks but those of the stalled queue have ended, and what workers count has arrived."""
        left = [handle for handle in self._handles if not handle.id.startswith("stalled:")]

        def ended() -> bool:
            while left and left[-1].done():
                left.pop()
            return not left

        poll(ended, 60, "all tasks have ended")
        # What workers count in memory comes with their next heartbeats.
        ended_in = sum(count for (_, how), count in self._of_mail() if how in ("succeeded", "failed"))
        query = 'sum(max without (instance) (penstock_task_end_to_end_seconds_count{job="penstock", queue="mail"}))'
        poll(lambda: self.stage.prometheus.query(query) == {(): ended_in}, 30, f"{ended_in} times are known")
        self.stage.wait_quiet((OF_QUEUES | OF_REDIS) - LASTING, 60)
        # Before the next cause: while Redis is away Alertmanager keeps all else back, also that something has ended.
        pager, over = self.stage.pager, (OF_QUEUES | OF_REDIS) - LASTING
        poll(lambda: over <= pager.told("resolved"), 20, f"it is told that they have ended: {sorted(over)}")
        self.truth.mark("calm")
        self.known = {about(alert["labels"]) for alert in self.stage.alertmanager.alerts()}

    def _of_mail(self) -> list[tuple[tuple[str, str], int]]:
        others = ("shop.note", "shop.hold", "shop.block", "shop.nap")
        return [(key, count) for key, count in self.truth.finished.items() if key[0] not in others]

    def _outages(self) -> None:
        """First Redis goes away, then one exporter, then both."""
        stage, truth = self.stage, self.truth
        stage.server.kill()
        stage.wait_firing({"PenstockRedisDown"}, 20)
        truth.mark("no redis")
        stage.server.start()
        stage.wait_quiet({"PenstockRedisDown"}, 20)
        first, second = stage.exporters
        answering = 'count(penstock_redis_up{job="penstock"} == 1)'
        poll(lambda: stage.prometheus.query(answering) == {(): 2}, 10, "both exporters read Redis again")
        first.stop()
        poll(lambda: stage.prometheus.query(answering) == {(): 1}, 10, "one exporter is left")
        truth.mark("one exporter")
        second.stop()
        stage.wait_firing({"PenstockExporterDown"}, 20)
        truth.mark("no exporter")
        first.start()
        second.start()
        stage.wait_quiet({"PenstockExporterDown"}, 20)
