"""The one workload of all speed questions: seven features over the last 256 rows, at each row.

Prices would do the peers an injustice: their skew and kurtosis lose digits where the mean is large
beside the spread. So the values are noise around zero, where all agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from operators.batch import Batch, Labels
from operators.feature_set import FeatureSet
from operators.streams import Field, Stream

Float64s = npt.NDArray[np.float64]
Int64s = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]

SECOND_NS = 10**9
START_NS = 1_700_000_000 * SECOND_NS
WINDOW = 256
KEYS = 1_000
OUT_OF_ORDER = 0.05
"""Share of rows that arrive up to 8 s after rows of the same key that are newer."""
MAX_DELAY_NS = 10 * SECOND_NS

ticks = Stream("ticks", "sensor", (Field("x"),), max_delay_ns=MAX_DELAY_NS)
_x = ticks.col("x")
seven = FeatureSet(
    name="seven",
    version="v1",
    emit=ticks,
    features={
        "mean": _x.rolling_mean(WINDOW),
        "std": _x.rolling_std(WINDOW),
        "min": _x.rolling_min(WINDOW),
        "max": _x.rolling_max(WINDOW),
        "skew": _x.rolling_skew(WINDOW),
        "kurtosis": _x.rolling_kurtosis(WINDOW),
        "rms": _x.rolling_rms(WINDOW),
    },
    description="The seven rolling features of the benchmarks.",
)

SCALES = {
    "mean": 4.0, "std": 4.0, "min": 4.0, "max": 4.0, "rms": 4.0,
    "skew": float(np.sqrt(WINDOW)), "kurtosis": float(WINDOW),
}  # fmt: skip
"""What an error is measured against: the greatest value, or the declared scale of the feature."""
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Rows:
    """Rows in the order of their arrival."""

    ts_ns: Int64s
    arrival_ns: Int64s
    key: npt.NDArray[np.int32]
    x: Float64s

    def __len__(self) -> int:
        return len(self.ts_ns)

    def by_time(self) -> Rows:
        """The same rows in the order of their times."""
        order = np.argsort(self.ts_ns, kind="stable")
        return Rows(self.ts_ns[order], self.arrival_ns[order], self.key[order], self.x[order])


def names(keys: int) -> tuple[str, ...]:
    """The keys."""
    return tuple(f"sensor-{number:05d}" for number in range(keys))


def rows(count: int, keys: int = KEYS, seed: int = 0, start_ns: int = START_NS) -> Rows:
    """One row a second of each key, 5 % of them out of order.

    Args:
        count: how many; rounded down to whole seconds.
        keys: how many keys.
        seed: of the numbers.
        start_ns: time of the first row.
    """
    seconds = count // keys
    count = seconds * keys
    rng = np.random.default_rng(seed)
    ts_ns = np.repeat(np.arange(seconds) * SECOND_NS, keys) + start_ns
    arrival_ns = ts_ns + rng.integers(0, SECOND_NS // 4, count)
    late = rng.random(count) < OUT_OF_ORDER
    arrival_ns[late] += rng.integers(SECOND_NS, 8 * SECOND_NS, int(late.sum()))
    key = np.tile(np.arange(keys, dtype=np.int32), seconds)
    order = np.argsort(arrival_ns, kind="stable")
    return Rows(ts_ns[order], arrival_ns[order], key[order], rng.standard_normal(count))


def batches(data: Rows, keys: int, batch_rows: int) -> list[Batch]:
    """The rows as the engine takes them, each batch with memory of its own."""
    labels = names(keys)
    found = []
    for start in range(0, len(data), batch_rows):
        part = slice(start, start + batch_rows)
        arrival_ns = data.arrival_ns[part].copy()
        found.append(
            Batch(
                ticks.name,
                "all",
                int(arrival_ns[-1]),
                Labels(data.key[part].copy(), labels),
                data.ts_ns[part].copy(),
                {"x": data.x[part].copy()},
                arrival_ns=arrival_ns,
                end=start + batch_rows >= len(data),
            )
        )
    return found


def write_parquet(data: Rows, path: Path, keys: int) -> None:
    """Writes the rows as an input file of the stream."""
    names_ = pa.array(names(keys))
    times = pa.timestamp("ns", tz="UTC")
    table = pa.table(
        {
            "sensor": pa.DictionaryArray.from_arrays(pa.array(data.key), names_),
            "ts": pa.array(data.ts_ns).cast(times),
            "arrival_ts": pa.array(data.arrival_ns).cast(times),
            "x": pa.array(data.x),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, compression="none", row_group_size=1 << 20)


def in_order(found: Arrays) -> Arrays:
    """Vectors in the order of key and time."""
    order = np.lexsort((found["ts"], found["key"]))
    return {name: values[order] for name, values in found.items()}


def difference(found: Arrays, wanted: Arrays) -> float:
    """The greatest error of any feature, in units of its scale; infinite where nulls differ."""
    if len(found["key"]) != len(wanted["key"]):
        return float("inf")
    for name in ("key", "ts"):
        if not np.array_equal(found[name], wanted[name]):
            return float("inf")
    worst = 0.0
    for name, scale in SCALES.items():
        a, b = found[name].astype(np.float64), wanted[name].astype(np.float64)
        if not np.array_equal(np.isnan(a), np.isnan(b)):
            return float("inf")
        valid = ~np.isnan(a)
        if valid.any():
            worst = max(worst, float(np.abs(a[valid] - b[valid]).max()) / scale)
    return worst
