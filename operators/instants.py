"""When things are true: the instants at which rows or vectors of an entity exist.

A stream has the instants of its rows; a hop has the ends of its windows; going across the series of
an entity merges their instants. An expression lives at one of these; a feature set emits at one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

from operators.durations import parse_duration_ns, show_duration


def digest(*parts: object) -> str:
    """A short stable fingerprint of the parts' spellings."""
    return hashlib.sha256("\x1f".join(map(str, parts)).encode()).hexdigest()[:24]


class Instants:
    """The instants of one kind of row, per run.

    A run is one entity, or one series of an entity where ``series`` names the column that tells
    them apart.
    """

    name: str
    entity: str
    series: str | None

    @cached_property
    def fingerprint(self) -> str:
        """Stable identity, which changes with anything that changes the rows."""
        raise NotImplementedError

    def hop(self, length: str, *, every: str, closed: str = "left") -> Hop:
        """Windows of ``length`` that end at each multiple of ``every`` since the epoch.

        Args:
            length: such as ``"1s"``.
            every: distance of two windows' ends.
            closed: ``"left"`` for [t - length, t), as in Flink and polars' group_by_dynamic;
                ``"right"`` for (t - length, t].
        """
        return Hop(self, parse_duration_ns(length), parse_duration_ns(every), closed)

    def across_series(self) -> AcrossSeries:
        """One instant of the entity for each instant that any of its series has."""
        return AcrossSeries(self)


class Derived(Instants):
    """Instants that are made from those of the same entity's rows."""

    source: Instants

    @property
    def entity(self) -> str:  # type: ignore[override]
        """The column of the entity's key."""
        return self.source.entity

    @property
    def series(self) -> str | None:  # type: ignore[override]
        """None: unless said otherwise, the instants belong to the entity."""
        return None


@dataclass(frozen=True, eq=False)
class Hop(Derived):
    """Ends of hop windows over the rows of ``source`` that hold at least one row."""

    source: Instants
    length_ns: int
    every_ns: int
    closed: str = "left"

    def __post_init__(self) -> None:
        if self.closed not in {"left", "right"}:
            where = f"hop over `{self.source.name}`"
            msg = f"{where}: `closed` must be 'left' or 'right', got {self.closed!r}"
            raise ValueError(msg)
        if self.every_ns > self.length_ns:
            msg = (
                f"hop over `{self.source.name}`: `every` ({show_duration(self.every_ns)}) can't be "
                f"longer than the window ({show_duration(self.length_ns)}); rows between two "
                "windows would belong to none"
            )
            raise ValueError(msg)

    @property
    def name(self) -> str:  # type: ignore[override]
        """What messages call it."""
        length, every = show_duration(self.length_ns), show_duration(self.every_ns)
        return f"{self.source.name}[{length} every {every}]"

    @property
    def series(self) -> str | None:  # type: ignore[override]
        """The column that tells series apart."""
        return self.source.series

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the windows."""
        return digest("hop", self.source.fingerprint, self.length_ns, self.every_ns, self.closed)


@dataclass(frozen=True, eq=False)
class AcrossSeries(Derived):
    """The instants of an entity at which at least one of its series has one."""

    source: Instants

    def __post_init__(self) -> None:
        if self.source.series is None:
            msg = f"`{self.source.name}` has no series to go across"
            raise ValueError(msg)

    @property
    def name(self) -> str:  # type: ignore[override]
        """What messages call it."""
        return f"{self.source.name}[across {self.source.series}]"

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the instants."""
        return digest("across", self.source.fingerprint)
