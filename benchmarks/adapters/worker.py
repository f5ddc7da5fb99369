"""One worker process in the foreground, of a peer that is started by a call: ``worker.py PEER``."""

from __future__ import annotations

import importlib
import logging
import sys

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    importlib.import_module(f"peer_{sys.argv[1]}").run_worker()
