"""How fast is the engine on decoded columns, beside polars and beside its own kernels?

The engine is given batches in the order of arrival, drops each batch's vectors as a sink would that
has written them, and settles rows by the clock. polars is given one frame, sorted by time;
or by key and then time, which is to have done the greater part of ``over`` before. The kernels are
given arrays sorted by key, and the memory for their results; or the batches, to be ordered first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import polars as pl

from benchmarks.contest import Contender, Timing, contest
from benchmarks.report import Line
from benchmarks.workload import (
    KEYS,
    WINDOW,
    Arrays,
    Float64s,
    batches,
    in_order,
    rows,
    seven,
    ticks,
)
from operators.batch import Vectors
from operators.engine import Engine
from operators.kernels import extrema, moments, ordering, split
from operators.plan import compile_plan

BATCH_ROWS = 262_144


class EngineJob:
    """The engine over prepared batches.

    Args:
        count, keys: size of the input.
        batch_rows: rows of a batch.
    """

    def __init__(self, count: int, keys: int, batch_rows: int) -> None:
        self.plan = compile_plan(seven)
        self.batches = batches(rows(count, keys), keys, batch_rows)

    def prepare(self) -> None:
        """Nothing to clear up."""

    def run(self, keep: Callable[[Vectors], object] | None = None) -> None:
        """Processes all batches, and lets the vectors go."""
        engine = Engine(self.plan, [(ticks.name, "all")])
        for batch in self.batches:
            output = engine.process(batch)
            if keep is not None and output.vectors is not None:
                keep(output.vectors)

    def outputs(self) -> Arrays:
        """The vectors of a run of its own: the timed ones keep none."""
        kept: list[Vectors] = []
        self.run(kept.append)
        number = {name: i for i, name in enumerate(self.batches[0].keys.names)}
        found: Arrays = {"ts": np.concatenate([v.ts_ns for v in kept])}
        key_of = [np.array([number[name] for name in v.keys.names]) for v in kept]
        found["key"] = np.concatenate([k[v.keys.codes] for k, v in zip(key_of, kept, strict=True)])
        for name in seven.features:
            found[name] = np.concatenate([v.features[name] for v in kept])
        return in_order(found)


class PolarsJob:
    """polars over one frame that is sorted.

    Args:
        count, keys: size of the input.
        by: columns it is sorted by.
    """

    def __init__(self, count: int, keys: int, by: Sequence[str] = ("ts",)) -> None:
        data = rows(count, keys).by_time()
        frame = pl.DataFrame({"ts": data.ts_ns, "key": data.key, "x": data.x})
        self.frame = frame.sort(*by, maintain_order=True)
        self.result = self.frame

    def prepare(self) -> None:
        """Lets the last result go."""
        self.result = self.frame

    def run(self) -> None:
        """Computes the features."""
        self.result = self.frame.with_columns(**rolling_features("x", "key"))

    def outputs(self) -> Arrays:
        """The frame's columns; polars' null is NaN."""
        names = ["key", "ts", *seven.features]
        return in_order({name: self.result[name].fill_null(np.nan).to_numpy() for name in names})


def rolling_features(column: str, key: str) -> dict[str, pl.Expr]:
    """The seven features in polars."""
    x = pl.col(column)
    found = {
        "mean": x.rolling_mean(WINDOW),
        "std": x.rolling_std(WINDOW),
        "min": x.rolling_min(WINDOW),
        "max": x.rolling_max(WINDOW),
        "skew": x.rolling_skew(WINDOW),
        "kurtosis": x.rolling_kurtosis(WINDOW),
        "rms": (x * x).rolling_mean(WINDOW).sqrt(),
    }
    return {name: expr.over(key) for name, expr in found.items()}


class KernelsJob:
    """The kernels that the engine calls, one call each over all rows.

    Args:
        count, keys: size of the input.
    """

    finishes: ClassVar = {
        "mean": moments.mean,
        "std": moments.std,
        "min": extrema.smallest,
        "max": extrema.largest,
        "skew": moments.skew,
        "kurtosis": moments.kurtosis,
        "rms": moments.rms,
    }

    def __init__(self, count: int, keys: int) -> None:
        data = rows(count, keys).by_time()
        order = np.argsort(data.key, kind="stable")
        self.key, self.ts_ns, self.x = data.key[order], data.ts_ns[order], data.x[order]
        total, self.runs = len(data), np.arange(keys)
        self.start = np.arange(keys + 1) * (total // keys)
        self.hi = np.tile(np.arange(1, total // keys + 1), keys)
        self.lo = np.maximum(self.hi - WINDOW, 0)
        self.shape, self.extrema = np.ones((5, total)), np.ones((3, total))
        self.suffix: dict[int, Float64s] = {
            width: np.ones((total + split.NEAR, width)) for width in (5, 3)
        }
        self.state = np.zeros((keys, split.ACCUMULATOR))
        self.marks = split.new_marks(keys)
        self.results = {name: np.ones(total) for name in self.finishes}

    def prepare(self) -> None:
        """Nothing to clear up."""

    def run(self) -> None:
        """Calls them."""
        for slide, out in ((moments.shape, self.shape), (extrema.extrema, self.extrema)):
            split.forget(self.marks)
            slide(
                0.0, self.runs, self.runs, self.start, self.start[:-1], self.ts_ns, self.x, self.x,
                self.lo, self.hi, self.marks, self.state, self.suffix[len(out)], out,
            )  # fmt: skip
        for name, finish in self.finishes.items():
            sums = self.extrema if name in {"min", "max"} else self.shape
            finish(sums, 0.0, WINDOW, self.results[name])

    def outputs(self) -> Arrays:
        """The arrays, which are sorted already."""
        return {"key": self.key.astype(np.int64), "ts": self.ts_ns, **self.results}


class OrderingKernelsJob(KernelsJob):
    """The same, and the kernels that put the engine's batches into the order of key and time.

    Args:
        count, keys: size of the input.
        batch_rows: rows of a batch.
    """

    def __init__(self, count: int, keys: int, batch_rows: int) -> None:
        super().__init__(count, keys)
        self.keys = keys
        self.batches = batches(rows(count, keys), keys, batch_rows)

    def run(self) -> None:
        """Orders every batch, and calls the sliding kernels."""
        for batch in self.batches:
            order, _, start = ordering.group_by_run(batch.keys.codes, self.keys)
            ordering.sort_times(order, ordering.gather(batch.ts_ns, order), start)
            for column in batch.columns.values():
                ordering.gather(column, order)
        super().run()


def measure(count: int, rounds: int, *, keys: int = KEYS) -> tuple[list[Line], list[Timing]]:
    """Runs the contest.

    Args:
        count: rows of the input.
        rounds: how often each runs.
        keys: how many keys.
    """
    size = {"count": count, "keys": keys}
    batch_rows = {**size, "batch_rows": BATCH_ROWS}
    module = "benchmarks.columns"
    contenders = [
        Contender("engine", f"{module}:EngineJob", batch_rows, count),
        Contender("polars", f"{module}:PolarsJob", size, count),
        Contender("polars, by key", f"{module}:PolarsJob", {**size, "by": ["key", "ts"]}, count),
        Contender("windows alone", f"{module}:KernelsJob", size, count),
        Contender("order and windows", f"{module}:OrderingKernelsJob", batch_rows, count),
    ]
    engine, polars, by_key, windows, kernels = timings = contest(contenders, rounds)
    return [
        Line.ratio("columns: engine over polars", polars, engine, 2.0),
        Line.ratio("columns: engine over polars, sorted by key before", by_key, engine),
        Line.ratio("columns: share of the kernels of order and windows", kernels, engine, 0.6),
        Line.ratio("columns: share of the kernels of windows alone", windows, engine, 0.6),
    ], timings
