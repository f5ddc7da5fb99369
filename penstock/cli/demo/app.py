"""What the demo's workers load: ``penstock -A penstock.cli.demo.app:app worker``.

The server is the one that PENSTOCK_URL names.
"""

from __future__ import annotations

from penstock import App
from penstock.cli.demo.tasks import tasks

app = App("demo", namespace="demo")
app.include(tasks)
