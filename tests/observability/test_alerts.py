"""The alerts fire for what they are meant for and for nothing else, arrive, and end when their cause has ended."""

from __future__ import annotations

from collections import defaultdict

import pytest
import yaml

from tests.observability.programs import poll
from tests.observability.stage import ALONE, RULES, about
from tests.observability.story import HELD, LASTING, Story

pytestmark = [pytest.mark.observability, pytest.mark.timeout(400)]

ALERTS = sorted(
    rule["alert"]
    for path in RULES
    for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
)
#: Queues whose tasks have waited for more than half a minute when they were started, or started anew, at last.
#: `paused` is none: what waited during a pause is not judged.
WAITED = {"busy", "old", "slept", "killed", "hung"}
#: What each alert of queues is about: these queues and no others.
QUEUES = {
    "PenstockQueueWithoutWorkers": {"stalled", "old", "late", "killed", "hung"},
    "PenstockErrorRatioHigh": {"mail"},
    "PenstockDeadLetters": {"mail"},
    "PenstockSchedulerLate": {"late"},
    "PenstockOverdueLeases": {"killed", "hung"},
    "PenstockSaturated": {"busy"},
}
#: The same where it depends on how quick this host is: these for certain, and perhaps those.
SOME: dict[str, tuple[set[str], set[str]]] = {
    # Whether its worker is there before the alert is.
    "PenstockOldestTaskTooOld": ({"old"}, {"old", "slept"}),
    # Their windows are seconds here: on a busy machine two of them need not both hold the same few waits.
    "PenstockWaitBudgetBurnFast": (set(), WAITED),
    "PenstockWaitBudgetBurnSlow": (set(), WAITED),
    # Tasks of a worker that dies are taken over at once, and the window of the rate is as long as the alert's `for`: at
    # the edge that is a storm, too.
    "PenstockRedeliveryStorm": ({"storm"}, set(HELD)),
}


def fired(story: Story) -> dict[str, set[str]]:
    """All alerts of the run that fired, each with what it was about."""
    moments = story.truth.moments
    found = story.stage.prometheus.over('ALERTS{alertstate="firing"}', moments["begin"], moments["end"])
    alerts: dict[str, set[str]] = defaultdict(set)
    for labels in map(dict, found):
        if labels.get("job") != ALONE:
            name, what = about(labels)
            alerts[name].add(what)
    return dict(alerts)


@pytest.mark.parametrize("name", ALERTS)
def test_it_fires(story: Story, name: str) -> None:
    """All of them have a cause in this run; those of queues fire for the queues that give one, and for no other."""
    found = fired(story).get(name)
    assert found, "it has not fired"
    exactly = QUEUES.get(name, found)
    least, most = SOME.get(name, (exactly, exactly))
    assert least <= found <= most


def test_only_the_workers_that_are_gone_are_missed(story: Story) -> None:
    info = story.stage.prometheus.query("penstock_worker_info", story.truth.moments["height"])
    workers = {int(dict(labels)["pid"]): dict(labels)["worker"] for labels in info}
    pids = {name: story.stage.pids(name)[1:] for name in ("doomed", "frozen", "storm", "blocked")}
    gone = {workers[pid] for name in ("doomed", "frozen", "storm") for pid in pids[name]}
    assert fired(story)["PenstockWorkerHeartbeatStale"] == gone and len(gone) == 5
    assert fired(story)["PenstockEventLoopBlocked"] == {workers[pid] for pid in pids["blocked"]}


@pytest.mark.parametrize("name", ALERTS)
def test_it_ends(story: Story, name: str) -> None:
    """Once its cause has. At the moment `calm` nothing is wrong but what will be wrong for good."""
    moment = "end" if name in ("PenstockRedisDown", "PenstockExporterDown") else "calm"
    left = {what for alert, what in story.stage.alerts(time=story.truth.moments[moment]) if alert == name}
    if name == "PenstockWorkerHeartbeatStale":
        assert left < fired(story)[name] and len(left) == 4, "the one that stood still is back"
    elif name == "PenstockQueueWithoutWorkers":
        assert left == {"stalled"}
    elif name in LASTING:
        assert left <= WAITED
    else:
        assert not left


def test_whoever_is_woken_hears_of_it_and_of_its_end(story: Story) -> None:
    """Through Alertmanager, by the project's own routes."""
    pager, names = story.stage.pager, set(ALERTS)
    poll(lambda: names <= pager.told("firing"), 30, f"all are told of: {names}")
    ended = names - LASTING
    poll(lambda: ended <= pager.told("resolved"), 30, f"all that ended are told to have: {ended}")
    for receiver, _, labels, said in pager.pages:
        assert receiver == {"critical": "page", "warning": "chat"}[labels["severity"]]
        assert said["summary"] and "{{" not in str(said) and "<no value>" not in str(said)
        assert said["runbook_url"] == f"docs/runbook.md#{labels['alertname'].lower()}"


def test_alertmanager_knows_what_goes_on(story: Story) -> None:
    """At the moment `calm`: what has no end."""
    known = {(name, what) for name, what in story.known if name in LASTING}
    assert ("PenstockQueueWithoutWorkers", "stalled") in known
    assert len([name for name, _ in known if name == "PenstockWorkerHeartbeatStale"]) >= 4
