"""The same seven features in other tools that keep windows: Bytewax's own, and tsflex.

Both are given rows in memory, in the order of time, and write nothing: what they are spared, the
engine does.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import numpy as np
import pandas as pd
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, TestingSource, run_main
from scipy import stats
from tsflex.features import FeatureCollection, FuncWrapper, MultipleFeatureDescriptors

from benchmarks.workload import SECOND_NS, START_NS, WINDOW, Arrays, rows, seven

Sums = tuple[int, float, float, float, float, float, float]
"""Count, sums of the first four powers, least and greatest value."""
EMPTY: Sums = (0, 0.0, 0.0, 0.0, 0.0, math.inf, -math.inf)


class _Rows:
    """Rows in the order of time, and vectors that are null until they are found."""

    def __init__(self, count: int, keys: int) -> None:
        self.data = rows(count, keys).by_time()
        self.keys = keys
        self.found: dict[tuple[int, int], dict[str, float]] = {}

    def prepare(self) -> None:
        """Forgets the last run."""
        self.found = {}

    def outputs(self) -> Arrays:
        """The vectors of all rows, null before the first whole window."""
        order = np.lexsort((self.data.ts_ns, self.data.key))
        key, ts_ns = self.data.key[order], self.data.ts_ns[order]
        second = (ts_ns - START_NS) // SECOND_NS
        vectors = [self.found.get(at, {}) for at in zip(key.tolist(), second.tolist(), strict=True)]
        found: Arrays = {"key": key.astype(np.int64), "ts": ts_ns}
        for name in seven.features:
            found[name] = np.array([vector.get(name, math.nan) for vector in vectors])
        return found


def add(sums: Sums, item: tuple[datetime, float]) -> Sums:
    """Adds a value to the sums of a window."""
    n, s1, s2, s3, s4, low, high = sums
    x = item[1]
    square = x * x
    return (
        n + 1,
        s1 + x,
        s2 + square,
        s3 + square * x,
        s4 + square * square,
        min(low, x),
        max(high, x),
    )


def merge(a: Sums, b: Sums) -> Sums:
    """Joins two windows' sums; sliding windows never need it."""
    powers = [left + right for left, right in zip(a[1:5], b[1:5], strict=True)]
    return a[0] + b[0], powers[0], powers[1], powers[2], powers[3], min(a[5], b[5]), max(a[6], b[6])


def finish(sums: Sums) -> dict[str, float]:
    """The features of a window of values around zero."""
    n, s1, s2, s3, s4, low, high = sums
    mean = s1 / n
    m2 = s2 / n - mean**2
    m3 = s3 / n - 3 * mean * s2 / n + 2 * mean**3
    m4 = s4 / n - 4 * mean * s3 / n + 6 * mean**2 * s2 / n - 3 * mean**4
    return {
        "mean": mean,
        "std": math.sqrt(m2 * n / (n - 1)),
        "min": low,
        "max": high,
        "skew": m3 / m2**1.5,
        "kurtosis": m4 / m2**2 - 3,
        "rms": math.sqrt(s2 / n),
    }


class BytewaxJob(_Rows):
    """Bytewax's sliding windows of 256 s that open every second, folded row by row.

    Args:
        count, keys: size of the input.
    """

    def __init__(self, count: int, keys: int) -> None:
        super().__init__(count, keys)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        times = [epoch + timedelta(seconds=int(t) // SECOND_NS) for t in self.data.ts_ns]
        items = zip(self.data.key.tolist(), times, self.data.x.tolist(), strict=True)
        self.items = [(str(key), (time, x)) for key, time, x in items]

    def run(self) -> None:
        """Runs the flow."""
        clock: win.EventClock[tuple[datetime, float]] = win.EventClock(
            ts_getter=lambda item: item[0], wait_for_system_duration=timedelta(0)
        )
        windower = win.SlidingWindower(
            length=timedelta(seconds=WINDOW),
            offset=timedelta(seconds=1),
            align_to=datetime.fromtimestamp(START_NS // SECOND_NS, tz=UTC),
        )
        flow = Dataflow("windows")
        stream = op.input("read", flow, TestingSource(self.items, batch_size=1_000))
        folded = win.fold_window("fold", stream, clock, windower, lambda: EMPTY, add, merge)
        closed: list[tuple[str, tuple[int, Sums]]] = []
        op.output("keep", folded.down, TestingSink(closed))
        run_main(flow)  # type: ignore[no-untyped-call]
        for key, (window, sums) in closed:
            if sums[0] == WINDOW:
                self.found[int(key), window + WINDOW - 1] = finish(sums)


class TsflexJob(_Rows):
    """tsflex with a stride of one row.

    Args:
        count, keys: size of the input.
    """

    def __init__(self, count: int, keys: int) -> None:
        super().__init__(count, keys)
        self.series = []
        for key in range(keys):
            own = self.data.key == key
            index = pd.DatetimeIndex(self.data.ts_ns[own])
            self.series.append(pd.Series(self.data.x[own], index, name="x"))
        functions = [
            FuncWrapper(np.mean, output_names="mean"),
            FuncWrapper(np.std, output_names="std", ddof=1),
            FuncWrapper(np.min, output_names="min"),
            FuncWrapper(np.max, output_names="max"),
            FuncWrapper(stats.skew, output_names="skew"),
            FuncWrapper(stats.kurtosis, output_names="kurtosis"),
            FuncWrapper(_rms, output_names="rms"),
        ]
        described = MultipleFeatureDescriptors(
            functions, series_names="x", windows=f"{WINDOW}s", strides="1s"
        )
        self.collection = FeatureCollection(described)
        self.frames: list[pd.DataFrame] = []

    def run(self) -> None:
        """Computes the features of each key."""
        self.frames = [
            self.collection.calculate(
                each, return_df=True, window_idx="end", include_final_window=True, n_jobs=1
            )
            for each in self.series
        ]

    def outputs(self) -> Arrays:
        """The vectors; tsflex stamps a window with the instant after its last row."""
        for key, frame in enumerate(self.frames):
            plain = frame.rename(columns=lambda name: name.split("__")[1])
            seconds = (plain.index.to_numpy().astype(np.int64) - START_NS) // SECOND_NS - 1
            for second, vector in zip(seconds.tolist(), plain.to_dict("records"), strict=True):
                self.found[key, second] = vector
        return super().outputs()


def _rms(x: Any) -> float:
    return float(np.sqrt(np.mean(x * x)))
