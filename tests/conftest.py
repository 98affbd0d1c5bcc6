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
    """The tests that one xdist worker runs together, because they share fixtures: a file, or all that use the cluster."""
    relative = path.relative_to(TESTS)
    return "kubernetes" if relative.parts[0] == "kubernetes" else str(relative)


def order(path: Path) -> int:
    """Groups that mostly wait start first, so that they run beside those that compute."""
    parts = path.relative_to(TESTS).parts
    return {"kubernetes": 0, "integration": 2, "unit": 3}.get(parts[0], 3) if "live" not in parts else 1


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group(item.path)))
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
