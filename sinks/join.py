"""Vectors of many batches and key groups as few."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from operators.batch import Labels, Vectors


def joined(vectors: Iterable[Vectors]) -> list[Vectors]:
    """Gives final vectors as one, and provisional ones as another, in the order given."""
    found = list(vectors)
    kinds = [[v for v in found if v.final is final and len(v)] for final in (True, False)]
    return [_joined(parts) for parts in kinds if parts]


def _joined(parts: Sequence[Vectors]) -> Vectors:
    first = parts[0]
    keys = joined_labels([part.keys for part in parts])
    series = [part.series for part in parts if part.series is not None]
    return replace(
        first,
        keys=keys,
        series=joined_labels(series) if series else None,
        ts_ns=np.concatenate([part.ts_ns for part in parts]),
        features={
            name: np.concatenate([part.features[name] for part in parts]) for name in first.features
        },
        quality=np.concatenate([part.quality for part in parts]),
        coverage=np.concatenate([part.coverage for part in parts]),
        known_at_ns=np.concatenate([part.known_at_ns for part in parts]),
        n_rows=np.concatenate([part.n_rows for part in parts]),
    )


def joined_labels(parts: Sequence[Labels]) -> Labels:
    """Gives labels one behind the other, over distinct names.

    >>> both = joined_labels(
    ...     [
    ...         Labels(np.array([0, 1], np.int32), ("a", "b")),
    ...         Labels(np.array([0], np.int32), ("b",)),
    ...     ]
    ... )
    >>> both.strings(), both.names
    (['a', 'b', 'b'], ('a', 'b'))
    """
    place: dict[str, int] = {}
    lookups: dict[int, npt.NDArray[np.int32]] = {}
    codes = []
    for part in parts:
        names = part.names
        if len(names) > 2 * len(part.codes):  # many keys, few rows: only the names in use
            used, own = np.unique(part.codes, return_inverse=True)
            lookup = _lookup([names[code] for code in used], place)
            codes.append(lookup[own])
            continue
        # The names of one engine are one object, until it meets another key.
        found = lookups.get(id(names))
        if found is None:
            found = lookups[id(names)] = _lookup(names, place)
        codes.append(found[part.codes])
    return Labels(np.concatenate(codes), tuple(place))


def _lookup(names: Iterable[str], place: dict[str, int]) -> npt.NDArray[np.int32]:
    return np.array([place.setdefault(name, len(place)) for name in names], np.int32)
