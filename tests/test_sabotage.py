"""A parity check that is worth its name: the real engine passes it, and broken ones do not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from operators import route
from operators import snapshot as state
from operators.engine import Engine
from operators.feature_set import FeatureSet
from operators.kernels.hashing import KEY_GROUPS
from operators.plan import compile_plan
from tests import sabotage
from tests.driver import Identity, batches, bits, partitions_of, shown
from tests.golden import Parts, by_time, in_turns, interleaved, rows_of
from tests.naive import final_before, naive_vectors
from tests.naive_rows import Key, Row, settled
from tests.strategies import BARS, MINUTE_NS, NEWS, READINGS, TICKS, Read, clock_after

close, volume = BARS.col("close"), BARS.col("volume")
sentiment = NEWS.col("sentiment")
price, size = TICKS.col("price"), TICKS.col("size")
value = READINGS.col("value")
bars_with_news = FeatureSet(
    "bars_with_news",
    "v1",
    BARS,
    {
        "mean_8": close.rolling_mean(8, min_samples=1),
        "std_8": close.rolling_std(8, min_samples=2),
        "mean_10m": close.rolling_mean("10m"),
        "volume_5": volume.rolling_sum(5, min_samples=1),
        "ret_1": close.pct_change(1),
        "ema": close.ewm_mean(alpha=0.9),
        "news_15m": sentiment.rolling_count("15m"),
        "sentiment_15m": sentiment.rolling_mean("15m"),
    },
    quality={"NO_NEWS": sentiment.rolling_count("15m") == 0},
    ttl="3m",
)
ticks = FeatureSet(
    "ticks",
    "v1",
    TICKS,
    {
        "size_5": size.rolling_mean(5),
        "first_3": price.rolling_first(3),
        "before": price.shift(1),
        "max_10s": price.rolling_max("10s"),
    },
)
hops = FeatureSet(
    "hops",
    "v1",
    READINGS.hop("1s", every="500ms"),
    {"mean": value.mean(), "last": value.last(), "count": value.count()},
)


class NotParityError(Exception):
    """An engine whose vectors are not the function of the rows that they must be."""


def require(holds: bool, *what: object) -> None:
    """Refuses an engine."""
    if not holds:
        raise NotParityError(*what)


Found = dict[Identity, dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """A set, its rows, and its vectors according to the oracle, were the input to go on."""

    feature_set: FeatureSet
    rows: dict[str, list[Row]]
    truth: Found

    def until(self, clock_ns: int | None) -> set[Identity]:
        """The vectors that are final at a clock; at the end of the input, without one."""
        end = clock_ns is None
        before = final_before(self.feature_set, self.rows, clock_ns, end=end)
        return {identity for identity in self.truth if identity[2] < before}


def case(feature_set: FeatureSet, rows: dict[str, list[Row]]) -> Case:
    """A case with its truth."""
    vectors = naive_vectors(feature_set, rows, 2**62)
    series = feature_set.series or ""
    truth = {(v[feature_set.entity], v.get(series, ""), v["ts"]): v for v in vectors}
    return Case(feature_set, rows, truth)


@cache
def cases() -> list[Case]:
    """The input of the check: the same in every run."""
    bar_keys: list[Key] = [("A-1", "1m"), ("A-2", "1m"), ("B-1", "1h")]
    news_keys: list[Key] = [("A-1", ""), ("A-2", ""), ("C-1", "")]
    tick_keys: list[Key] = [("A-1", ""), ("A-2", "")]
    bars = rows_of(BARS, 50, seed=1, keys=bar_keys, step_ns=MINUTE_NS)
    news = rows_of(NEWS, 50, seed=2, keys=news_keys, step_ns=MINUTE_NS)
    trades = rows_of(TICKS, 60, seed=3, keys=tick_keys, step_ns=1_500_000_000)
    samples = rows_of(READINGS, 80, seed=4, keys=[("A-1", "x"), ("A-1", "y"), ("A-2", "x")])
    return [
        case(bars_with_news, {"bars": bars, "news": news}),
        case(ticks, {"ticks": trades}),
        case(hops, {"readings": samples}),
    ]


# -- the check ------------------------------------------------------------------------------------


def play(
    feature_set: FeatureSet,
    read: Sequence[Read],
    *,
    restarts: Iterable[int] = (),
    groups: frozenset[int] | None = None,
    final_after: Sequence[set[Identity]] | None = None,
) -> Found:
    """The vectors of one engine, which after each batch must be those that are final."""
    plan = compile_plan(feature_set)
    found: Found = {}
    taken = batches(feature_set, read)
    partitions = partitions_of(taken)
    engine = Engine(plan, partitions)
    for number, batch in enumerate(taken):
        own = batch if groups is None else route.of_groups(batch, groups)
        try:
            fresh = shown(feature_set, engine.process(own).vectors)
        except AssertionError as error:
            raise NotParityError(str(error)) from error
        require(not fresh.keys() & found.keys(), "emitted twice")
        found |= fresh
        if final_after is not None:
            wrong = found.keys() ^ final_after[number]
            require(not wrong, f"after batch {number} not as final as the clock says", wrong)
        if number in restarts:
            engine = state.restore(plan, partitions, state.snapshot(engine))
    return found


def played(case: Case, parts: Parts, size: int, seed: int, restarts: Iterable[int] = ()) -> Found:
    """All vectors of an arrangement, each of them emitted in time."""
    read = interleaved(parts, size, seed)
    final = [case.until(clock_after(read[: n + 1], parts)) for n in range(len(read))]
    return play(case.feature_set, read, restarts=restarts, final_after=final)


def sharded(case: Case, shards: int) -> Found:
    """All vectors of several engines that share the key groups."""
    found: Found = {}
    for shard in range(shards):
        groups = frozenset(g for g in range(KEY_GROUPS) if g % shards == shard)
        part = play(case.feature_set, interleaved(in_turns(case.rows, 1), 40, 5), groups=groups)
        require(not part.keys() & found.keys(), "two shards emitted one vector")
        found |= part
    return found


def begun_later(case: Case) -> tuple[Found, int]:
    """Vectors of an engine that has not read the first quarter, and from when on they count."""
    times = sorted(identity[2] for identity in case.truth)
    start, settled_ns = times[len(times) // 5], times[3 * len(times) // 5]
    rows = {s: [row for row in whole if row["ts"] >= start] for s, whole in case.rows.items()}
    return play(case.feature_set, interleaved(in_turns(rows, 1), 30, 6)), settled_ns


def same_bits(found: Found, expected: Found, what: str) -> None:
    """Requires equal identities and equal bits."""
    require(found.keys() == expected.keys(), what, found.keys() ^ expected.keys())
    for identity, vector in found.items():
        for name, value in vector.items():
            other = expected[identity][name]
            same = bits(value) == bits(other) if isinstance(value, float) else value == other
            require(same, what, identity, name, value, other)


def close_to_oracle(found: Found, truth: Found) -> None:
    """Requires the oracle's flags, its nulls, and its numbers but for rounding."""
    for identity, vector in found.items():
        for name, value in vector.items():
            true = truth[identity][name]
            if not isinstance(value, float):
                require(value == true, "other than the oracle", identity, name, value, true)
                continue
            expected = math.nan if true is None else float(true)
            near = math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9)
            nulls = math.isnan(value) and math.isnan(expected)
            require(near or nulls, "other than the oracle", identity, name, value, expected)


def canonical_sums(found: Found) -> None:
    """Requires means whose bits are those of the roundest cut, computed row by row."""
    rows = cases()[1].rows["ticks"]
    for (entity, series), run in settled(TICKS, rows).applied.items():
        for end in range(5, len(run) + 1):
            window = run[end - 5 : end]
            if end < len(run) and run[end]["ts"] == window[-1]["ts"]:
                continue
            cut = sabotage.roundest([row["ts"] for row in window])
            mean = sabotage.level_of([row["size"] for row in window], cut)[1]
            vector = found[entity, series, window[-1]["ts"]]
            require(bits(vector["size_5"]) == bits(mean), "another order of sums", window)


def check_parity() -> None:
    """Holds the engine, as it is at this moment, to the rule.

    Raises:
        NotParityError: when it does not.
    """
    for each in cases():
        base = played(each, in_turns(each.rows, 1), 30, 1)
        close_to_oracle(base, each.truth)
        many = range(0, 1000, 4)
        same_bits(played(each, in_turns(each.rows, 3), 7, 2, many), base, "other cuts and restarts")
        same_bits(played(each, by_time(each.rows), 16, 3, [5]), base, "files by time")
        same_bits(sharded(each, 2), base, "other shards")
        later, settled_ns = begun_later(each)
        some = {i: v for i, v in base.items() if i[2] >= settled_ns}
        same_bits({i: v for i, v in later.items() if i[2] >= settled_ns}, some, "another start")
    canonical_sums(played(cases()[1], in_turns(cases()[1].rows, 1), 30, 1))


def test_the_engine_passes():
    check_parity()


def test_an_engine_whose_sums_are_computed_in_plain_python_passes(monkeypatch):
    sabotage.whole_engine_in_python(monkeypatch)
    check_parity()


@pytest.mark.parametrize("name", sabotage.BROKEN)
def test_a_broken_engine_is_caught(name, monkeypatch):
    breaker, symptom = sabotage.BROKEN[name]
    breaker(monkeypatch)
    with pytest.raises(NotParityError, match=symptom):
        check_parity()


def test_every_broken_engine_says_in_a_sentence_what_is_wrong_with_it():
    sentences = [breaker.__doc__ or "" for breaker, _ in sabotage.BROKEN.values()]
    assert all(sentence.endswith(".") for sentence in sentences)
    assert len(set(sentences)) == len(sentences) >= 10


def test_the_input_of_the_check_has_what_engines_stumble_over():
    bars, news = cases()[0].rows["bars"], cases()[0].rows["news"]
    for stream, rows in ((BARS, bars), (NEWS, news), (READINGS, cases()[2].rows["readings"])):
        fates = settled(stream, rows)
        assert fates.late
        assert fates.duplicate
        assert fates.superseded
    ordered = settled(TICKS, cases()[1].rows["ticks"]).applied.values()
    assert any(a["ts"] == b["ts"] for run in ordered for a, b in pairwise(run))
    times = [row["ts"] for row in settled(BARS, bars).applied["A-1", "1m"]]
    assert max(b - a for a, b in pairwise(times)) > bars_with_news.ttl_ns
    shuffled = sorted(bars, key=lambda row: row["ts"])
    assert shuffled != bars
