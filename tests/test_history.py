"""The arena of recent rows: what no window can reach is forgotten, whatever the size of batches."""

import numpy as np
import pytest

from operators.batch import Batch, Labels
from operators.engine import Engine
from operators.feature_set import FeatureSet
from operators.plan import compile_plan
from operators.streams import Field, Stream

TICKS = Stream("ticks", "sensor_id", (Field("x"),))
WINDOWS = {
    "rows": TICKS.col("x").rolling_mean(16),
    "span": TICKS.col("x").rolling_mean("16s"),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("rows", [50, 2_000])
def test_the_arena_does_not_grow_with_the_input(window, rows):
    engine = Engine(
        compile_plan(FeatureSet("one", "v1", TICKS, {"mean": WINDOWS[window]})), [("ticks", "f")]
    )
    sizes = []
    for number in range(40):
        second = np.arange(number * rows, (number + 1) * rows)
        keys = Labels((second % 4).astype(np.int32), ("a", "b", "c", "d"))
        ts_ns = second * 10**9
        batch = Batch("ticks", "f", int(ts_ns[-1]), keys, ts_ns, {"x": second * 1.0})
        engine.process(batch)
        sizes.append(len(engine.tables[0].ts))
    assert max(sizes) == max(sizes[:5])
