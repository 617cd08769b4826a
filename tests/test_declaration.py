"""A declaration that does not fit says where, what must be and what was found, when it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import polars as pl
import pytest

from operators.durations import parse_duration_ns
from operators.engine import Engine
from operators.expr import Expr, GridCoverage, max_of, when
from operators.feature_set import FeatureSet
from operators.instants import Instants
from operators.plan import compile_plan
from operators.streams import Field, Stream
from tests.strategies import BARS, NEWS, READINGS, START_NS, TRADES, WINDOWS, batch_of

close, volume = BARS.col("close"), BARS.col("volume")
sentiment = NEWS.col("sentiment")
value, samples = READINGS.col("value"), WINDOWS.col("values")
machine = FeatureSet("machine", "v1", READINGS.hop("1s", every="500ms"), {"rms": value.rms()})
rms = machine.output().col("rms")


def one(emit: Instants, expr: Expr, name: str = "feature") -> FeatureSet:
    """A set of one feature."""
    return FeatureSet("mine", "v1", emit, {name: expr})


EXPRESSIONS: list[tuple[Callable[[], object], str]] = [
    (lambda: close + volume, r"operands must have one unit, got price and unit"),
    (close.log, r"must have no unit \(divide by a reference first\), got price"),
    (lambda: close & volume, r"operands must be flags, got number `bars.close`"),
    (lambda: close.fill_null("1"),  # type: ignore[arg-type]
     r"an operand: must be an expression or a finite number, got '1'"),
    (lambda: close * float("nan"), r"must be an expression or a finite number, got nan"),
    (lambda: bool(close > 1), r"has no truth value; use `&`, `\|` and `~`"),
    (lambda: close.shift(0), r"`rows` must be a whole number of at least 1, got 0"),
    (lambda: close.rolling_mean(0), r"must be a number of rows of at least 1 or a duration"),
    (lambda: close.rolling_mean(True), r"must be a number of rows of at least 1 or a duration"),
    (lambda: close.rolling_std(1), r"the window must hold at least 2 rows, got 1"),
    (lambda: close.rolling_std(5, 1), r"`min_samples` must be at least 2, got 1"),
    (lambda: close.rolling_mean(5, 6), r"`min_samples` must fit into the window, got 6"),
    (lambda: close.rolling_quantile(1.5, 5), r"a quantile must be in \[0, 1\], got 1.5"),
    (lambda: close.quantile(-0.1), r"a quantile must be in \[0, 1\], got -0.1"),
    (lambda: close.rolling_corr(sentiment, 5), r"both columns must be of the same rows, got"),
    (close.ewm_mean, r"exactly one of `alpha` and `span` must be given"),
    (lambda: close.ewm_mean(alpha=0.5, span=3), r"exactly one of `alpha` and `span` must be given"),
    (lambda: close.ewm_mean(alpha=1.0), r"weight of the newest row must be in \(0, 1\), got 1.0"),
    (lambda: value.band_power(5, 1), r"0 <= low < high"),
    (lambda: value.band_power(0, 2, of_nyquist=True), r"\(<= 1 of Nyquist\), got"),
    (lambda: rms.across_corr(2), r"`rows` must be at least 3, got 2"),
    (sentiment.across_mean, r"must be over the rows of series, got `news.sentiment`"),
    (lambda: samples + 1, r"must be over one value per row; take a feature of the samples first"),
    (lambda: samples.shift(1), r"must be over one value per row"),
    (lambda: BARS.col("closing"), r"`bars`: no column 'closing' to compute with; there"),
    (lambda: machine.output().col("peak"), r"feature set `machine`: no feature 'peak'; there are"),
    (lambda: NEWS.one_series("1m"), r"stream `news` has no series to choose '1m' from"),
    (READINGS.series_seconds, r"its series must be durations, which it does not declare"),
    (NEWS.across_series, r"`news` has no series to go across"),
    (lambda: TRADES.hop("1s", every="2s"), r"`every` \(2s\) can't be longer than the window"),
    (lambda: TRADES.hop("1s", every="1s", closed="both"), r"`closed` must be 'left' or 'right'"),
    (lambda: parse_duration_ns("1 hour"), r"must look like '20ms', '1h' or '1h30m', got '1 hour'"),
    (lambda: parse_duration_ns("0s"), r"a duration must be positive, got '0s'"),
    (lambda: Stream("s", "id", (Field("x"), Field("x"))), r"must have distinct names, got \['x'\]"),
    (lambda: Stream("s", "id", (), identity=("x",)), r"identity and sequence must be fields"),
]  # fmt: skip

SETS: list[tuple[Callable[[], object], str]] = [
    (lambda: FeatureSet("mine", "v1", BARS, {}), r"`mine`: must have at least one feature"),
    (lambda: one(BARS, close, "a__b"), r"a name must be lower snake case without `__`, got 'a__b'"),
    (lambda: one(BARS, close, "Close"), r"a name must be lower snake case"),
    (lambda: one(BARS, close, "ts"), r"its name must not be a column of every vector, got 'ts'"),
    (lambda: one(BARS, close, "timeframe"), r"its name must not be a column of every vector"),
    (lambda: one(BARS, value), r"must be keyed by `instrument_id`, got `asset_id`"),
    (lambda: one(BARS, rms), r"must be keyed by `instrument_id`, got `asset_id`"),
    (lambda: one(BARS, close.mean()), r"needs a set that emits per hop or per message, got `bars`"),
    (lambda: one(TRADES.hop("1s", every="1s"), sentiment.mean()), r"must be over rows of `trades`"),
    (lambda: one(TRADES.hop("1s", every="1s"), TRADES.col("price").spectral_entropy()),
     r"needs a stream with a declared sampling rate, got `trades`"),
    (lambda: one(WINDOWS, WINDOWS.col("sampling_rate_hz").mean()), r"must be over the samples of"),
    (lambda: one(WINDOWS, samples.median()), r"is not available over samples, got quantile"),
    (lambda: one(WINDOWS, samples), r"must be one value per vector; take a feature of the samples"),
    (lambda: one(BARS, rms.across_mean()), r"needs a set that emits across those series, got bars"),
    (lambda: one(BARS, GridCoverage(close)), r"needs a set that emits per hop or per message"),
    (lambda: replace(machine, quality={"BAD": value.mean()}), r"flag `BAD`: must be a condition"),
    (lambda: replace(machine, ttl="soon"), r"a duration must look like"),
    (lambda: compile_plan(one(NEWS, close)), r"must read one series or go across them"),
]  # fmt: skip


@pytest.mark.parametrize(("declare", "message"), [*EXPRESSIONS, *SETS])
def test_what_does_not_fit_is_refused_in_words(declare: Callable[[], object], message: str) -> None:
    with pytest.raises((TypeError, ValueError, KeyError), match=message):
        declare()


def test_units_follow_the_computation() -> None:
    assert str((close * volume).rolling_sum(3).unit) == "price unit"
    assert str(close.rolling_var(3).unit) == "price^2"
    assert str(close.rolling_var(3).sqrt().unit) == "price"
    assert str(close.rolling_slope("1h").unit) == "price s^-1"
    assert str(close.pct_change(1).unit) == "1"
    assert str(value.dominant_frequency().unit) == "Hz"
    assert str(when(close > 1).then(close).otherwise(0).unit) == "price"


def test_warm_ups_add_up() -> None:
    assert str(close.warm_up) == "none"
    assert str(close.pct_change(1).rolling_std(20).warm_up) == "21 rows"
    assert str(sentiment.diff(2).rolling_mean("1h").warm_up) == "3 rows and 1h"
    assert str(max_of(close.shift(3), close.rolling_mean(10)).warm_up) == "10 rows"


def test_equal_expressions_are_computed_once() -> None:
    plan = compile_plan(
        FeatureSet(
            "mine",
            "v1",
            BARS,
            {"a": close.rolling_std(5), "b": close.rolling_std(5) * 2, "c": close.rolling_mean(5)},
        )
    )
    keys = [step.key for step in plan.domains[0].steps]
    assert len(keys) == len(set(keys))
    assert sum(type(step).__name__ == "Slide" for step in plan.domains[0].steps) == 1


def test_an_engine_knows_only_the_partitions_it_was_told_of() -> None:
    engine = Engine(compile_plan(one(BARS, close)), [("bars", "part-0")])
    row = {"entity": "a", "series": "1m", "ts": START_NS, "open": 1.0, "high": 1.0, "low": 1.0,
           "close": 1.0, "volume": 1.0}  # fmt: skip
    with pytest.raises(KeyError, match=r"must be one of those declared at start"):
        engine.process(batch_of(BARS, [row], "part-1", START_NS))


def test_a_notebook_is_told_which_frames_a_set_reads() -> None:
    frame = pl.DataFrame({"instrument_id": ["a"]})
    with pytest.raises(
        TypeError, match=r"a frame for each of its streams \['bars'\], got \['news'\]"
    ):
        one(BARS, close).compute(news=frame)
