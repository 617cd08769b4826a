"""The recent rows of each run: one arena of plain arrays for all runs of a kind."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from operators.batch import END_CLOCK_NS, Float64s, Int64s
from operators.kernels import runs
from operators.kernels.split import ACCUMULATOR, NEAR, forget, new_marks

Key = tuple[str, str]
"""An entity and the name of its series (empty where it has none)."""


RUN_ARRAYS = ("place", "room", "base", "first", "end", "floor", "carry", "last_ns")
"""One integer per run: where its places begin, how many they are, where row 0 would lie, its oldest
kept row, the row after its last, the first row after its last reset, its greatest arrival, and the
time of its last row."""


class Cache:
    """What a sliding kernel remembers between calls; rebuilt from the rows whenever lost."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.marks = new_marks(0)
        self.state = np.zeros((0, ACCUMULATOR))
        self.suffix = np.zeros((0, width))

    def fit(self, run_count: int, size: int) -> None:
        """Makes room for so many runs and rows."""
        if len(self.marks) < run_count:
            grown = new_marks(max(run_count, 2 * len(self.marks)))
            grown[: len(self.marks)] = self.marks
            self.marks = grown
            self.state = _grown(self.state, len(grown))
        if len(self.suffix) < size + NEAR:
            self.suffix = np.empty((size + NEAR, self.width))
            forget(self.marks)


def _grown(array: npt.NDArray[Any], length: int) -> npt.NDArray[Any]:
    grown = np.zeros((length, *array.shape[1:]), dtype=array.dtype)
    grown[: len(array)] = array
    return grown


class RunTable:
    """Runs and their recent rows.

    Args:
        columns: fingerprints of the float columns that are kept.
        keep_rows, keep_span_ns: rows that windows may still reach: so many last ones of each run,
            and all of the last so many ns before the settled instant.
        ttl_ns: a longer gap between two rows empties the run's windows.
        watched: whether other kinds look at these rows, and so at their arrivals.
    """

    def __init__(
        self,
        columns: list[str],
        keep_rows: int,
        keep_span_ns: int,
        ttl_ns: int = END_CLOCK_NS,
        *,
        watched: bool = True,
    ) -> None:
        self.keep_rows = keep_rows
        self.keep_span_ns = keep_span_ns
        self.ttl_ns = ttl_ns
        self.watched = watched
        self.keys: list[Key] = []
        self.index: dict[Key, int] = {}
        self.place = np.zeros(0, np.int64)
        self.room = np.zeros(0, np.int64)
        self.base = np.zeros(0, np.int64)
        self.first = np.zeros(0, np.int64)
        self.end = np.zeros(0, np.int64)
        self.floor = np.zeros(0, np.int64)
        self.carry = np.zeros(0, np.int64)
        self.last_ns = np.zeros(0, np.int64)
        self.used = 0
        self._entities: tuple[str, ...] = ()
        self._series: tuple[str, ...] = ()
        self.ts = np.zeros(0, np.int64)
        self.known = np.zeros(0, np.int64)
        self.floors = np.zeros(0, np.int64)
        self.columns: dict[str, Float64s] = {name: np.zeros(0) for name in columns}
        self.caches: dict[str, Cache] = {}

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def has_ttl(self) -> bool:
        """Whether gaps empty windows."""
        return self.ttl_ns < END_CLOCK_NS

    @property
    def memory_bytes(self) -> int:
        """Memory of the rows and caches."""
        arrays = list(self._arrays().values())
        for cache in self.caches.values():
            arrays += [cache.marks, cache.state, cache.suffix]
        return sum(array.nbytes for array in arrays)

    def add(self, key: Key) -> int:
        """The number of a run, made if it is new."""
        run = self.index.get(key)
        if run is None:
            run = len(self.keys)
            self.index[key] = run
            self.keys.append(key)
            if len(self.base) < len(self.keys):
                length = max(16, 2 * len(self.base))
                for name in RUN_ARRAYS:
                    setattr(self, name, _grown(getattr(self, name), length))
            self.carry[run] = -END_CLOCK_NS
            self.last_ns[run] = -END_CLOCK_NS
        return run

    def forget_runs(self, count: int) -> bool:
        """Forgets the runs that were added after the first so many, and whether there were any."""
        fresh = self.keys[count:]
        if not fresh:
            return False
        del self.keys[count:]
        for key in fresh:
            del self.index[key]
        for name in RUN_ARRAYS:
            getattr(self, name)[count:] = -END_CLOCK_NS if name in {"carry", "last_ns"} else 0
        for cache in self.caches.values():
            forget(cache.marks[count:])
        self._entities = self._series = ()
        return True

    def reserve(self, segment_run: Int64s, segment_start: Int64s, settled_ns: int) -> None:
        """Makes room behind each run for the rows of its segment."""
        keep_from_ns = settled_ns - self.keep_span_ns
        moves, used, needed = runs.plan_moves(
            segment_run, segment_start, self.ts, self.place, self.room, self.base, self.first,
            self.end, self.keep_rows, keep_from_ns, self.used, len(self.ts),
        )  # fmt: skip
        if needed > len(self.ts):
            self._repack(segment_run, segment_start, keep_from_ns)
            return
        self.used = used
        if len(moves):
            for array in self._arrays().values():
                runs.apply_moves(array, array, moves)

    def _arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The columns of the arena in use; others are stood for by the times."""
        used: dict[str, npt.NDArray[Any]] = {"ts": self.ts, **self.columns}
        if self.watched:
            used["known"] = self.known
        if self.has_ttl:
            used["floors"] = self.floors
        return used

    def _repack(self, segment_run: Int64s, segment_start: Int64s, keep_from_ns: int) -> None:
        count = len(self.keys)
        # Rows that no window can reach stay behind, or the arena grows with the input.
        self.first[:count] = runs.live_rows(
            self.ts, self.base[:count], self.first[:count], self.end[:count], self.keep_rows,
            keep_from_ns,
        )  # fmt: skip
        extra = np.zeros(count, np.int64)
        extra[segment_run] = np.diff(segment_start)
        moves, used = runs.plan_repack(
            self.place[:count], self.room[:count], self.base[:count], self.first[:count],
            self.end[:count], extra,
        )  # fmt: skip
        size = max(2 * used, 1024)
        for name, array in self._arrays().items():
            fresh = np.empty(size, array.dtype)
            runs.apply_moves(array, fresh, moves)
            if name in self.columns:
                self.columns[name] = fresh
            else:
                setattr(self, name, fresh)
        self.known = self.known if self.watched else self.ts
        self.floors = self.floors if self.has_ttl else self.ts
        self.used = used
        for cache in self.caches.values():
            forget(cache.marks)

    @property
    def entities(self) -> tuple[str, ...]:
        """The entity of each run."""
        self._name()
        return self._entities

    @property
    def series(self) -> tuple[str, ...]:
        """The name of each run's series."""
        self._name()
        return self._series

    def _name(self) -> None:
        if len(self._entities) != len(self.keys):
            self._entities = tuple(entity for entity, _ in self.keys)
            self._series = tuple(series for _, series in self.keys)

    def cache(self, name: str, width: int) -> Cache:
        """The cache of one sliding kernel, of the right size."""
        cache = self.caches.get(name)
        if cache is None:
            cache = self.caches[name] = Cache(width)
        cache.fit(len(self.base), len(self.ts))
        return cache
