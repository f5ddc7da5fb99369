"""Says how many crash points were tried."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    told = [
        (report.nodeid.rpartition("::")[2], dict(report.user_properties))
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", "") == "call" and "points" in dict(report.user_properties)
    ]
    if told:
        terminalreporter.section("crash points tried")
        for name, properties in told:
            terminalreporter.line(f"{name}: {properties['points']}")
            if config.get_verbosity() > 0:
                terminalreporter.line(f"  {properties['kinds']}")
