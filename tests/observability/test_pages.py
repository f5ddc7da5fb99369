"""What is served to Prometheus is as its own linter wants it."""

from __future__ import annotations

import subprocess

import pytest

from tests.observability.programs import find
from tests.observability.stage import Stage

pytestmark = [pytest.mark.observability, pytest.mark.timeout(400)]


@pytest.mark.parametrize("who", ["first exporter", "second exporter", "first worker", "second worker"])
def test_promtool_has_nothing_to_say(stage: Stage, who: str) -> None:
    number = int(who.startswith("second"))
    page = stage.page(stage.exporters[number] if who.endswith("exporter") else number)
    assert ("penstock_tasks_finished_total" if who.endswith("exporter") else "penstock_local_connected") in page
    promtool = find("promtool")
    assert promtool
    done = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_prometheus_itself_has_no_complaint(stage: Stage) -> None:
    """No sample was a duplicate, out of order, or of two types."""
    assert "err=" not in stage.prometheus.log
