"""What a batch took is free again when it is done, without a search for garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from operators.engine import Engine
from operators.plan import compile_plan
from tests.driver import partitions_of
from tests.test_parity import SETS
from tests.test_provisional import long_read


@pytest.fixture
def only_cycles_stay() -> Iterator[None]:
    """Keeps what a search for garbage finds in ``gc.garbage``; none is made in between."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


@pytest.mark.parametrize("name", SETS)
def test_nothing_is_left_for_the_collector(name, only_cycles_stay):
    feature_set = SETS[name]
    read = long_read(feature_set, seed=1)
    engine = Engine(compile_plan(feature_set), partitions_of(read))
    waiting = engine.keep_provisional()
    for batch in read:
        engine.process(batch)
        waiting.vectors()
    gc.collect()
    ours = [type(each).__name__ for each in gc.garbage if type(each).__module__[:9] == "operators"]
    assert ours == []
