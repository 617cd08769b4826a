"""Runs the benchmarks: ``python -m benchmarks.run [--quick] [--only columns,parquet]``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import (
    columns,
    kafka,
    kafka_latency,
    memory,
    online,
    parquet,
    places,
    report,
    small,
    state,
    tables,
)
from benchmarks.contest import Timing
from benchmarks.report import Line

Found = tuple[list[Line], list[Timing]]
RESULTS = Path(__file__).parent / "results"


def _questions(quick: bool, rounds: int, memory_rows: int) -> dict[str, Callable[[], Found]]:
    """Each part by its name; quick ones are small and tell nothing of speed."""
    if quick:
        return {
            "columns": lambda: columns.measure(40_000, 1, keys=100),
            "parquet": lambda: parquet.measure(parquet.QUICK, 1),
            "state": lambda: state.measure(50, 1),
            "small": lambda: small.measure(400, 1),
            "memory": lambda: memory.measure(100_000, files=4, keys=100),
            "kafka": lambda: kafka.measure(4_000, 0),
            "latency": lambda: kafka_latency.measure(kafka_latency.QUICK),
            "tables": lambda: tables.measure(10_000, 0),
            "online": lambda: online.measure(300, 0),
            "places": lambda: places.measure(4_000, 0),
        }
    return {
        "columns": lambda: columns.measure(4_000_000, rounds),
        "parquet": lambda: parquet.measure(parquet.FULL, rounds),
        "state": lambda: state.measure(10_000, rounds),
        "small": lambda: small.measure(1_000, rounds),
        "memory": lambda: memory.measure(memory_rows),
        "kafka": lambda: kafka.measure(1_000_000, rounds),
        "latency": lambda: kafka_latency.measure(kafka_latency.FULL),
        "tables": lambda: tables.measure(500_000, rounds),
        "online": lambda: online.measure(5_000, rounds),
        "places": lambda: places.measure(300_000, rounds),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is asked for and prints it."""
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small inputs: does it run at all?")
    parser.add_argument("--only", default="", help="parts, with commas")
    parser.add_argument("--rounds", type=int, default=5, help="how often each contender runs")
    parser.add_argument("--rows", type=int, default=50_000_000, help="rows of the memory question")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the JSON file")
    asked = parser.parse_args(arguments)
    questions = _questions(asked.quick, asked.rounds, asked.rows)
    chosen = [name for name in asked.only.split(",") if name] or list(questions)
    console = Console()
    lines: list[Line] = []
    timings: list[Timing] = []
    for name in chosen:
        console.rule(name)
        found, timed = questions[name]()
        report.show(console, found, timed)
        lines += found
        timings += timed
    console.print(f"written to {report.write(asked.results, lines, timings)}")


if __name__ == "__main__":
    main()
