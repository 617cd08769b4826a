"""Snapshots: plain arrays in sections, each under the fingerprint of what it holds.

A snapshot is one MessagePack document: a schema version, the clocks, the account, the pending rows,
and for each kind of rows its keys, times and one section per kept column. Nothing in it is code or
names a class. Restoring takes the sections that fit the plan; for others it refuses and names them,
or takes them from a second snapshot that a replay with the new plan has made up to the same point.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from operators.batch import NO_CLOCK_NS, Samples, Values
from operators.engine import Engine, PartitionId
from operators.history import RunTable
from operators.idle import live_runs
from operators.kernels import BITS_VERSION, runs
from operators.pending import Bools, Pending, Rows, canonical
from operators.plan import Domain, Plan

SCHEMA_VERSION = 1


class SnapshotMismatchError(ValueError):
    """A snapshot that does not fit the plan it is restored into."""


class Packed(msgspec.Struct, frozen=True):
    """An array."""

    dtype: str
    data: bytes


class Section(msgspec.Struct, frozen=True):
    """The recent rows of one kind: per run and, packed run by run, per row."""

    name: str
    keep_rows: int
    keep_span_ns: int
    keys: list[tuple[str, str]]
    per_run: dict[str, Packed]
    per_row: dict[str, Packed]
    columns: dict[str, Packed]
    formulas: dict[str, str]


class PendingRows(msgspec.Struct, frozen=True):
    """The pending rows of one stream."""

    arrives_with_time: bool
    arrays: dict[str, Packed]
    columns: dict[str, Packed]
    samples: dict[str, dict[str, Packed]]


class Snapshot(msgspec.Struct, frozen=True):
    """The whole state of an engine."""

    schema: int
    bits_version: int
    set_name: str
    set_version: str
    ttl_ns: int
    clocks: list[tuple[str, str, int, bool]]
    settled_ns: int
    hops_until_ns: int
    has_arrival: dict[str, bool]
    account: list[list[int]]
    sections: dict[str, Section]
    pending: dict[str, PendingRows]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def _pack(array: npt.NDArray[Any]) -> Packed:
    return Packed(array.dtype.str, np.ascontiguousarray(array).tobytes())


def _unpack(packed: Packed) -> npt.NDArray[Any]:
    return np.frombuffer(packed.data, dtype=packed.dtype).copy()


def snapshot(engine: Engine) -> bytes:
    """The engine's state as bytes."""
    clocks = [
        (stream, name, clock_ns, (stream, name) in engine.ended)
        for (stream, name), clock_ns in engine.clocks.items()
    ]
    live = live_runs(engine)
    sections = {
        domain.instants.fingerprint: _section(domain, table, engine.settled_ns, alive)
        for domain, table, alive in zip(engine.plan.domains, engine.tables, live, strict=True)
    }
    pending = {
        name: _pending(engine.pending[name], live[index])
        for name, index in engine.plan.streams.items()
    }
    return _encoder.encode(
        Snapshot(
            SCHEMA_VERSION,
            BITS_VERSION,
            engine.set.name,
            engine.set.version,
            engine.set.ttl_ns,
            clocks,
            engine.settled_ns,
            engine.hops_until_ns,
            engine.account.has_arrival,
            engine.account.counts.tolist(),
            sections,
            pending,
        )
    )


def _section(domain: Domain, table: RunTable, settled_ns: int, alive: Bools) -> Section:
    runs_kept = np.flatnonzero(alive)
    base, first, end = table.base[runs_kept], table.first[runs_kept], table.end[runs_kept]
    kept = bool(domain.stored) or domain.watched or domain.keep_rows > 1
    start = end.copy()
    if kept:
        start = runs.live_rows(
            table.ts, base, first, end, domain.keep_rows, settled_ns - domain.keep_span_ns
        )
    per_run = {"first": start, "end": end}
    per_run.update({n: getattr(table, n)[runs_kept] for n in ("floor", "carry", "last_ns")})
    per_row = {"ts": table.ts}
    if table.watched:
        per_row["known"] = table.known
    if table.has_ttl:
        per_row["floors"] = table.floors
    return Section(
        domain.instants.name,
        domain.keep_rows,
        domain.keep_span_ns,
        [table.keys[run] for run in runs_kept],
        {name: _pack(array) for name, array in per_run.items()},
        {name: _pack(runs.pack(array, base, start, end)) for name, array in per_row.items()},
        {name: _pack(runs.pack(array, base, start, end)) for name, array in table.columns.items()},
        dict(domain.stored),
    )


def _pending(pending: Pending, alive: Bools) -> PendingRows:
    rows = pending.joined()
    if rows is None:
        return PendingRows(False, {}, {}, {})
    rows = canonical(rows)
    number = (np.cumsum(alive) - 1).astype(rows.run.dtype)
    arrays = {"run": number[rows.run], "partition": rows.partition, "ts_ns": rows.ts_ns}
    arrives_with_time = rows.arrival_ns is rows.ts_ns
    if not arrives_with_time:
        arrays["arrival_ns"] = rows.arrival_ns
    columns: dict[str, Packed] = {}
    samples: dict[str, dict[str, Packed]] = {}
    for name, values in rows.columns.items():
        if isinstance(values, Samples):
            parts = {"flat": values.flat, "start": values.start, "length": values.length}
            samples[name] = {key: _pack(array) for key, array in parts.items()}
        else:
            columns[name] = _pack(values)
    packed = {name: _pack(array) for name, array in arrays.items()}
    return PendingRows(arrives_with_time, packed, columns, samples)


def read(data: bytes) -> Snapshot:
    """The snapshot in some bytes.

    Raises:
        SnapshotMismatchError: when they hold none, or one of another schema.
    """
    try:
        found = _decoder.decode(data)
    except msgspec.MsgspecError as error:
        msg = f"snapshot: must be a MessagePack document of this schema, got: {error}"
        raise SnapshotMismatchError(msg) from error
    if found.schema != SCHEMA_VERSION:
        msg = (
            f"snapshot: schema must be {SCHEMA_VERSION}, got {found.schema}; see CHANGELOG.md for "
            "the release that migrates it, or start over with an empty recovery directory"
        )
        raise SnapshotMismatchError(msg)
    return found


def restore(
    plan: Plan,
    partitions: Iterable[PartitionId],
    data: bytes,
    *,
    rebuilt: bytes | None = None,
    end_ns: int = NO_CLOCK_NS,
) -> Engine:
    """An engine that goes on where a snapshot was taken.

    Args:
        plan: the plan to go on with.
        partitions: those of the input, new ones among them; ones of the snapshot are added.
        data: the snapshot.
        rebuilt: the snapshot of an engine with this plan that has replayed the input up to the same
            point; sections that ``data`` does not hold are taken from it.
        end_ns: see :class:`operators.engine.Engine`.

    Raises:
        SnapshotMismatchError: naming what does not fit.
    """
    found = read(data)
    fresh = read(rebuilt) if rebuilt is not None else None
    _check(plan, found, fresh)
    known = [(stream, name) for stream, name, _, _ in found.clocks]
    engine = Engine(plan, dict.fromkeys([*known, *partitions]), end_ns)
    for stream, name, clock_ns, ended in found.clocks:
        engine.clocks[stream, name] = clock_ns
        if ended:
            engine.ended.add((stream, name))
    engine.settled_ns = found.settled_ns
    engine.hops_until_ns = found.hops_until_ns
    engine.account.has_arrival.update(found.has_arrival)
    engine.account.counts[: len(found.account)] = found.account
    for domain, table in zip(plan.domains, engine.tables, strict=True):
        fingerprint = domain.instants.fingerprint
        donor = fresh.sections[fingerprint] if fresh else None
        section = found.sections.get(fingerprint, donor)
        if section is not None and donor is not None and _too_short(domain, section):
            section = donor
        assert section is not None
        _fill(table, section, donor)
    for name, pending in found.pending.items():
        if name in engine.pending:
            _fill_pending(engine.pending[name], pending)
    return engine


def _too_short(domain: Domain, section: Section) -> bool:
    """Whether a section was kept for shorter windows than the plan has."""
    return domain.keep_rows > section.keep_rows or domain.keep_span_ns > section.keep_span_ns


def _check(plan: Plan, found: Snapshot, fresh: Snapshot | None) -> None:
    """Refuses a snapshot that lacks what the plan needs."""
    where = f"snapshot of `{found.set_name}` {found.set_version}"
    if found.set_name != plan.feature_set.name:
        msg = f"{where}: must be one of feature set `{plan.feature_set.name}`"
        raise SnapshotMismatchError(msg)
    if found.ttl_ns != plan.feature_set.ttl_ns:
        msg = f"{where}: `ttl` must be {found.ttl_ns} ns, got {plan.feature_set.ttl_ns}"
        raise SnapshotMismatchError(msg)
    if found.bits_version != BITS_VERSION:
        msg = (
            f"{where}: kernels must be of BITS_VERSION {found.bits_version}, got {BITS_VERSION}; "
            "the same rows would give other bits, so rebuild it from the input"
        )
        raise SnapshotMismatchError(msg)
    lacking = missing_sections(plan, found)
    if fresh is not None:
        unmet = missing_sections(plan, fresh)
        if unmet:
            msg = f"{where}: the rebuilt one must hold every section of the plan, it lacks {unmet}"
            raise SnapshotMismatchError(msg)
        if fresh.settled_ns != found.settled_ns:
            msg = (
                f"{where}: the rebuilt one must have settled the input up to {found.settled_ns}, "
                f"got {fresh.settled_ns}"
            )
            raise SnapshotMismatchError(msg)
    elif lacking:
        kept = sorted(
            formula for section in found.sections.values() for formula in section.formulas.values()
        )
        msg = (
            f"{where}: the plan needs {lacking}, which it does not hold; it holds {kept}. Start "
            "with --warm-up to rebuild them from the input, or with an empty recovery directory"
        )
        raise SnapshotMismatchError(msg)


def missing_sections(plan: Plan, found: Snapshot) -> list[str]:
    """What a plan needs and a snapshot does not hold, in words."""
    lacking = []
    for domain in plan.domains:
        section = found.sections.get(domain.instants.fingerprint)
        if section is None:
            lacking.append(f"rows of {domain.instants.name}")
            continue
        if _too_short(domain, section):
            lacking.append(
                f"longer windows of {domain.instants.name} ({domain.keep_rows} rows and "
                f"{domain.keep_span_ns} ns, not {section.keep_rows} and {section.keep_span_ns})"
            )
        if domain.watched and "known" not in section.per_row:
            lacking.append(f"arrivals of {domain.instants.name}")
        lacking.extend(
            formula for key, formula in domain.stored.items() if key not in section.columns
        )
    return lacking


def _fill(table: RunTable, section: Section, donor: Section | None) -> None:
    """Puts a section's rows into an empty table; columns it lacks come from the donor."""
    for key in section.keys:
        table.add(key)
    per_run = {name: _unpack(packed) for name, packed in section.per_run.items()}
    count = len(section.keys)
    length = per_run["end"] - per_run["first"]
    place = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int64) if count else length
    for name, array in per_run.items():
        getattr(table, name)[:count] = array
    table.place[:count], table.room[:count] = place, length
    table.base[:count] = place - per_run["first"]
    table.used = int(length.sum())
    table.known, table.floors = np.zeros(table.used, np.int64), np.zeros(table.used, np.int64)
    for name, packed in section.per_row.items():
        setattr(table, name, _unpack(packed))
    if table.watched and "known" not in section.per_row:
        assert donor is not None
        known = _from_donor(donor.per_row["known"], section, donor, length)
        table.known = known.view(np.int64)
    for name in table.columns:
        if name in section.columns:
            table.columns[name] = _unpack(section.columns[name])
        else:
            assert donor is not None
            table.columns[name] = _from_donor(donor.columns[name], section, donor, length)


def _from_donor(
    packed: Packed, section: Section, donor: Section, length: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """A column of the donor's, laid out as the section's rows; NaN before its first.

    Integers are moved as the float64s of the same bits.
    """
    place = {tuple(key): i for i, key in enumerate(donor.keys)}
    first, end = _unpack(donor.per_run["first"]), _unpack(donor.per_run["end"])
    starts = np.concatenate([[0], np.cumsum(end - first)]).astype(np.int64)
    column = _unpack(packed).view(np.float64)
    order = [place.get(tuple(key), -1) for key in section.keys]
    pieces = [column[starts[i] : starts[i + 1]] if i >= 0 else column[:0] for i in order]
    filled = np.full(int(length.sum()), np.nan)
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    runs.fill_from_end(filled, length, np.concatenate([*pieces, column[:0]]), lengths)
    return filled


def _fill_pending(pending: Pending, packed: PendingRows) -> None:
    if not packed.arrays:
        return
    arrays = {name: _unpack(array) for name, array in packed.arrays.items()}
    columns: dict[str, Values] = {n: _unpack(array) for n, array in packed.columns.items()}
    for name, parts in packed.samples.items():
        columns[name] = Samples(**{key: _unpack(array) for key, array in parts.items()})
    arrival_ns = arrays["ts_ns"] if packed.arrives_with_time else arrays["arrival_ns"]
    pending.add(Rows(arrays["run"], arrays["partition"], arrays["ts_ns"], arrival_ns, columns))
