"""What a benchmark found: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.contest import Timing

LIBRARIES = ("bytewax", "numba", "numpy", "polars", "pyarrow", "tsflex")


@dataclass(frozen=True)
class Line:
    """One answer.

    Attributes:
        question: what was asked.
        found: the answer in its unit.
        low, high: least and greatest answer of any round.
        unit: of the answer.
        goal: what it should be.
        met: whether it is; None where there is no goal.
    """

    question: str
    found: float
    low: float
    high: float
    unit: str
    goal: str
    met: bool | None

    @classmethod
    def ratio(cls, question: str, theirs: Timing, ours: Timing, goal: float | None = None) -> Line:
        """How many times the time of one contender another one takes: median over median."""
        found = theirs.median / ours.median
        each = [a / b for a, b in zip(theirs.ns_per_row, ours.ns_per_row, strict=False)]
        if goal is None:
            return cls(question, found, min(each), max(each), "x", "", None)
        return cls(question, found, min(each), max(each), "x", f">= {goal:g} x", found >= goal)

    @classmethod
    def value(cls, question: str, found: Sequence[float], unit: str) -> Line:
        """A figure without a goal: its median."""
        median = statistics.median(found)
        return cls(question, median, min(found), max(found), unit, "", None)


def machine() -> dict[str, str]:
    """Where and with what it was measured."""
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": model,
        "cores": str(len(os.sched_getaffinity(0))),
        "load": f"{os.getloadavg()[0]:.2f}",
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def show(console: Console, lines: Sequence[Line], timings: Sequence[Timing]) -> None:
    """Prints the tables."""
    if timings:
        table = Table("contender", title="ns per row", title_justify="left")
        for heading in ("median", "least", "most", "M rows/s", "rows"):
            table.add_column(heading, justify="right")
        for timing in timings:
            least, most = min(timing.ns_per_row), max(timing.ns_per_row)
            table.add_row(
                timing.name, _shown(timing.median), _shown(least), _shown(most),
                f"{1e3 / timing.median:.3g}", f"{timing.rows:,}",
            )  # fmt: skip
        console.print(table)
    table = Table("question")
    for heading in ("found", "least", "most", "goal", "met"):
        table.add_column(heading, justify="right")
    for line in lines:
        met = {True: "[green]yes", False: "[red]no", None: ""}[line.met]
        figures = [f"{_shown(number)} {line.unit}" for number in (line.found, line.low, line.high)]
        table.add_row(line.question, *figures, line.goal, met)
    console.print(table)


def _shown(number: float) -> str:
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def write(folder: Path, lines: Sequence[Line], timings: Sequence[Timing]) -> Path:
    """Writes all that was found into a file named after the time."""
    told = {
        "machine": machine(),
        "lines": [asdict(line) for line in lines],
        "timings": [asdict(timing) for timing in timings],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.write_text(json.dumps(told, indent=1), encoding="utf-8")
    return path
