"""`riffle diff`: final vectors of two datasets, bit for bit."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sinks.dataset import UnreadableError, features, identity, read_vectors

SHOWN = 20
"""Differences that are printed."""


@dataclass(frozen=True)
class Difference:
    """A value that is not the same on both sides."""

    vector: tuple[str, ...]
    column: str
    left: str
    right: str


@dataclass
class Comparison:
    """What two datasets have in common, and what not."""

    same: int = 0
    different: int = 0
    only_left: list[tuple[str, ...]] = field(default_factory=list)
    only_right: list[tuple[str, ...]] = field(default_factory=list)
    first: list[Difference] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not (self.different or self.only_left or self.only_right)


def compare(left: pa.Table, right: pa.Table, shown: int = SHOWN) -> Comparison:
    """Compares the final vectors of two tables: features, quality and coverage.

    Raises:
        UnreadableError: when they have other columns, or one vector twice.
    """
    for one, other in ((left, right), (right, left)):
        lacking = [name for name in one.schema.names if name not in other.schema.names]
        if lacking:
            sides = [features(table) for table in (left, right)]
            msg = (
                "both sides must have the same columns, found features "
                f"{sides[0]} on the left and {sides[1]} on the right; one lacks {lacking}"
            )
            raise UnreadableError(msg)
    left, right = left.filter(left["final"]), right.filter(right["final"])
    keys = identity(left)
    here, there = _keyed(left, keys, "left"), _keyed(right, keys, "right")
    both = here.join(there, on=keys, how="inner", maintain_order="left")
    result = Comparison()
    result.only_left = _names(here.join(there, on=keys, how="anti", maintain_order="left"), keys)
    result.only_right = _names(there.join(here, on=keys, how="anti", maintain_order="left"), keys)
    a, b = (side.take(pa.array(both[row])) for side, row in ((left, "left"), (right, "right")))
    differing = np.zeros(len(both), np.bool_)
    by_column = {}
    for name in [*features(left), "quality", "coverage"]:
        by_column[name] = _differing(a[name], b[name])
        differing |= by_column[name]
    result.different = int(differing.sum())
    result.same = len(both) - result.different
    vectors = _names(both[np.flatnonzero(differing)[:shown].tolist()], keys)
    for vector, row in zip(vectors, np.flatnonzero(differing)[:shown].tolist(), strict=True):
        result.first += [
            Difference(vector, name, _shown(a[name][row]), _shown(b[name][row]))
            for name, mask in by_column.items()
            if mask[row]
        ]
    return result


def _keyed(table: pa.Table, keys: list[str], side: str) -> pl.DataFrame:
    """The identity of each vector and its row."""
    columns = {name: pl.Series(name, table[name]) for name in keys}
    frame = pl.DataFrame(columns).with_columns(
        pl.col(name).cast(pl.String) for name in keys if name != "ts"
    )
    doubled = frame.filter(frame.is_duplicated())
    if len(doubled):
        msg = (
            f"the {side} side must have each vector once, found {len(doubled)} rows that share "
            f"theirs with another, the first of {_names(doubled[:1], keys)[0]}"
        )
        raise UnreadableError(msg)
    return frame.with_columns(pl.int_range(len(frame)).alias(side))


def _names(frame: pl.DataFrame, keys: list[str]) -> list[tuple[str, ...]]:
    shown = frame.select(
        pl.col(name).dt.to_string("%Y-%m-%dT%H:%M:%S%.9fZ") if name == "ts" else pl.col(name)
        for name in keys
    )
    return [tuple(row) for row in shown.rows()]


def _differing(a: pa.ChunkedArray, b: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Tells which values differ, numbers by their bits, null equal to null alone."""
    null_a, null_b = (np.asarray(pc.is_null(side)) for side in (a, b))
    if pa.types.is_floating(a.type) and pa.types.is_floating(b.type):
        bits_a, bits_b = (
            np.asarray(pc.fill_null(side, 0.0), np.float64).view(np.int64) for side in (a, b)
        )
        values = bits_a != bits_b
    elif pa.types.is_list(a.type):
        values = np.asarray(pc.not_equal(_joined(a), _joined(b)))
    else:
        values = np.asarray(pc.fill_null(pc.not_equal(a, b), fill_value=False))
    return (null_a != null_b) | (values & ~null_a & ~null_b)


def _joined(lists: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.binary_join(lists, "\n"), "")


def _shown(value: Any) -> str:
    plain = value.as_py()
    if isinstance(plain, float):
        return f"{plain!r} ({plain.hex()})"
    return "null" if plain is None else str(plain)


def diff(console: Console, left: Path, right: Path) -> bool:
    """Prints how two datasets differ, and gives whether they are equal."""
    tables = read_vectors(left), read_vectors(right)
    found = compare(*tables)
    keys = identity(tables[0])[:-2]  # set and version are the same in all rows
    if found.first:
        table = Table(*keys, "column", str(left), str(right), title="First differences")
        for each in found.first[:SHOWN]:
            row = [*each.vector[: len(keys)], each.column, each.left, each.right]
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
    for path, missing in ((left, found.only_left), (right, found.only_right)):
        if missing:
            table = Table(*keys, title=f"Only in {path}: {len(missing)}")
            for vector in missing[:SHOWN]:
                table.add_row(*(Text(cell) for cell in vector[: len(keys)]))
            console.print(table)
    if found.equal:
        count = len(features(tables[0]))
        console.print(
            f"[green]equal[/green]: {found.same} final vectors of {count} features, bit for bit"
        )
    else:
        console.print(
            f"[red]different[/red]: {found.different} vectors differ, {found.same} are the same, "
            f"{len(found.only_left)} only on the left, {len(found.only_right)} only on the right"
        )
    return found.equal
