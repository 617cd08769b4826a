"""Vectors as JSON objects, many at once.

A kernel writes them as msgspec would, digit for digit, in half the time: most of that went into an
object of Python for every cell.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec
import numpy as np

from operators.batch import Float64s, Int64s, Integers, OfNames, Vectors
from operators.feature_set import FeatureSet
from operators.kernels import json_rows

MOST_ROWS = 512
"""Rows that are written at once: their cells stay in the processor's cache."""
MOST_KNOWN = 2**16
"""Names whose spelling is kept in mind."""
MOST_PATTERNS = 2**12
"""Patterns of flags that are all handed to the kernel, used or not."""

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
        known: _Known[str] = _Known(encode)
        self._keys, self._series = (
            OfNames(lambda names: _Texts([known[name] for name in names])) for _ in range(2)
        )
        self._raised = _Patterns(
            lambda raised: encode([name for bit, name in enumerate(flags) if raised >> bit & 1])
        )
        kinds = [what for _, what in _members(feature_set) if isinstance(what, int)]
        self._kinds = np.array(kinds, np.uint8)
        real = (self._kinds >= json_rows.REAL).astype(np.int64)
        self._source = np.where(real, np.cumsum(real), np.cumsum(1 - real)) - 1
        heads, tail = _heads(feature_set, encode)
        self._fixed = {
            final: _Texts([*heads, tail + encode(final) + b"}"]) for final in (False, True)
        }

    def values(self, vectors: Vectors) -> list[bytes]:
        """Each vector as an object.

        Raises:
            NotFiniteError: when a feature is infinite.
        """
        count, columns = len(vectors), len(self._kinds)
        if not count:
            return []
        fixed = self._fixed[vectors.final]
        pieces, known = [fixed], len(fixed.sizes)
        most = len(fixed.text) + columns * json_rows.CELL + 1
        wholes = np.empty((columns, count), np.int64)
        for row, column in enumerate(self._wholes(vectors)):
            if isinstance(column, tuple):
                piece, numbers = column
                np.add(numbers, known, out=wholes[row])
                pieces.append(piece)
                known += len(piece.sizes)
                most += piece.longest
            else:
                wholes[row] = column
        reals = self._reals(vectors)
        ends = np.zeros(known + 1, np.int64)
        np.concatenate([piece.sizes for piece in pieces]).cumsum(out=ends[1:])
        spare = bytes(json_rows.SPARE)
        text = np.frombuffer(b"".join([*(piece.text for piece in pieces), spare]), np.uint8)
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

    def _wholes(self, vectors: Vectors) -> Iterator[tuple[_Texts, Integers] | Integers]:
        """The columns of texts, times and whole numbers, in their order."""
        yield self._keys.of(vectors.keys)
        if vectors.series is not None:
            yield self._series.of(vectors.series)
        yield vectors.ts_ns
        yield self._raised.of(vectors.quality)
        yield vectors.known_at_ns
        yield vectors.n_rows

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


class _Texts:
    """Texts in one piece.

    Attributes:
        text: all of them, one behind the other.
        sizes: how long each is.
        longest: the greatest of these.
    """

    def __init__(self, texts: Sequence[bytes]) -> None:
        self.text = b"".join(texts)
        self.sizes = np.fromiter(map(len, texts), np.int64, len(texts))
        self.longest = max(map(len, texts), default=0)


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


class _Patterns(dict[int, int]):
    """The numbers of flags that are raised together, and their spellings."""

    def __init__(self, spell: Callable[[int], bytes]) -> None:
        super().__init__()
        self._spell = spell
        self._spellings: list[bytes] = []
        self._texts = _Texts([])

    def __missing__(self, raised: int) -> int:
        self[raised] = number = len(self)
        self._spellings.append(self._spell(raised))
        return number

    def of(self, quality: Int64s) -> tuple[_Texts, Int64s]:
        """Spellings, and which one each row has."""
        if len(self) > MOST_PATTERNS:
            self.clear()
            self._spellings, self._texts = [], _Texts([])
        numbers = np.fromiter(map(self.__getitem__, quality.tolist()), np.int64, len(quality))
        if len(self._texts.sizes) != len(self):
            self._texts = _Texts(self._spellings)
        return self._texts, numbers


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
