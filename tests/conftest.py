"""Settings of all tests: how they are distributed, and the list of what was skipped."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

TESTS = Path(__file__).parent

# OpenMP threads that wait by spinning slow each other down where tests share few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# No example is timed, because a loaded machine is no failure. CI draws the same examples in every run; elsewhere each
# run draws others, which finds more.
settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")


def group(path: Path) -> str:
    """The tests that one xdist worker runs, one after the other.

    Files share no fixtures, so each is a group. All tests on the cluster are one, because it has one node. All that start
    a whole Airflow are one, because two of them would slow each other down.
    """
    parts = path.relative_to(TESTS).parts
    return next((name for name in ("kubernetes", "live") if name in parts), "/".join(parts))


def order(path: Path) -> int:
    """Groups that wait a lot start first, so that they run beside those that compute."""
    groups = ("kubernetes", "live")
    name = group(path)
    return groups.index(name) if name in groups else len(groups) + (path.relative_to(TESTS).parts[0] == "unit")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item.path)))
    # Stable: within a group the order of the files stays.
    items.sort(key=lambda item: order(item.path))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List at the end what was skipped, by reason."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    terminalreporter.section("not tested")
    for reason, count in reasons.most_common():
        terminalreporter.line(f"{count} test{'s' if count > 1 else ''} skipped: {reason}")
    if not reasons:
        terminalreporter.line("Nothing was skipped.")
