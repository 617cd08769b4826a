"""The steps of a plan, one class each: what is computed from what, over a whole block at once.

A step leaves its result in ``scope.values`` under its key, the fingerprint of its expression.
Values are float64 with NaN for null.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from operators.aggregates import Aggregate, Family, Kernel
from operators.batch import Float64s, Int64s, Samples
from operators.elementwise import Elementwise
from operators.history import Cache, RunTable
from operators.kernels import across, frames, runs, spectra
from operators.scope import Scope, WindowSpec


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a plan."""

    key: str

    def run(self, scope: Scope) -> Any:
        """The result over the scope's block."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class ReadColumn(Step):
    """A column of the rows."""

    name: str

    def run(self, scope: Scope) -> Any:
        return scope.block.columns[self.name]


@dataclass(frozen=True, slots=True)
class Fill(Step):
    """A number."""

    value: float

    def run(self, scope: Scope) -> Float64s:
        return np.full(len(scope.block), self.value)


@dataclass(frozen=True, slots=True)
class Apply(Step):
    """A function of values of the same row."""

    function: Elementwise
    args: tuple[str, ...]

    def run(self, scope: Scope) -> Float64s:
        return self.function.compute(*[scope.values[key] for key in self.args])


@dataclass(frozen=True, slots=True)
class LookBack(Step):
    """The value some rows before the last one seen."""

    source: int
    column: str
    rows: int

    def run(self, scope: Scope) -> Float64s:
        at, table = scope.positions(self.source), scope.tables[self.source]
        return runs.values_back(
            table.columns[self.column], at.run, scope.block.segment_start, at.hi, at.floor,
            table.base, self.rows,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SecondsSince(Step):
    """Seconds since some rows before the last one seen."""

    source: int
    rows: int

    def run(self, scope: Scope) -> Float64s:
        at, table, block = scope.positions(self.source), scope.tables[self.source], scope.block
        return runs.seconds_back(
            block.ts_ns, at.run, block.segment_start, at.hi, at.floor, table.ts, table.base,
            self.rows,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class SeriesDuration(Step):
    """The duration that the name of the series spells, in seconds."""

    def run(self, scope: Scope) -> Float64s:
        span_ns = scope.series_ns()
        return np.where(span_ns > 0, span_ns * 1e-9, np.nan)


@dataclass(frozen=True, slots=True)
class PastGrid(Step):
    """Seconds past the last multiple of the series' duration."""

    def run(self, scope: Scope) -> Float64s:
        span_ns = scope.series_ns()
        past_ns = scope.block.ts_ns % np.maximum(span_ns, 1)
        return np.where(span_ns > 0, past_ns * 1e-9, np.nan)


@dataclass(frozen=True, slots=True)
class Slide(Step):
    """The results of a sliding kernel, float64[results, rows]."""

    source: int
    columns: tuple[str, ...]
    window: WindowSpec
    family: Family
    parameter: float

    def cache(self, table: RunTable, domain: int) -> Cache:
        """What it remembers of a table's rows on behalf of a kind."""
        return table.cache(f"{domain}:{self.key}", self.family.width)

    def run(self, scope: Scope) -> Float64s:
        at = scope.positions(self.source, self.window.closed_right)
        lo = scope.lows(self.source, self.window)
        table, block = scope.tables[self.source], scope.block
        x = table.columns[self.columns[0]]
        y = table.columns[self.columns[-1]]
        cache = self.cache(table, scope.domain)
        out = scope.results(self.family.results)
        self.family.slide(
            self.parameter, at.run, block.segment_run, block.segment_start, table.base, table.ts,
            x, y, lo, at.hi, cache.marks, cache.state, cache.suffix, out,
        )  # fmt: skip
        return out


@dataclass(frozen=True, slots=True)
class FrameSums(Step):
    """The results of a family over the samples of messages, float64[results, rows]."""

    samples: str
    family: Family

    def run(self, scope: Scope) -> Float64s:
        samples: Samples = scope.values[self.samples]
        out = np.empty((self.family.results, len(scope.block)))
        assert self.family.over_frame is not None
        self.family.over_frame(samples.flat, samples.start, samples.start + samples.length, out)
        return out


@dataclass(frozen=True, slots=True)
class Finish(Step):
    """An aggregate, from the results of its family."""

    sums: str
    aggregate: Aggregate
    parameter: float
    min_samples: int

    def run(self, scope: Scope) -> Float64s:
        result = np.empty(len(scope.block))
        self.aggregate.finish(scope.values[self.sums], self.parameter, self.min_samples, result)
        runs.null_where_not_finite(result)
        return result


@dataclass(frozen=True, slots=True)
class Grid(Step):
    """The samples of hop windows on their grid, as frames of one length; NaN where none is."""

    source: int
    column: str
    window: WindowSpec
    length: int
    period_ns: float
    jitter_ns: float

    def run(self, scope: Scope) -> Samples:
        at = scope.positions(self.source, self.window.closed_right)
        lo = scope.lows(self.source, self.window)
        table, block = scope.tables[self.source], scope.block
        cells = np.empty((len(block), self.length))
        frames.snap_to_grid(
            table.columns[self.column], table.ts, at.run, block.segment_start, table.base, lo,
            at.hi, block.ts_ns, self.length, self.period_ns, self.jitter_ns,
            self.window.closed_right, cells,
        )  # fmt: skip
        start = np.arange(len(block), dtype=np.int64) * self.length
        return Samples(cells.reshape(-1), start, np.full(len(block), self.length, np.int64))


@dataclass(frozen=True, slots=True)
class Coverage(Step):
    """Share of a frame's samples that are there."""

    samples: str

    def run(self, scope: Scope) -> Float64s:
        samples: Samples = scope.values[self.samples]
        out = np.empty((3, len(scope.block)))
        frames.frame_ends(samples.flat, samples.start, samples.start + samples.length, out)
        return out[0] / np.maximum(samples.length, 1)


@dataclass(frozen=True, slots=True)
class Crossings(Step):
    """Zero-crossing rate of the valid samples of each window."""

    source: int
    column: str
    window: WindowSpec | None
    """None for messages, whose samples are under the key ``column``."""

    def run(self, scope: Scope) -> Float64s:
        result = np.empty(len(scope.block))
        if self.window is None:
            samples: Samples = scope.values[self.column]
            frames.zero_crossing_rate(
                samples.flat, samples.start, samples.start + samples.length, result
            )
            return result
        at = scope.positions(self.source, self.window.closed_right)
        table = scope.tables[self.source]
        offset = scope.block.per_row(table.base[: max(len(table), 1)])
        lo = scope.lows(self.source, self.window) + offset
        frames.zero_crossing_rate(table.columns[self.column], lo, at.hi + offset, result)
        return result


@dataclass(frozen=True, slots=True)
class Density:
    """Power densities of frames of one length and sampling rate."""

    rows: Int64s
    rate_hz: float
    frequency: Float64s
    power: Float64s


@dataclass(frozen=True, slots=True)
class PowerDensity(Step):
    """Power densities of the complete frames, as a list of :class:`Density`."""

    samples: str
    rate: str
    """Key of the sampling rates; empty for ``rate_hz``."""
    rate_hz: float = 0.0

    def run(self, scope: Scope) -> list[Density]:
        samples: Samples = scope.values[self.samples]
        count = len(scope.block)
        rates = scope.values[self.rate] if self.rate else np.full(count, self.rate_hz)
        kinds = np.stack([samples.length.astype(np.float64), rates], axis=1)
        found = []
        for length, rate_hz in np.unique(kinds, axis=0):
            rows = np.flatnonzero((kinds[:, 0] == length) & (kinds[:, 1] == rate_hz))
            cells = samples.start[rows, None] + np.arange(int(length))
            frame = samples.flat[cells]
            complete = ~np.isnan(frame).any(axis=1)
            if length >= 2 and complete.any():
                frequency, power = spectra.power_density(frame[complete], float(rate_hz))
                found.append(Density(rows[complete], float(rate_hz), frequency, power))
        return found


@dataclass(frozen=True, slots=True)
class ReadSpectrum(Step):
    """A number read off each power density."""

    density: str
    kernel: Kernel
    low: float
    high: float
    of_nyquist: bool
    """Whether ``low`` and ``high`` are shares of the Nyquist frequency."""

    def run(self, scope: Scope) -> Float64s:
        result = np.full(len(scope.block), np.nan)
        for density in scope.values[self.density]:
            values = np.empty(len(density.rows))
            unit = density.rate_hz / 2.0 if self.of_nyquist else 1.0
            low, high = self.low * unit, self.high * unit
            if high >= density.rate_hz / 2.0:
                high = np.inf  # a band that ends at Nyquist includes it
            self.kernel(density.frequency, density.power, low, high, values)
            result[density.rows] = values
        return result


@dataclass(frozen=True, slots=True)
class AcrossSeriesOf(Step):
    """An aggregate over the series of the entity that have a row at the instant."""

    source: int
    column: str
    how: str
    rows: int

    def run(self, scope: Scope) -> Float64s:
        block = scope.block
        assert block.member_rows is not None
        result = np.empty(len(block))
        source = scope.scopes[self.source]
        if self.how == "corr":
            table = scope.tables[self.source]
            source_runs = source.block.per_row(np.arange(max(len(table), 1)))
            floors = table.floors if table.has_ttl else np.zeros(len(table.ts), np.int64)
            across.across_corr(
                table.columns[self.column], table.ts, floors, source_runs[block.member_rows],
                block.member_start, block.ts_ns, self.rows, table.base, table.first,
                table.end, result,
            )  # fmt: skip
            return result
        kernel = {
            "mean": across.across_mean,
            "min": across.across_min,
            "max": across.across_max,
            "count": across.across_count,
        }[self.how]
        kernel(source.values[self.column][block.member_rows], block.member_start, result)
        return result
