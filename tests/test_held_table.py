"""What is held in a table is read back bit for bit, in bounded memory."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from dataflows.held_table import TableHeld
from dataflows.tables import apply_tables
from dataflows.verify import Held, verify
from feature_repo.sets import ALL
from operators.batch import Vectors
from operators.feature_set import FeatureSet
from operators.frames import schema, vectors_table
from sinks.table_layout import TableLayout
from sources.database import Database, DatabaseError
from tests.schemas import a_schema, ask, fill
from tests.some_vectors import BEFORE_1970, WEEK_NS, some_vectors
from tests.test_tables_apply import compress

FROM_NS, TO_NS = BEFORE_1970
TIMES_NS = (2_900 * WEEK_NS, 2_904 * WEEK_NS)


@pytest.fixture(params=["postgres", "timescale"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    with a_schema(request.getfixturevalue(request.param)) as found:
        yield found


@pytest.fixture
def plain(postgres: str) -> Iterator[Database]:
    with a_schema(postgres) as found:
        yield found


def held(
    database: Database, feature_set: FeatureSet, from_ns: int = FROM_NS, to_ns: int = TO_NS
) -> pa.Table:
    """The vectors that a table holds, by time."""
    place: Held = TableHeld(database, feature_set)
    told: list[tuple[int, int]] = []
    found = list(
        place.tables(feature_set, from_ns, to_ns, lambda done, total: told.append((done, total)))
    )
    table = pa.concat_tables([schema(feature_set).empty_table(), *found])
    assert not told or told[-1] == (len(table), len(table))
    return table.sort_by("ts")


def given(feature_set: FeatureSet, vectors: Vectors) -> pa.Table:
    return vectors_table(feature_set, vectors).cast(schema(feature_set)).sort_by("ts")


def assert_bits(left: pa.Table, right: pa.Table) -> None:
    """The same in each bit, the sign of zero among them."""
    assert left.schema == right.schema
    for name in left.column_names:
        one, other = left[name].combine_chunks(), right[name].combine_chunks()
        assert one.equals(other), name
        if one.type == pa.float64():
            bits = (np.asarray(each.fill_null(0)).view(np.int64) for each in (one, other))
            np.testing.assert_array_equal(next(bits), next(bits))


@pytest.mark.parametrize("name", ["market", "waveform", "bars_from_trades"])
def test_vectors_are_read_back_bit_for_bit(database, name):
    feature_set = ALL[name]
    apply_tables(database, [feature_set])
    vectors = some_vectors(feature_set, 200, 1, TIMES_NS)
    fill(database, TableLayout(feature_set, database.schema), vectors)
    assert_bits(held(database, feature_set), given(feature_set, vectors))
    compress(database)
    assert_bits(held(database, feature_set), given(feature_set, vectors))


def test_random_bits_are_read_back(plain):
    feature_set = ALL["market"]
    apply_tables(plain, [feature_set])
    vectors = some_vectors(feature_set, 20_000, 1, TIMES_NS)
    rng = np.random.default_rng(5)
    features = {}
    for name in vectors.features:
        values = rng.integers(-(2**63), 2**63 - 1, 20_000).view(np.float64).copy()
        features[name] = np.where(np.isnan(values), 0.0, values)
    features["event_count_1h"] = rng.integers(0, 2**53, 20_000).astype(np.float64)
    vectors = replace(vectors, features=features)
    fill(plain, TableLayout(feature_set, plain.schema), vectors)
    assert_bits(held(plain, feature_set), given(feature_set, vectors))


def test_an_empty_table_holds_nothing(database):
    apply_tables(database, [ALL["market"]])
    assert len(held(database, ALL["market"])) == 0


def test_only_final_vectors_of_the_range_are_given(plain):
    feature_set = ALL["market"]
    apply_tables(plain, [feature_set])
    layout = TableLayout(feature_set, plain.schema)
    at_ns = TIMES_NS[0] + 12_345_678
    one = some_vectors(feature_set, 6, 1, TIMES_NS)
    edges = replace(one, ts_ns=at_ns + np.array([-1, 0, 1, 998, 999, 1_000]))
    fill(plain, layout, edges)
    early = some_vectors(feature_set, 50, 2, TIMES_NS, final=False)
    fill(plain, layout, early)
    found = held(plain, feature_set, at_ns, at_ns + 999)
    assert found["ts"].cast(pa.int64()).to_pylist() == [at_ns, at_ns + 1, at_ns + 998]
    assert len(held(plain, feature_set)) == 6


class Given:
    """Vectors as if they had been computed."""

    final_until_ns = TO_NS

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def tables(self) -> Iterator[pa.Table]:
        yield self._table


def test_one_bit_is_noticed_wherever_it_is(plain):
    feature_set = ALL["market"]
    apply_tables(plain, [feature_set])
    layout = TableLayout(feature_set, plain.schema)
    vectors = some_vectors(feature_set, 500, 3, TIMES_NS)
    computed = given(feature_set, vectors)
    assert (vectors.coverage < 1).all()
    fill(plain, layout, vectors)

    def compared() -> tuple[int, set[str]]:
        (result,), _ = verify(
            feature_set, Given(computed), [TableHeld(plain, feature_set)], FROM_NS
        )
        assert not result.missing
        return result.different, {each.column for each in result.findings}

    assert compared() == (0, set())
    plant = {
        "ret_1": "ret_1 = %s",
        "coverage": "coverage = %s",
        "quality": "quality = quality || 'X'::text",
        "vol_20": "vol_20 = NULL",
        "event_count_1h": "event_count_1h = coalesce(event_count_1h, 0) + 1",
    }
    changed = set()
    for row, (column, change) in enumerate(plant.items()):
        where = int(np.flatnonzero(np.isfinite(vectors.features["ret_1"])
                    & np.isfinite(vectors.features["vol_20"]))[row + 10])  # fmt: skip
        values: list[object] = []
        if "%s" in change:
            source = vectors.coverage if column == "coverage" else vectors.features[column]
            values.append(float(np.nextafter(source[where], np.inf)))
        key = (vectors.keys.names[vectors.keys.codes[where]], int(vectors.ts_ns[where]))
        ask(plain, f"UPDATE S.market_fs_v1 SET {change} WHERE instrument_id = %s AND ts_ns = %s",
            *values, *key)  # fmt: skip
        changed.add(column)
        assert compared() == (row + 1, changed)


def test_minus_zero_is_not_zero(plain):
    feature_set = ALL["market"]
    apply_tables(plain, [feature_set])
    vectors = some_vectors(feature_set, 10, 3, TIMES_NS)
    zeros = replace(vectors, features={n: np.zeros(10) for n in vectors.features})
    fill(plain, TableLayout(feature_set, plain.schema), zeros)
    ask(plain, "UPDATE S.market_fs_v1 SET ret_1 = '-0' WHERE ts_ns = %s", int(zeros.ts_ns[0]))
    (result,), _ = verify(
        feature_set, Given(given(feature_set, zeros)), [TableHeld(plain, feature_set)], FROM_NS
    )
    assert [each.column for each in result.findings] == ["ret_1"]


def test_rows_that_lack_and_rows_too_many_are_found(plain):
    feature_set = ALL["market"]
    apply_tables(plain, [feature_set])
    vectors = some_vectors(feature_set, 100, 3, TIMES_NS)
    fill(plain, TableLayout(feature_set, plain.schema), vectors)
    other = some_vectors(feature_set, 100, 4, TIMES_NS)
    half = given(feature_set, vectors).slice(0, 60)
    computed = pa.concat_tables([half, given(feature_set, other).slice(0, 7)])
    (result,), _ = verify(feature_set, Given(computed), [TableHeld(plain, feature_set)], FROM_NS)
    assert (result.same, result.missing, result.extra) == (60, 7, 40)
    assert result.held == f"table {plain.schema}.market_fs_v1"


def test_memory_does_not_grow_with_the_table(plain):
    feature_set = ALL["market"]
    apply_tables(plain, [feature_set])
    layout = TableLayout(feature_set, plain.schema)
    fill(plain, layout, some_vectors(feature_set, 20_000, 1, TIMES_NS))
    others = ", ".join(name for name in layout.names if name not in {"ts_ns", "ts"})
    ask(
        plain,
        f"INSERT INTO S.market_fs_v1 ({others}, ts, ts_ns) SELECT {others}, ts, ts_ns + i "
        "FROM S.market_fs_v1, generate_series(1, 19) i",
    )
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    place = TableHeld(plain, feature_set)
    total = sum(len(t) for t in place.tables(feature_set, FROM_NS, TO_NS, lambda *_: None))
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert total == 400_000
    assert grown_mib < 100  # the vectors are 60 MB, and their text is 120 MB; a piece took 67 MB


def test_a_table_that_is_not_there_is_told_in_words(plain):
    with pytest.raises(DatabaseError, match=r"table .*market_fs_v1: .*run `riffle apply`"):
        held(plain, ALL["market"])
