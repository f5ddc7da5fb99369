"""Leaves the long tests out unless ``-m chaos`` asks for them; says how many crash points were tried."""

from __future__ import annotations

from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "chaos: takes minutes; runs with -m chaos only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "chaos" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("chaos")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
