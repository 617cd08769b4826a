"""Does a long backfill keep its memory, and a long run the size of its snapshot?

Rows are generated file by file, each file a stretch of time with all keys, so that neither the
generator nor the backfill ever has them all. The memory is the resident set of the process and of
all it started, sampled while it runs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
from rich.console import Console

from benchmarks.contest import ONE_THREAD, ROOT, Timing
from benchmarks.report import Line
from benchmarks.workload import (
    KEYS,
    MAX_DELAY_NS,
    SECOND_NS,
    START_NS,
    WINDOW,
    batches,
    rows,
    seven,
    ticks,
    write_parquet,
)
from operators.engine import Engine
from operators.plan import compile_plan
from operators.snapshot import snapshot

FILE_ROWS = 2_500_000
SAMPLE_S = 0.25
FLAT = 1.1
"""The most that memory and snapshots may grow by."""
PLOT_WIDTH, PLOT_HEIGHT = 64, 8


def measure(count: int, *, files: int = 0, keys: int = KEYS) -> tuple[list[Line], list[Timing]]:
    """Runs a backfill under watch, and an engine over ten times its input.

    Args:
        count: rows of the backfill.
        files: how many files they lie in; by default, of a few million rows each.
        keys: how many keys.
    """
    files = files or max(1, round(count / FILE_ROWS))
    with tempfile.TemporaryDirectory(prefix="riffle-bench-") as name:
        folder = Path(name)
        per_file = count // files // keys * keys
        start_ns = START_NS
        for number in range(files):
            part = rows(per_file, keys, seed=number, start_ns=start_ns)
            write_parquet(part, folder / "input" / f"part-{number:03d}.parquet", keys)
            start_ns += per_file // keys * SECOND_NS
        samples, seconds = _watch(folder)
        written = sum(path.stat().st_size for path in (folder / "output").rglob("*.parquet"))
        shutil.rmtree(folder / "output")
    Console().print(plot(samples, seconds), highlight=False)
    third = len(samples) // 3
    middle, last = np.median(samples[third : 2 * third]), np.median(samples[2 * third :])
    growth = float(last / middle)
    done = per_file * files
    lines = [
        Line(
            f"memory: growth from the second third of {done:,} rows to the last", growth,
            growth, growth, "x", f"<= {FLAT:g} x", growth <= FLAT,
        ),
        Line.value("memory: greatest resident set", [float(max(samples))], "MB"),
        Line.value("memory: the whole run, start included", [seconds * 1e9 / done], "ns/row"),
        Line.value("memory: output written", [written / 1e6], "MB"),
        _snapshots(keys),
    ]  # fmt: skip
    return lines, []


def _watch(folder: Path) -> tuple[list[float], float]:
    """Runs the backfill and samples its memory, in MB."""
    command = [
        sys.executable, "-m", "dataflows.cli", "backfill", "benchmarks.workload:seven",
        "--input", f"ticks={folder / 'input'}", "--output", str(folder / "output"),
    ]  # fmt: skip
    samples: list[float] = []
    start = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, **ONE_THREAD}
    ) as process:
        while process.poll() is None:
            samples.append(_resident_mb(process.pid))
            time.sleep(SAMPLE_S)
    seconds = time.perf_counter() - start
    if process.returncode:
        msg = f"the backfill ended with code {process.returncode}; its error is above"
        raise RuntimeError(msg)
    return samples, seconds


def _resident_mb(pid: int) -> float:
    """Resident memory of a process and all that it started."""
    total = 0
    try:
        root = psutil.Process(pid)
        for each in [root, *root.children(recursive=True)]:
            total += each.memory_info().rss
    except psutil.NoSuchProcess:
        pass
    return total / 1e6


def _snapshots(keys: int) -> Line:
    """Compares the snapshot after an input that fills the windows with that after ten times it."""
    plan = compile_plan(seven)
    engine = Engine(plan, [(ticks.name, "all")])
    start_ns, sizes = START_NS, []
    seconds = WINDOW + MAX_DELAY_NS // SECOND_NS + 1
    for number in range(10):
        data = rows(seconds * keys, keys, seed=number, start_ns=start_ns)
        start_ns += seconds * SECOND_NS
        for batch in batches(data, keys, 65_536):
            engine.process(replace(batch, end=False))
        sizes.append(len(snapshot(engine)))
    growth = sizes[-1] / sizes[0]
    return Line(
        f"memory: growth of the snapshot from {seconds * keys:,} rows to ten times as many", growth,
        growth, growth, "x", f"<= {FLAT:g} x", growth <= FLAT,
    )  # fmt: skip


def plot(samples: Sequence[float], seconds: float) -> str:
    """Draws samples as a bar for each stretch of time."""
    pieces = np.array_split(np.asarray(samples), min(PLOT_WIDTH, len(samples)))
    heights = [float(piece.max()) for piece in pieces]
    top = max(*heights, 1.0)
    lines = []
    for level in range(PLOT_HEIGHT, 0, -1):
        bars = "".join(
            "█" if height >= top * (level - 0.5) / PLOT_HEIGHT else " " for height in heights
        )
        label = f"{top * level / PLOT_HEIGHT:8,.0f} MB " if level in {PLOT_HEIGHT, 1} else " " * 12
        lines.append(label + bars)
    lines.append(" " * 12 + f"0 s{f'{seconds:.0f} s':>{max(len(heights) - 3, 0)}}")
    return "\n".join(lines)
