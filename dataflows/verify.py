"""Compares a range of a set's vectors, computed again, with what is held of it somewhere.

Whoever holds vectors is a :class:`Held`: the output topic, and whatever keeps tables of them. Both
sides go to disk and are compared span by span, so that memory does not grow with the range.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol, TypeVar

import numpy as np
import polars as pl
import pyarrow as pa

from dataflows.commands.diff import compare
from dataflows.spill import Spill, spans
from operators.feature_set import FeatureSet
from operators.frames import schema
from sinks.dataset import identity

ROWS_AT_ONCE = 200_000
"""Vectors of both sides that are compared at once."""
KEPT = 1_000
"""Findings that are kept to be shown; all are counted."""


class Held(Protocol):
    """A place that holds vectors of a set.

    Attributes:
        name: what messages call it.
    """

    name: str

    def tables(
        self, feature_set: FeatureSet, from_ns: int, to_ns: int, watch: Callable[[int, int], None]
    ) -> Iterator[pa.Table]:
        """The final vectors of a set and its version, as :func:`operators.frames.schema` says.

        Args:
            feature_set: whose vectors.
            from_ns: their least time.
            to_ns: the time before which they are.
            watch: is told how much is read of how much there is.
        """


@dataclass(frozen=True, slots=True)
class Finding:
    """A vector that is not held as it was computed.

    Attributes:
        kind: ``missing``, ``extra``, ``twice`` or ``different``.
        vector: entity, series if any, labels if any, and time.
        column: whose values differ.
        computed, held: the two values, in the shortest form that reads back the same, and in
            hexadecimal.
    """

    kind: str
    vector: tuple[str, ...]
    column: str = ""
    computed: str = ""
    held: str = ""


@dataclass
class Verified:
    """What a comparison has found.

    Attributes:
        held: the name of what was compared.
        same, different: vectors that both sides have.
        missing: vectors that are not held.
        extra: vectors that are held, but were not computed.
        twice: vectors that are held more than once.
        findings: the first ones of all kinds, by time.
        newest_held_ns: the greatest time of a vector that is held, if one is.
        oldest_missing_ns: the least time of a vector that is missing, if one is.
    """

    held: str
    same: int = 0
    different: int = 0
    missing: int = 0
    extra: int = 0
    twice: int = 0
    findings: list[Finding] = field(default_factory=list)
    newest_held_ns: int | None = None
    oldest_missing_ns: int | None = None

    @property
    def equal(self) -> bool:
        """Whether what is held is what was computed."""
        return not (self.different or self.missing or self.extra or self.twice)

    @property
    def compared(self) -> int:
        """Vectors that both sides have."""
        return self.same + self.different

    @property
    def is_behind(self) -> bool:
        """Whether all that is wrong is that vectors later than any held one are missing."""
        if self.different or self.extra or self.twice or self.oldest_missing_ns is None:
            return False
        return self.newest_held_ns is None or self.oldest_missing_ns > self.newest_held_ns

    def add(self, computed: pa.Table, held: pa.Table) -> None:
        """Compares all vectors of one span of time."""
        keys = identity(computed)
        if len(held):
            self.newest_held_ns = int(held["ts"].cast(pa.int64()).to_numpy().max())
        held, doubled = _once(held, keys)
        self._find("twice", doubled)
        self.twice += len(doubled)
        found = compare(computed, held, KEPT)
        self.same += found.same
        self.different += found.different
        self.missing += len(found.only_left)
        self.extra += len(found.only_right)
        self._find("missing", found.only_left)
        self._find("extra", found.only_right)
        if found.only_left and self.oldest_missing_ns is None:
            self.oldest_missing_ns = _oldest_ns(found.only_left)
        for each in found.first:
            if len(self.findings) < KEPT:
                vector = each.vector[:-2]
                kind = "different"
                self.findings.append(Finding(kind, vector, each.column, each.left, each.right))

    def _find(self, kind: str, vectors: Iterable[tuple[str, ...]]) -> None:
        for vector in vectors:
            if len(self.findings) == KEPT:
                return
            self.findings.append(Finding(kind, vector[:-2]))  # set and version are the same in all


def _oldest_ns(vectors: Iterable[tuple[str, ...]]) -> int:
    times = [vector[-3].removesuffix("Z") for vector in vectors]
    return int(np.array(times, "datetime64[ns]").view(np.int64).min())


def _once(table: pa.Table, keys: list[str]) -> tuple[pa.Table, list[tuple[str, ...]]]:
    """The first of each vector, and those that are there more than once."""
    frame = pl.DataFrame({name: pl.Series(name, table[name]) for name in keys})
    first = frame.select(pl.struct(pl.all()).is_first_distinct()).to_series()
    if first.all():
        return table, []
    again = frame.filter(~first).unique(maintain_order=True)
    spelled = again.with_columns(pl.col("ts").dt.to_string("%Y-%m-%dT%H:%M:%S%.9fZ"))
    return table.filter(pa.array(first.to_numpy())), [tuple(row) for row in spelled.rows()]


class Compared(Protocol):
    """What a comparison has found.

    Attributes:
        held: the name of what was compared.
        findings: the first ones.
    """

    held: str
    findings: list[Finding]

    @property
    def equal(self) -> bool:
        """Whether nothing is wrong."""

    @property
    def compared(self) -> int:
        """How many vectors both sides have."""


C_co = TypeVar("C_co", bound=Compared, covariant=True)
"""What is found of the newest vectors."""


class Serving(Protocol[C_co]):
    """A place that holds only the newest vector of each entity."""

    def compare(
        self,
        feature_set: FeatureSet,
        computed: Iterable[pa.Table],
        watch: Callable[[int, int], None],
    ) -> C_co:
        """Compares what it serves with the newest of the vectors that were computed."""


class Computed(Protocol):
    """Vectors that are computed again."""

    def tables(self) -> Iterator[pa.Table]:
        """The vectors, as :func:`operators.frames.schema` says."""

    @property
    def final_until_ns(self) -> int:
        """The time before which they are all there, once they have been given."""


def verify(
    feature_set: FeatureSet,
    computed: Computed,
    held: Sequence[Held],
    from_ns: int,
    watch: Callable[[int, int], None] = lambda done, total: None,
    serving: Sequence[Serving[C_co]] = (),
) -> tuple[list[Verified], list[C_co]]:
    """Compares what is computed with what each of some places holds.

    Args:
        feature_set: whose vectors.
        computed: gives them; read first, so that a flow has the time to write what it is about to.
        held: who holds them.
        from_ns: the least time of those to compare.
        watch: is told how much is read of what is held.
        serving: who holds the newest ones.
    """
    columns = schema(feature_set)
    with (
        TemporaryDirectory(prefix="riffle-verify-") as folder,
        Spill(Path(folder) / "computed.arrow", columns) as left,
    ):
        for table in computed.tables():
            left.add(table)
        to_ns = computed.final_until_ns
        span = (from_ns, to_ns)
        return (
            [_compared(feature_set, left, each, Path(folder), span, watch) for each in held],
            [each.compare(feature_set, _within(left, span), watch) for each in serving],
        )


def _within(computed: Spill, span: tuple[int, int]) -> Iterator[pa.Table]:
    """What was computed of a range, a piece at a time."""
    from_ns, to_ns = span
    for start_ns, stop_ns in spans([computed], ROWS_AT_ONCE):
        start, stop = max(start_ns, from_ns), min(stop_ns, to_ns)
        if start < stop:
            yield computed.read(start, stop)


def _compared(
    feature_set: FeatureSet,
    left: Spill,
    held: Held,
    folder: Path,
    span: tuple[int, int],
    watch: Callable[[int, int], None],
) -> Verified:
    from_ns, to_ns = span
    result = Verified(held.name)
    with Spill(folder / "held.arrow", schema(feature_set)) as right:
        for table in held.tables(feature_set, from_ns, to_ns, watch):
            right.add(table)
        for start_ns, stop_ns in spans([left, right], ROWS_AT_ONCE):
            stop = min(stop_ns, to_ns)
            if start_ns < stop:
                result.add(left.read(start_ns, stop), right.read(start_ns, stop))
    return result
