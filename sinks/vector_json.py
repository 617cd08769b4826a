"""Vectors as JSON objects, many at once.

A kernel writes them as msgspec would, digit for digit, in half the time: most of that went into an
object of Python for every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np

from operators.batch import Float64s, Integers, Labels, Vectors
from operators.feature_set import FeatureSet
from operators.kernels import json_rows

MOST_ROWS = 512
"""Rows that are written at once: their cells stay in the processor's cache."""
MOST_KNOWN = 2**16
"""Names whose spelling is kept in mind."""

_FEATURES = {"number": json_rows.REAL, "count": json_rows.COUNT, "flag": json_rows.FLAG}

K = TypeVar("K", bound=Hashable)


class NotFiniteError(ValueError):
    """A feature that is infinite, which neither JSON nor the contract can say."""


class VectorJson:
    """Writes the vectors of one set, each with the same keys in the same order.

    Args:
        feature_set: whose vectors they are.
    """

    def __init__(self, feature_set: FeatureSet) -> None:
        self._set = feature_set
        self._features = list(feature_set.feature_exprs)
        encode = msgspec.json.Encoder().encode
        flags = list(feature_set.quality)
        self._names: _Known[str] = _Known(encode)
        self._raised: _Known[int] = _Known(
            lambda raised: encode([name for bit, name in enumerate(flags) if raised >> bit & 1])
        )
        kinds = [what for _, what in _members(feature_set) if isinstance(what, int)]
        self._kinds = np.array(kinds, np.uint8)
        real = (self._kinds >= json_rows.REAL).astype(np.int64)
        self._source = np.where(real, np.cumsum(real), np.cumsum(1 - real)) - 1
        self._heads, tail = _heads(feature_set, encode)
        self._tails = {final: tail + encode(final) + b"}" for final in (False, True)}

    def values(self, vectors: Vectors) -> list[bytes]:
        """Each vector as an object.

        Raises:
            NotFiniteError: when a feature is infinite.
        """
        count, columns = len(vectors), len(self._kinds)
        if not count:
            return []
        texts = [*self._heads, self._tails[vectors.final]]
        most = sum(map(len, texts)) + columns * json_rows.CELL + 1
        wholes = np.empty((columns, count), np.int64)
        for row, column in enumerate(self._wholes(vectors)):
            if isinstance(column, _Texts):
                np.add(column.rows, len(texts), out=wholes[row])
                texts += column.texts
                most += max(map(len, column.texts))
            else:
                wholes[row] = column
        reals = self._reals(vectors)
        ends = np.cumsum([0, *map(len, texts)])
        text = np.frombuffer(b"".join([*texts, bytes(json_rows.SPARE)]), np.uint8)
        rows = min(count, MOST_ROWS)
        cells = np.empty((columns, rows * json_rows.CELL), np.uint8)
        sizes = np.empty((columns, rows), np.int64)
        out = np.empty(rows * most + json_rows.SPARE, np.uint8)
        found: list[bytes] = []
        for first in range(0, count, rows):
            last = min(first + rows, count)
            told = (self._kinds, self._source, wholes)
            json_rows.write_cells(*told, reals, first, last, cells, sizes)
            size = json_rows.write_rows(*told, text, ends, first, last, cells, sizes, out)
            # Cut by their ends, which JSON has nowhere else, they cost a third.
            found += out[: size - 1].tobytes().split(b"\n")
        return found

    def _wholes(self, vectors: Vectors) -> Iterator[_Texts | Integers]:
        """The columns of texts, times and whole numbers, in their order."""
        yield self._labels(vectors.keys)
        if vectors.series is not None:
            yield self._labels(vectors.series)
        yield vectors.ts_ns
        patterns, rows = np.unique(vectors.quality, return_inverse=True)
        yield _Texts([self._raised[pattern] for pattern in patterns.tolist()], rows)
        yield vectors.known_at_ns
        yield vectors.n_rows

    def _labels(self, labels: Labels) -> _Texts:
        used = labels.used()
        return _Texts([self._names[name] for name in used.names], used.codes)

    def _reals(self, vectors: Vectors) -> Float64s:
        """The features and the coverage, a row each."""
        reals = np.empty((len(self._features) + 1, len(vectors)))
        for row, name in enumerate(self._features):
            reals[row] = vectors.features[name]
        if np.isinf(reals[:-1]).any():
            self._refuse(vectors)
        reals[-1] = vectors.coverage
        return reals

    def _refuse(self, vectors: Vectors) -> None:
        for name in self._features:
            values = vectors.features[name]
            if np.isinf(values).any():
                where = f"feature set `{self._set.name}`, feature `{name}`"
                msg = f"{where}: must be finite or null, found {values[np.isinf(values)][0]}"
                raise NotFiniteError(msg)


@dataclass(frozen=True, slots=True)
class _Texts:
    """A column of texts: those there are, and which one each row has."""

    texts: list[bytes]
    rows: Integers


class _Known(dict[K, bytes]):
    """How things are spelled, kept in mind."""

    def __init__(self, spell: Callable[[K], bytes]) -> None:
        super().__init__()
        self._spell = spell

    def __missing__(self, thing: K) -> bytes:
        if len(self) >= MOST_KNOWN:
            self.clear()
        self[thing] = spelled = self._spell(thing)
        return spelled


def _members(feature_set: FeatureSet) -> Iterator[tuple[str, int | str]]:
    """The members of an object: a cell of a kind, or a text that is the same in all."""
    yield feature_set.entity, json_rows.TEXT
    if feature_set.series:
        yield feature_set.series, json_rows.TEXT
    yield from feature_set.labels.items()
    yield "ts", json_rows.TIME
    yield "feature_set", feature_set.name
    yield "version", feature_set.version
    for name, expr in feature_set.feature_exprs.items():
        yield name, _FEATURES[expr.kind]
    yield "quality", json_rows.TEXT
    yield "coverage", json_rows.REAL
    yield "known_at", json_rows.TIME
    yield "n_rows", json_rows.WHOLE


def _heads(feature_set: FeatureSet, encode: Callable[[Any], bytes]) -> tuple[list[bytes], bytes]:
    """What stands before each cell; and behind the last, up to the value of `final`."""
    heads, text = [], b"{"
    for name, what in _members(feature_set):
        text += encode(name) + b":"
        if isinstance(what, str):
            text += encode(what) + b","
        else:
            heads.append(text)
            text = b","
    return heads, text + b'"final":'
