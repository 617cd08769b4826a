"""Parity for a reader to run: one input, many ways to read it, the same bits. ``make parity``.

Each shipped set is computed once in one process from files cut by entity. Then its rows are cut
into files by time and interleaved at random, read in batches of random size, by one, two and three
shards, by a Bytewax cluster, and by a run that is killed (kill -9) at random moments and resumed;
each result is compared with the first, bit for bit. A table says what was compared and found.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from dataflows.commands.diff import Comparison, compare
from feature_repo.sets import ALL
from operators.feature_set import FeatureSet
from operators.streams import Stream
from sinks.dataset import read_vectors
from tests.golden import COUNTS, rows_of
from tests.naive_rows import Row, arrival_ns

RIFFLE = [sys.executable, "-m", "dataflows.cli"]
KILLS = 3


def as_json(stream: Stream, row: Row) -> str:
    """A row as a line of a file."""
    plain = {k: v for k, v in row.items() if k not in {"entity", "series", "ts", "arrival"}}
    plain[stream.entity] = row["entity"]
    if stream.series:
        plain[stream.series] = row["series"]
    time_ns = int(row["ts"])
    if stream.rate_field:
        span_ns = round(len(row["values"]) / row[stream.rate_field] * 1e9)
        plain["start_ts_ns"] = time_ns - span_ns
    else:
        plain["ts_ns"] = time_ns
    return json.dumps({**plain, "arrival_ts_ns": arrival_ns(row)})


def write_parts(folder: Path, stream: Stream, parts: Sequence[Sequence[Row]]) -> str:
    """Writes the parts of a stream, a file each; returns the argument that names them."""
    home = folder / stream.name
    home.mkdir(parents=True)
    for number, rows in enumerate(parts):
        lines = [as_json(stream, row) for row in sorted(rows, key=arrival_ns)]
        (home / f"part-{number}.jsonl").write_text("\n".join(lines) + "\n")
    return f"{stream.name}={home}"


def by_entity(rows: list[Row], dice: random.Random) -> list[list[Row]]:
    """A file per entity."""
    return [[r for r in rows if r["entity"] == e] for e in sorted({r["entity"] for r in rows})]


def by_time(rows: list[Row], dice: random.Random) -> list[list[Row]]:
    """Three files, one after the other in time."""
    third = -(-len(rows) // 3)
    return [rows[i : i + third] for i in range(0, len(rows), third)]


def at_random(rows: list[Row], dice: random.Random) -> list[list[Row]]:
    """Three files, each row in any of them."""
    parts: list[list[Row]] = [[], [], []]
    for row in rows:
        dice.choice(parts).append(row)
    return parts


def run(*arguments: object) -> None:
    """Runs the command to its end."""
    done = subprocess.run(
        [*RIFFLE, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)


def run_with_kills(dice: random.Random, *arguments: object) -> None:
    """Runs the command, kills it a few times at random moments, and lets the last run end."""
    command = [*RIFFLE, *map(str, arguments)]
    for _ in range(KILLS):
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as running:
            time.sleep(dice.uniform(0.5, 6.0))
            running.send_signal(signal.SIGKILL)
    run(*arguments)


def ways(
    feature_set: FeatureSet, folder: Path, dice: random.Random
) -> Iterator[tuple[str, Callable[[], Path]]]:
    """The ways to read the same rows, by name; the first is what the others are compared with."""
    inputs: dict[str, list[object]] = {}
    for spread in (by_entity, by_time, at_random):
        inputs[spread.__name__] = []
        for stream in feature_set.streams:
            rows = rows_of(stream, COUNTS[stream.name])
            place = write_parts(folder / spread.__name__, stream, spread(rows, dice))
            inputs[spread.__name__] += ["--input", place]

    def computed() -> Path:
        run("compute", feature_set.name, *inputs["by_entity"], "--output", folder / "one.parquet")
        return folder / "one.parquet"

    def filled(how: str, name: str, *options: object, kills: bool = False) -> Path:
        output = folder / name
        wanted = ("backfill", feature_set.name, *inputs[how], "--output", output, *options)
        if kills:
            run_with_kills(dice, *wanted, "--recovery", folder / "state", "--snapshot-every", 0)
        else:
            run(*wanted)
        return output

    def cut() -> list[object]:
        return ["--batch-rows", dice.randint(1, 400)]

    yield "one process", computed
    yield "1 shard, files by time", lambda: filled("by_time", "a", *cut())
    yield (
        "2 shards, files by entity",
        lambda: filled("by_entity", "b", "--workers", 2, *cut()),
    )
    yield (
        "3 shards, rows at random",
        lambda: filled("at_random", "c", "--workers", 3, *cut()),
    )
    yield (
        "cluster of 2",
        lambda: filled("at_random", "d", "--workers", 2, "--cluster", *cut()),
    )
    yield f"killed {KILLS} times", lambda: filled("by_time", "e", "--batch-rows", 7, kills=True)


def prove(names: Sequence[str], seed: int, console: Console) -> bool:
    """Compares every way of every set; says whether all agree."""
    table = Table("set", "read as", "vectors", "differing", title="The same rows, bit for bit")
    agree = True
    with Progress(console=console, transient=True) as progress:
        bar = progress.add_task("Comparing", total=6 * len(names))
        for name in names:
            with tempfile.TemporaryDirectory() as folder:
                reference = None
                for way, result in ways(ALL[name], Path(folder), random.Random(seed)):
                    vectors = read_vectors(result())
                    reference = vectors if reference is None else reference
                    found: Comparison = compare(reference, vectors)
                    agree &= found.equal
                    table.add_row(
                        name, way, str(len(vectors)), "none" if found.equal else "[red]some"
                    )
                    progress.advance(bar)
    console.print(table)
    return agree


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", help="shipped sets; by default, all")
    parser.add_argument("--seed", type=int, default=1, help="of the random cuts and kills")
    given = parser.parse_args()
    return 0 if prove(given.sets or list(ALL), given.seed, Console()) else 1


if __name__ == "__main__":
    sys.exit(main())
