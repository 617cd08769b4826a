"""Shows what the proofs have measured, where they were run with others or alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.chaos.places import Places

MEASURED = "measured"


@pytest.fixture
def places_of(database, private_redis) -> Callable[..., Places]:
    """Places with a database and a Redis of the test's own: `places_of(ALL)`."""
    return partial(Places, database=database, redis=private_redis.address)


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
