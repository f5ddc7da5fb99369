"""Pictures of the dashboards, with figures of a real run: ``python -m tests.observability.live``.

Starts a server, a shop's workers, two exporters and Prometheus with the project's rules, lets them work for some
minutes while this and that goes wrong, and has Chromium draw every dashboard from that Prometheus, with Grafana's own
chart components (grafana/render). No Grafana server runs, and none is claimed to.

It needs Prometheus, Alertmanager, Node, npm and Chromium; npm installs 600 MB into ``--work``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.observability import panels
from tests.observability.programs import missing
from tests.observability.stage import PAIR, Stage
from tests.source import ROOT

RENDER = ROOT / "grafana" / "render"
#: Seconds between two scrapes; and how much quicker than in production the rules' time runs: five minutes are 50 s.
SCRAPE, FACTOR = 5, 6
APP = "tests.observability.shop:app"


class Shop:
    """The load: it sends tasks, a random number of each in a quarter of a second."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        #: Task -> how many a second, on the average.
        self.rates = {
            "shop.mail.receipt": 12.0,
            "shop.mail.newsletter": 6.0,
            "shop.payments.charge": 5.0,
            "shop.images.resize": 4.0,
            "shop.reports.build": 0.5,
            "shop.stock.sync": 2.0,
        }
        self.broken = False

    def send(self, name: str, count: int = 1, **options: Any) -> None:
        """Send tasks of this name."""
        urgent = {"shop.payments.charge": "high", "shop.mail.newsletter": "low"}
        options = {"queue": name.split(".")[1], "priority": urgent.get(name, "default"), **options}
        task = self.stage.app.task_named(name, **options)
        for _ in range(count):
            task.delay(*([self.broken] if name == "shop.payments.charge" else []))

    def pour(self, stop: threading.Event) -> None:
        """Until it is told to stop."""
        pause = 0.25
        while not stop.wait(pause):
            for name, rate in self.rates.items():
                for _ in range(int(random.expovariate(1) * rate * pause + random.random())):
                    options: dict[str, Any] = {"delay": random.uniform(1, 20)} if random.random() < 0.1 else {}
                    self.send(name, **options)

    def play(self, seconds: float) -> None:
        """What goes on, by parts of the whole time."""
        stop = threading.Event()
        thread = threading.Thread(target=self.pour, args=(stop,))
        thread.start()
        try:
            began = time.monotonic()
            for part, act in self._acts():
                while (left := began + part * seconds - time.monotonic()) > 0:
                    stop.wait(min(left, 1.0))
                act()
        finally:
            stop.set()
            thread.join()

    def _acts(self) -> list[tuple[float, Callable[[], object]]]:
        stage = self.stage

        def fail(broken: bool) -> Callable[[], None]:
            return lambda: setattr(self, "broken", broken)

        def deploy() -> None:
            stage.workers["front"].process.terminate()
            stage.workers["front"].wait()
            self.front()

        return [
            (0.10, lambda: self.send("shop.images.resize", 1500)),
            (0.20, lambda: self.rates.update({"shop.exports.nightly": 0.3})),
            (0.25, fail(True)),
            (0.40, fail(False)),
            (0.45, lambda: stage.kill_worker("back")),
            (0.52, self.back),
            (0.60, lambda: stage.app.pause("stock")),
            (0.70, deploy),
            (0.75, lambda: stage.app.resume("stock")),
            (0.80, lambda: self.send("shop.mail.newsletter", 1500)),
            (0.95, lambda: self.send("shop.images.resize", 400)),
            (1.00, lambda: None),
        ]

    def front(self) -> None:
        """Workers of all that customers wait for."""
        words = ("-Q", "mail,payments,images,stock", "-c", "40", "--threads", "8", "--workers", "2")
        port = ("--metrics-host", "127.0.0.1", "--metrics-port", str(self.stage.metrics_port))
        self.stage.start_worker("front", *words, *port, app=APP).ready(2)

    def back(self) -> None:
        """The one that builds reports."""
        self.stage.start_worker("back", "-Q", "reports", "-c", "4", app=APP).ready()


def prepare(work: Path) -> None:
    """What draws, and all that it needs."""
    work.mkdir(parents=True, exist_ok=True)
    for file in RENDER.iterdir():
        if file.is_file():
            shutil.copy(file, work)
    if not (work / "node_modules").exists():
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock"], cwd=work, check=True)


def draw(stage: Stage, began: float, ended: float, work: Path, out: Path) -> int:
    """Have the pictures made; the exit code."""
    setup = {
        "url": stage.prometheus.url,
        "from": began // SCRAPE * SCRAPE,
        "to": ended // SCRAPE * SCRAPE,
        "step": SCRAPE,
        "chromium": shutil.which("chromium") or shutil.which("chromium-browser"),
        "dashboards": {str(path): {"job": PAIR} for path in panels.DASHBOARDS},
        "out": str(out.resolve()),
    }
    (work / "setup.json").write_text(json.dumps(setup))
    return subprocess.run(["node", "shoot.mjs", "setup.json"], cwd=work).returncode


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="how long the run takes")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="where the pictures go")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "render", help="where npm installs to")
    options = parser.parse_args()
    lacking = [*missing(), *(name for name in ("node", "npm", "chromium") if not shutil.which(name))]
    if lacking:
        sys.exit(f"not installed: {', '.join(lacking)}")
    for variable in list(os.environ):
        if variable.startswith(("PENSTOCK_", "REDIS_")):
            del os.environ[variable]
    prepare(options.work)
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder), scrape=SCRAPE, factor=FACTOR)
        try:
            stage.open()
            shop = Shop(stage)
            shop.front()
            shop.back()
            began = time.time()
            shop.play(60 * options.minutes)
            return draw(stage, began, time.time(), options.work, options.out)
        finally:
            stage.close()


if __name__ == "__main__":
    sys.exit(main())
