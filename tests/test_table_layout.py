"""The table of a set: names and types, and vectors as rows and back."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from feature_repo.sets import ALL
from feature_repo.streams import bars, trades
from operators.feature_set import FeatureSet
from operators.frames import schema, vectors_table
from operators.streams import Field, Stream
from sinks.table_layout import NEWEST, PARTITION, LayoutError, TableLayout
from tests.some_vectors import some_vectors


@pytest.mark.parametrize("name", ALL)
def test_vectors_come_back_from_rows_bit_for_bit(name):
    feature_set = ALL[name]
    layout = TableLayout(feature_set)
    vectors = vectors_table(feature_set, some_vectors(feature_set))
    rows = layout.rows(vectors)
    assert rows.column_names == layout.names
    back = layout.vectors(rows.cast(layout.arrow_schema))
    assert back.schema == schema(feature_set)
    wanted = vectors.cast(schema(feature_set))
    for column in back.column_names:
        kept, given = back[column].combine_chunks(), wanted[column].combine_chunks()
        assert kept.equals(given), column
        if kept.type == pa.float64():
            bits, wanted_bits = (
                np.asarray(each.fill_null(0)).view(np.int64) for each in (kept, given)
            )
            np.testing.assert_array_equal(bits, wanted_bits)


def test_microseconds_are_rounded_down_before_1970_too():
    layout = TableLayout(ALL["market"])
    vectors = vectors_table(ALL["market"], some_vectors(ALL["market"], 400))
    rows = layout.rows(vectors)
    for name in ("ts", "known_at"):
        us = np.asarray(rows[name].cast(pa.int64()))
        ns = np.asarray(rows[f"{name}_ns"])
        assert ((ns - us * 1_000 >= 0) & (ns - us * 1_000 < 1_000)).all()
    assert (np.asarray(rows["ts_ns"]) < 0).any()


def test_columns_follow_the_declaration():
    layout = TableLayout(ALL["bars_from_trades"], "lab")
    assert layout.name == "bars_from_trades_v1"
    assert layout.latest == "bars_from_trades_v1_latest"
    assert layout.identifier.as_string(None) == '"lab"."bars_from_trades_v1"'
    assert layout.key == ("instrument_id", "ts", "ts_ns")
    assert set(NEWEST) <= set(layout.names)
    types = {column.name: (column.sql_type, column.nullable) for column in layout.columns}
    assert types["timeframe"] == ("text", False)
    assert types["open"] == ("double precision", True)
    assert types["trade_count"] == ("bigint", True)
    assert types["quality"] == ("text[]", False)
    assert TableLayout(ALL["market"]).key == ("instrument_id", "timeframe", "ts", "ts_ns")


def named(feature: str, **more: Any) -> FeatureSet:
    """A set with one feature."""
    given: dict[str, Any] = {"name": "probe", "version": "v1", "emit": bars, **more}
    return FeatureSet(features={feature: bars.col("close")}, **given)


@pytest.mark.parametrize(
    ("feature_set", "words"),
    [
        (named("x" * 64), "column `x+`: a name must have 1 to 63 bytes in PostgreSQL, found 64"),
        (named("é" * 32), "1 to 63 bytes in PostgreSQL, found 64"),
        (named("xmin"), "column `xmin`: must not be called like a column of PostgreSQL's own"),
        (named("ts_ns"), "several called ts_ns; rename the feature or the key"),
        (named("close", name="p" * 51), "table `p+_v1`: a name must have 1 to 53 bytes"),
        (named("close", name="quality", version="log"), "like another table or view of Riffle"),
    ],
    ids=["long", "long in bytes", "system column", "doubled", "long table", "view"],
)
def test_names_that_postgresql_cannot_have_are_refused(feature_set, words):
    with pytest.raises(LayoutError, match=words):
        TableLayout(feature_set)


def test_a_key_with_a_zero_character_is_refused():
    stream = Stream("odd", "asset\0id", (Field("value"),))
    odd = FeatureSet("odd", "v1", stream, {"value": stream.col("value")})
    with pytest.raises(LayoutError, match="must have no zero character"):
        TableLayout(odd)


def test_names_up_to_the_limit_are_taken():
    assert "x" * 63 in TableLayout(named("x" * 63)).names
    price = trades.col("price")
    at_limit = FeatureSet("p" * 50, "v1", trades, {"mean": price})
    assert len(TableLayout(at_limit).name + PARTITION) == 63
