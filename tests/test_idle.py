"""Keys that come and go: memory stays bounded, vectors do not change."""

from __future__ import annotations

from dataclasses import replace

import pytest

from feature_repo.market import market
from operators import engine as engine_module
from operators.engine import Engine
from operators.plan import compile_plan
from operators.snapshot import snapshot
from tests.driver import emitted, in_bits
from tests.naive_rows import Row
from tests.strategies import MINUTE_NS, START_NS, batch_of

churning = replace(market, ttl="10m")
KEYS_IN_ALL = 600
BARS_EACH = 12


def read(keys: int = KEYS_IN_ALL):
    """Instruments that live for a few minutes each, with news of their own, ten at a time."""
    bars, news = churning.streams
    batches = []
    for start in range(0, keys, 10):
        begin = START_NS + start * 3 * MINUTE_NS
        rows = [
            {
                "entity": f"i{key}", "series": "1m", "ts": begin + i * MINUTE_NS, "open": 1.0,
                "high": 2.0, "low": 0.5, "close": 1 + (key * 31 + i * 17) % 23 / 23, "volume": 1.0,
            }
            for i in range(BARS_EACH) for key in range(start, start + 10)
        ]  # fmt: skip
        said: list[Row] = [
            {
                "entity": f"i{key}", "ts": begin + 30 * MINUTE_NS // (1 + key % 5), "event_id": key,
                "sentiment": key % 7 / 7, "confidence": 0.5,
            }
            for key in range(start, start + 10)
        ]  # fmt: skip
        for stream, whole in ((bars, rows), (news, sorted(said, key=lambda row: row["ts"]))):
            batches.append(
                batch_of(stream, whole, "part-0", begin + 25 * MINUTE_NS, end=start + 10 == keys)
            )
    return batches


def test_forgetting_idle_keys_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = in_bits(emitted(churning, read()))
    monkeypatch.setattr(engine_module, "FEWEST_RUNS", 8)
    assert in_bits(emitted(churning, read())) == expected
    assert in_bits(emitted(churning, read(), restarts=range(0, 200, 7))) == expected


def test_keys_that_are_gone_leave_memory_and_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "FEWEST_RUNS", 8)
    engine = Engine(compile_plan(churning), [("bars", "part-0"), ("news", "part-0")])
    runs, sizes = [], []
    for batch in read():
        engine.process(replace(batch, end=False))
        runs.append(sum(map(len, engine.tables)))
        sizes.append(len(snapshot(engine)))
    assert max(runs) < 200
    assert max(sizes) < 4 * sizes[20]
