"""What the workers of the storm load; the server is the one that PENSTOCK_URL names."""

from __future__ import annotations

from penstock import App
from tests.chaos import storm_tasks

app = App("storm", **storm_tasks.SETTINGS)
app.include(storm_tasks.tasks)
app.observe(storm_tasks.notice)
