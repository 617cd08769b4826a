"""A feature set: one declaration from which plan, schemas, tables, views and docs follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from operators.durations import parse_duration_ns
from operators.expr import (
    SECOND,
    Across,
    Column,
    Constant,
    Elapsed,
    Expr,
    GridCoverage,
    OffGrid,
    Operand,
    SeriesSeconds,
    Spectral,
    Windowed,
    ZeroCrossings,
    as_expr,
    refuse,
)
from operators.instants import AcrossSeries, Hop, Instants, digest
from operators.streams import Stream, input_streams
from operators.windows import WarmUp, Whole

if TYPE_CHECKING:
    import polars as pl

ID_COLUMNS = ("ts", "feature_set", "version", "quality", "coverage", "known_at", "n_rows", "final")
"""Columns of every vector but its key, series and features."""


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """What is computed, when, and under which name.

    Attributes:
        name, version: together they name the output; a change of any feature wants a new version.
        emit: one vector per instant of this: a stream's rows (or messages), hop windows, the common
            instants of an entity's series, or the vectors of another set.
        features: expression per feature.
        quality: condition per quality flag; a flag is raised where its condition holds.
        coverage: share of the expected rows that are there, brought into [0, 1].
        labels: constant columns of every vector, such as the timeframe of bars from trades.
        ttl: a gap between two rows of a run longer than this empties its windows.
        max_entities: valve against floods of keys; rows of further ones are dead letters.
    """

    name: str
    version: str
    emit: Instants | SetOutput
    features: Mapping[str, Operand]
    quality: Mapping[str, Expr] = field(default_factory=dict)
    coverage: Operand = 1.0
    labels: Mapping[str, str] = field(default_factory=dict)
    ttl: str | None = None
    max_entities: int = 1_000_000
    description: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.emit, SetOutput):
            object.__setattr__(self, "labels", {**self.emit.source.labels, **self.labels})
            object.__setattr__(self, "emit", self.emit.source.emit)
        object.__setattr__(self, "features", {k: as_expr(v) for k, v in self.features.items()})
        object.__setattr__(self, "coverage", as_expr(self.coverage))
        if not self.features:
            refuse(f"feature set `{self.name}`", "must have at least one feature", "none")
        taken = {*ID_COLUMNS, self.entity, self.series or "", *self.labels}
        for name, expr in self.feature_exprs.items():
            where = f"feature set `{self.name}`, feature `{name}`"
            if not name.isidentifier() or "__" in name or name != name.lower():
                refuse(where, "a name must be lower snake case without `__`", repr(name))
            if name in taken:
                refuse(where, "its name must not be a column of every vector", repr(name))
            self._check(where, expr)
        for name, condition in self.quality.items():
            where = f"feature set `{self.name}`, flag `{name}`"
            if as_expr(condition).kind != "flag":
                refuse(where, "must be a condition", condition)
            self._check(where, condition)
        self._check(f"feature set `{self.name}`, coverage", self.coverage_expr)
        if self.ttl is not None:
            parse_duration_ns(self.ttl)

    def _check(self, where: str, expr: Expr) -> None:
        """Refuses what cannot be evaluated at the set's instants."""
        if isinstance(expr, SetColumn):
            if expr.at.entity != self.entity:
                refuse(where, f"must be keyed by `{self.entity}`", f"`{expr.at.entity}`")
            return
        if isinstance(expr, Column) and expr.kind == "samples":
            refuse(
                where, "must be one value per vector; take a feature of the samples", expr.formula
            )
        if isinstance(expr, Across):
            if not (
                isinstance(self.emit, AcrossSeries)
                and expr.arg.home is not None
                and expr.arg.home.fingerprint == self.emit.source.fingerprint
            ):
                refuse(
                    where,
                    f"`{expr.formula}` needs a set that emits across those series",
                    self.instants.name,
                )
            return
        framed = isinstance(expr, (Spectral, ZeroCrossings, GridCoverage))
        if framed or (isinstance(expr, Windowed) and isinstance(expr.window, Whole)):
            self._check_whole(where, expr, framed=framed)
            return
        if isinstance(expr, Windowed) and expr.args[0].home is None and expr.args[0].is_constant:
            refuse(where, "a window must be over a column", expr.formula)
        if expr.home is not None and expr.home.entity != self.entity:
            refuse(where, f"must be keyed by `{self.entity}`", f"`{expr.home.entity}`")
        for arg in expr.args:
            self._check(where, arg)

    def _check_whole(self, where: str, expr: Expr, *, framed: bool) -> None:
        source = expr.args[0].home
        if isinstance(self.emit, Stream) and self.emit.samples is not None:
            if expr.args[0].kind != "samples":
                refuse(where, "must be over the samples of the message", expr.args[0].formula)
            if isinstance(expr, Windowed) and expr.aggregate.family.over_frame is None:
                refuse(where, "is not available over samples", expr.aggregate.name)
            return
        if not isinstance(self.emit, Hop):
            refuse(
                where, "needs a set that emits per hop or per message", f"`{self.instants.name}`"
            )
        if source is None or source.fingerprint != self.emit.source.fingerprint:
            refuse(where, f"must be over rows of `{self.emit.source.name}`", expr.args[0].formula)
        if framed and (not isinstance(source, Stream) or source.rate_hz is None):
            refuse(where, "needs a stream with a declared sampling rate", f"`{source.name}`")

    @property
    def instants(self) -> Instants:
        """The instants at which vectors are emitted."""
        assert isinstance(self.emit, Instants)
        return self.emit

    @property
    def coverage_expr(self) -> Expr:
        """The declared coverage, as an expression."""
        return as_expr(self.coverage)

    @property
    def feature_exprs(self) -> dict[str, Expr]:
        """The features, as expressions."""
        return {name: as_expr(expr) for name, expr in self.features.items()}

    @property
    def entity(self) -> str:
        """Column with the entity's key."""
        return self.instants.entity

    @property
    def series(self) -> str | None:
        """Column that tells the entity's series apart."""
        return self.instants.series

    @property
    def ttl_ns(self) -> int:
        """TTL in nanoseconds; without one, longer than any gap."""
        return parse_duration_ns(self.ttl) if self.ttl else 2**62

    @cached_property
    def streams(self) -> list[Stream]:
        """The input streams, by name."""
        found: list[Instants] = [self.instants]
        pending = [*self.feature_exprs.values(), *self.quality.values(), self.coverage_expr]
        while pending:
            expr = pending.pop()
            if isinstance(expr, SetColumn):
                pending.append(expr.expr)
            elif isinstance(expr, Column) or (expr.home is not None and not expr.args):
                assert expr.home is not None
                found.append(expr.home)
            pending.extend(expr.args)
        return input_streams(found)

    @property
    def max_delay_ns(self) -> int:
        """A vector is final when the clock has passed its instant by more than this."""
        return max(stream.max_delay_ns for stream in self.streams)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the whole declaration."""
        return digest(
            "set", self.name, self.version, self.instants.fingerprint, self.ttl,
            sorted(self.labels.items()), *(f"{k}={e.fingerprint}" for k, e in
            self.feature_exprs.items()), *(f"{k}?{e.fingerprint}" for k, e in self.quality.items()),
            self.coverage_expr.fingerprint,
        )  # fmt: skip

    def compute(self, frame: pl.DataFrame | None = None, **frames: pl.DataFrame) -> pl.DataFrame:
        """The final vectors of whole frames, in this process.

        Args:
            frame: rows of the input stream, for a set that reads one.
            frames: rows by the name of their stream, for a set that reads several.

        Returns:
            A frame of vectors, by key, series and time. Rows that cannot be used are left out with
            a :class:`operators.notebook.RefusedRowsWarning`.

        Raises:
            TypeError: when a stream has no frame, or a frame no stream.
        """
        from operators.notebook import compute

        if frame is not None and len(self.streams) == 1:
            frames = {self.streams[0].name: frame, **frames}
        return compute(self, frames)

    def output(self) -> SetOutput:
        """The set's vectors as rows that another set can read."""
        return SetOutput(self)


@dataclass(frozen=True, eq=False, repr=False)
class SetColumn(Column):
    """A feature of another set, read where that set emits."""

    expr: Expr = field(default_factory=lambda: Constant(0.0))

    @property
    def warm_up(self) -> WarmUp:
        """That of the feature."""
        return self.expr.warm_up

    def parameters(self) -> tuple[object, ...]:
        """What tells it from other columns."""
        return (self.at.fingerprint, self.expr.fingerprint)


@dataclass(frozen=True, eq=False)
class SetOutput:
    """The vectors of a set, as rows with columns."""

    source: FeatureSet

    def col(self, name: str) -> SetColumn:
        """A feature of the set.

        Raises:
            KeyError: naming the features there are, when there is none of that name.
        """
        exprs = self.source.feature_exprs
        if name not in exprs:
            msg = f"feature set `{self.source.name}`: no feature {name!r}; there are {list(exprs)}"
            raise KeyError(msg)
        expr = exprs[name]
        return SetColumn(self.source.instants, name, expr.unit, expr.kind, expr=expr)

    def across_series(self) -> AcrossSeries:
        """The common instants of the entity's series."""
        return self.source.instants.across_series()

    def elapsed(self, rows: int = 1) -> Elapsed:
        """Seconds since so many vectors before."""
        return Elapsed(self.source.instants, rows)

    def series_seconds(self) -> Expr:
        """The duration that the vectors' timeframe spells, in seconds."""
        label = self.source.labels.get("timeframe")
        if label is not None:
            return Constant(parse_duration_ns(label) * 1e-9, unit=SECOND)
        return SeriesSeconds(self.source.instants)

    def off_grid(self) -> Expr:
        """Seconds of a vector's time past the last multiple of its timeframe; 0 for hop windows."""
        if isinstance(self.source.instants, Hop):
            return Constant(0.0, unit=SECOND)
        return OffGrid(self.source.instants)
