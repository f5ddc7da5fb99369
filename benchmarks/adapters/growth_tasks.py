"""The app of `benchmarks.growth`: one no-op task for each of many queues."""

from __future__ import annotations

from common import CONFIG, URL, hit, started

from penstock import App


async def step(sent: int) -> None:
    """0: one of a backlog; else when it was sent."""
    if sent:
        started(sent)
    else:
        hit()


app = App("growth", url=URL)
# A task of its own for each queue. To a queue that only calls name, a worker gives no more slots than its scarcest
# kind has, since anything may come there.
for number in range(CONFIG["queues"]):
    app.task(name=f"step-{number}", queue=f"q{number}")(step)
