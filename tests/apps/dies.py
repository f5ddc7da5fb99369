"""The process dies while it imports this, as from a bug in an extension module; unless a file says not to."""

from __future__ import annotations

import os
from pathlib import Path

from penstock import App

app = App("dies")


@app.task
async def noop() -> None:
    """Does nothing."""


if not Path(os.environ["TEST_FOLDER"], "mended").exists():
    with open(Path(os.environ["TEST_FOLDER"], "deaths"), "a") as deaths:
        deaths.write("died\n")
    os._exit(3)
