"""The short way of JSON messages: rows that are sound beyond doubt, from their bytes to a batch.

Nearly all messages are plain objects without any fault, and for these every question that
``operators.decode`` and ``operators.checks`` ask of whole columns is asked by a few kernels. A
message that is not, or that is not surely, goes the long way, which gives the same row for it or
the words for what is wrong. A batch of some dozen messages is read in a quarter of the time: what
it costs is the number of calls (``docs/measured.md``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from operators.batch import Batch, Float64s, Int64s, Labels
from operators.checks import label_problem, span_of_label
from operators.decode import TIME_UNITS
from operators.kernels import numbers, sound
from operators.streams import Field, Stream
from sources.json_objects import MOST_COLUMNS, Bools, Located, Locator, rounded

MOST_LABELS = 2**12
"""The most labels that are kept in mind; then they are learned anew. All go with each batch."""
FEWEST_SLOTS = 128


class SoundReader:
    """Reads sound rows of one stream's messages, stamped with their arrival.

    Args:
        stream: what the rows are; :meth:`can_read` must hold for it.
        kinds: what the values of each column must be: those of labels, times and fields.
        times: the columns that may tell the time, the first one first.
    """

    def __init__(self, stream: Stream, kinds: dict[str, str], times: Sequence[str]) -> None:
        self._stream = stream
        self._locator = Locator(kinds)
        place = {name: number for number, name in enumerate(kinds)}
        self._times = np.array([place[name] for name in times], np.int64)
        self._units_ns = np.array([TIME_UNITS[name.removeprefix("ts")] for name in times], np.int64)
        self._dated = np.array([name == "ts" for name in times], np.bool_)
        limits_ns = (stream.earliest_ns, stream.latest_ns, stream.future_skew_ns)
        self._limits_ns = np.array(limits_ns, np.int64)
        self._numbers = [field for field in stream.fields if field.kind == "number"]
        self._ids = [field for field in stream.fields if field.kind == "id"]
        self._number_at, self._number_needed = _placed(self._numbers, place)
        self._id_at, self._id_needed = _placed(self._ids, place)
        self._above = _bounds([field.above for field in self._numbers], -np.inf)
        self._least = _bounds([field.least for field in self._numbers], -np.inf)
        self._most = _bounds([field.most for field in self._numbers], np.inf)
        number = {field.name: index for index, field in enumerate(self._numbers)}
        self._upper = np.array([number[rule.upper] for rule in stream.rules], np.int64)
        self._lower = np.array([number[rule.lower] for rule in stream.rules], np.int64)
        self._labels = [_Known(place[stream.entity], _is_label)]
        if stream.series is not None:
            admits = _is_duration if stream.series_is_duration else _is_label
            self._labels.append(_Known(place[stream.series], admits))

    @staticmethod
    def can_read(stream: Stream, kinds: dict[str, str]) -> bool:
        """Whether there is a short way: rows of few numbers, stamped when they end."""
        held = {field.name for field in stream.fields if field.kind == "number"}
        ruled = {name for rule in stream.rules for name in (rule.upper, rule.lower)}
        labels = 1 if stream.series is None else 2
        apart = len(kinds) == labels + len(TIME_UNITS) + len(stream.fields)
        short = apart and len(kinds) <= MOST_COLUMNS and stream.samples is None
        return short and not stream.start_stamped and ruled <= held

    def read(
        self, values: Sequence[bytes], stamps_ms: Int64s, partition: str, clock_ns: int
    ) -> tuple[Batch, Bools]:
        """Gives the rows of those messages that are sound, and which ones these are.

        Args:
            values: of the messages.
            stamps_ms: when each arrived; writable, since kernels are compiled for that.
            partition: where they come from.
            clock_ns: the partition's clock before them.
        """
        found = self._locator.locate(values)
        count = len(values)
        good: Bools = found.state == numbers.READ
        arrival_ns, ts_ns = np.empty(count, np.int64), np.empty(count, np.int64)
        real = np.empty((len(self._numbers), count))
        whole = np.empty((len(self._ids), count), np.int64)
        long_row, long_field = np.empty(real.size, np.int64), np.empty(real.size, np.int64)
        longs = sound.read_rows(
            found.data, found.what, found.first, found.length, stamps_ms, self._times,
            self._units_ns, self._dated, self._limits_ns, self._number_at, self._number_needed,
            self._id_at, self._id_needed, good, arrival_ns, ts_ns, real, whole, long_row,
            long_field,
        )  # fmt: skip
        if longs:
            self._round(found, real, long_row[:longs], long_field[:longs])
        sound.keep_admitted(
            real, self._above, self._least, self._most, self._upper, self._lower, good
        )
        labels = [known.read(found, good) for known in self._labels]
        if not good.all():
            rows = good.nonzero()[0]
            arrival_ns, ts_ns = arrival_ns[rows], ts_ns[rows]
            real, whole = real.take(rows, axis=1), whole.take(rows, axis=1)
            labels = [each.take(rows) for each in labels]
        columns = dict(zip([field.name for field in self._numbers], real, strict=True))
        columns |= dict(zip([field.name for field in self._ids], whole, strict=True))
        batch = Batch(
            self._stream.name,
            partition,
            int(arrival_ns.max(initial=clock_ns)),
            labels[0],
            ts_ns,
            {field.name: columns[field.name] for field in self._stream.fields},
            labels[1] if len(labels) > 1 else None,
            arrival_ns,
        )
        return batch, good

    def _round(self, found: Located, real: Float64s, rows: Int64s, fields: Int64s) -> None:
        """Reads the numbers that need more care."""
        columns = self._number_at[fields]
        first, length = found.first[columns, rows], found.length[columns, rows]
        real[fields, rows] = rounded(found.data, first, length) + 0.0


class _Known:
    """The labels of a column that have been seen, each with a code.

    Args:
        column: its number.
        admits: whether a text may be one.
    """

    def __init__(self, column: int, admits: Callable[[str], bool]) -> None:
        self._column = column
        self._admits = admits
        self._begin()

    def _begin(self) -> None:
        self._names: tuple[str, ...] = ()
        self._texts = np.empty(0, np.uint8)
        self._places = np.zeros(1, np.int64)
        self._slots = np.full(FEWEST_SLOTS, sound.NEW, np.int32)

    def read(self, found: Located, good: Bools) -> Labels:
        """The labels of rows; what others have means nothing. Rows without one are dropped.

        The names are those of all rows until now, so that who has looked at them knows them again.
        """
        codes = np.empty(len(good), np.int32)
        if self._look_up(found, good, codes):
            fresh = self._fresh(found, good, codes)
            if len(self._names) + len(fresh) > MOST_LABELS:
                self._begin()
                self._look_up(found, good, codes)
                fresh = self._fresh(found, good, codes)
            if fresh:
                self._learn(fresh)
                self._look_up(found, good, codes)
        return Labels(codes, self._names)

    def _look_up(self, found: Located, good: Bools, codes: npt.NDArray[np.int32]) -> int:
        at = self._column
        fresh: int = sound.look_up(
            found.data, found.what[at], found.first[at], found.length[at], self._texts,
            self._places, self._slots, good, codes,
        )  # fmt: skip
        return fresh

    def _fresh(self, found: Located, good: Bools, codes: npt.NDArray[np.int32]) -> list[str]:
        """The labels that are new; rows whose label may be none are dropped."""
        first, length = found.first[self._column], found.length[self._column]
        fresh: dict[str, bool] = {}
        for row in (good & (codes == sound.NEW)).nonzero()[0].tolist():
            text = found.data[first[row] : first[row] + length[row]].tobytes().decode()
            if text not in fresh:
                fresh[text] = self._admits(text)
            good[row] = fresh[text]
        return [text for text, admitted in fresh.items() if admitted]

    def _learn(self, fresh: list[str]) -> None:
        known, encoded = len(self._names), [text.encode() for text in fresh]
        self._names = (*self._names, *fresh)
        self._texts = np.concatenate([self._texts, np.frombuffer(b"".join(encoded), np.uint8)])
        ends = self._places[-1] + np.cumsum([len(text) for text in encoded], dtype=np.int64)
        self._places = np.concatenate([self._places, ends])
        slots = len(self._slots)
        while slots < 2 * len(self._names):
            slots *= 2
        if slots > len(self._slots):
            self._slots, known = np.full(slots, sound.NEW, np.int32), 0
        sound.learn(self._texts, self._places, known, len(self._names), self._slots)


def _is_label(name: str) -> bool:
    return label_problem(name) is None


def _is_duration(name: str) -> bool:
    return _is_label(name) and span_of_label(name) > 0


def _placed(fields: Sequence[Field], place: Mapping[str, int]) -> tuple[Int64s, Bools]:
    """The columns of some fields, and which of them must be there."""
    needed = np.array([not field.nullable for field in fields], np.bool_)
    return np.array([place[field.name] for field in fields], np.int64), needed


def _bounds(given: Sequence[float | None], none: float) -> Float64s:
    return np.array([none if bound is None else bound for bound in given], np.float64)
