"""Shows what the proofs have measured, where they were run with others or alone."""

from __future__ import annotations

import pytest

MEASURED = "measured"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests have measured, above the summary."""
    told = [
        (report.nodeid.rpartition("::")[2], str(value))
        for report in terminalreporter.getreports("passed")
        for name, value in report.user_properties
        if name == MEASURED
    ]
    if told:
        terminalreporter.section("chaos")
        for name, value in told:
            terminalreporter.line(f"{name}: {value}")
