"""A process that serves a long row of vectors, resumed from its snapshots, until it is killed."""

from __future__ import annotations

import pickle
import random
import sys
import time
from pathlib import Path

import numpy as np

from operators.batch import Labels, Vectors
from sinks.online import OnlineOutput, OnlineSink
from sinks.online_lane import OnlineTenancy
from tests.online_repos import PROBE, T0, opened

COUNT, ENTITIES, BATCH = 100_000, 200, 250
PAUSE_S = 0.004
SNAPSHOT_EVERY = 37
NAMES = tuple(f"I{number:03d}" for number in range(ENTITIES))


def value_of(marks):
    """What a vector says is told by its mark."""
    return (marks[:, 0] - T0) * 4.0 + marks[:, 2] + marks[:, 3] / 2


def all_vectors(seed: int) -> list[Vectors]:
    """Vectors out of order, and corrections of many of them, in the order in which they come."""
    rng = np.random.default_rng(seed)
    entity = rng.integers(0, ENTITIES, COUNT).astype(np.int32)
    steps = np.arange(COUNT) // (ENTITIES * 4)
    ts_ns = T0 + steps * 10 + rng.integers(-40, 10, COUNT)
    n_rows = rng.integers(0, 4, COUNT)
    # Of equal marks the vectors are equal.
    known_ns = ts_ns + n_rows
    found = []
    for number, start in enumerate(range(0, COUNT, BATCH)):
        part = slice(start, start + BATCH)
        final = number % 3 > 0
        count = len(ts_ns[part])
        marks = np.column_stack([ts_ns[part], known_ns[part], n_rows[part], np.full(count, final)])
        ret = value_of(marks)
        found.append(
            Vectors(
                keys=Labels(entity[part], NAMES),
                series=Labels(np.zeros(count, np.int32), ("1m",)),
                ts_ns=ts_ns[part],
                features={
                    "ret": ret,
                    "n": (ts_ns[part] - T0).astype(np.float64),
                    "up": np.where(n_rows[part] == 3, np.nan, n_rows[part] % 2).astype(np.float64),
                },
                quality=n_rows[part],
                coverage=np.ones(count, np.float64),
                known_at_ns=known_ns[part],
                n_rows=n_rows[part],
                final=final,
            )
        )
    return found


def say(what: str) -> None:
    """Tells whoever has started this process how far it is."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def main(repo: Path, kept: Path, seed: int) -> None:
    start, state = 0, None
    if kept.exists():
        start, state = pickle.loads(kept.read_bytes())
    output = OnlineOutput(lambda: opened(repo), wait_s=0.01, provisional=True)
    sink = OnlineSink(PROBE, output, OnlineTenancy("crashes", "job"), [0])
    part = sink.build_part("online", "00", state)
    given = all_vectors(seed)
    part.lane.state()
    say("ready")
    every = SNAPSHOT_EVERY + random.Random(start).randrange(9)
    for number in range(start, len(given)):
        part.write_batch([given[number]])
        say("a batch")
        time.sleep(PAUSE_S)
        if number % every == 0:
            draft = kept.with_suffix(".draft")
            draft.write_bytes(pickle.dumps((number + 1, part.snapshot())))
            draft.rename(kept)
    part.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
