"""The app itself imports no task module at its top: so task modules can import it, without a cycle."""

import os
import tempfile

import imaging

from penstock import App

app = App("shop", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")
app.include(imaging.tasks)  # the library's tasks are now this app's
