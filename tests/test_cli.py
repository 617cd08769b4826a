"""The `riffle` command: what it prints, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import dataflows.backfill
from dataflows.cli import app
from dataflows.named_sets import UnknownSetError, named_set
from dataflows.settings import BackfillSettings, SettingsError, backfill_settings

MINUTE_NS = 60 * 10**9
START_NS = 1_700_000_040 * 10**9
MODULE = """
from operators.feature_set import FeatureSet
from operators.streams import Field, Stream

ticks = Stream("ticks", "sensor_id", (Field("x", unit="mm"),))
x = ticks.col("x")
wide = FeatureSet("wide", "v1", ticks, {"mean_3": x.rolling_mean(3), "calm": x.rolling_std(3) < 1},
                  quality={"HIGH": x > 100.0}, description="Width.")
not_a_set = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Iterator[Path]:
    """A folder with a module of one's own and its input."""
    (tmp_path / "own_sets.py").write_text(MODULE)
    rows = pl.DataFrame(
        {
            "sensor_id": ["a", "b"] * 50,
            "ts_ns": START_NS + np.arange(100) * MINUTE_NS,
            "x": np.random.default_rng(3).standard_normal(100).cumsum(),
        }
    )
    rows.write_csv(tmp_path / "ticks.csv")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_sets", None)


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == code, result.output
    return result.output


def compute(output: str = "wide.parquet") -> str:
    return run("compute", "own_sets:wide", "--input", "ticks=ticks.csv", "--output", output)


def test_help_shows_examples_of_each_command():
    assert "riffle backfill market --input" in run("backfill", "--help")
    assert "riffle describe my_features:wide" in run("describe", "--help")
    for name in ("sets", "describe", "compute", "backfill", "diff", "demo"):
        assert name in run("--help")


def test_sets_are_listed_for_people_and_for_programs():
    assert "market_lab" in run("sets")
    listed = {each["name"]: each for each in json.loads(run("sets", "--json"))}
    assert listed["market"]["version"] == "fs_v1"
    assert listed["market"]["streams"] == ["bars", "news"]
    assert "vol_20" in listed["market"]["features"]


def test_a_set_is_described():
    said = run("describe", "own_sets:wide")
    assert "ticks.x.rolling_mean(3 rows)" in said
    assert "mm" in said
    assert "3 rows" in said
    assert "HIGH" in said
    assert "Width." in said


@pytest.mark.parametrize("name", ["market", "waveform", "machine", "asset", "market_lab"])
def test_each_shipped_set_is_described(name):
    said = run("describe", name)
    for feature in named_set(name).feature_exprs:
        assert feature[:12] in said


def test_compute_writes_vectors_and_the_account_of_rows(folder):
    with (folder / "ticks.csv").open("a") as file:
        file.write(f"a,{START_NS + 200 * MINUTE_NS},many\n")
    said = compute()
    assert "100 vectors in wide.parquet" in said
    assert "dead letters: 1 wrong_type" in said
    table = pq.read_table("wide.parquet")
    assert table["mean_3"].null_count == 4
    assert table.schema.field("calm").type == pa.bool_()
    assert not list(folder.rglob("*.aside"))


def test_compute_of_nothing_has_the_columns_of_vectors(folder):
    (folder / "ticks.csv").write_text("sensor_id,ts_ns,x\n")
    assert "0 vectors" in compute()
    assert pq.read_table("wide.parquet").schema.names[0] == "sensor_id"


def test_equal_datasets_are_equal():
    compute("a.parquet")
    compute("b.parquet")
    assert "equal: 100 final vectors of 2 features" in run("diff", "a.parquet", "b.parquet")


def changed(**columns: pa.Array) -> None:
    table = pq.read_table("a.parquet")
    for name, values in columns.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), values)
    pq.write_table(table, "b.parquet")


def test_a_difference_of_one_bit_is_found_and_shown():
    compute("a.parquet")
    means = pq.read_table("a.parquet")["mean_3"].to_pylist()
    value = means[20]
    means[20] = float(np.nextafter(value, np.inf))
    changed(mean_3=pa.array(means))
    said = run("diff", "a.parquet", "b.parquet", code=1)
    assert "1 vectors differ, 99 are the same" in said
    assert "mean_3" in said
    assert repr(value) in said


def test_zeros_of_other_sign_nulls_flags_and_lists_are_told_apart():
    compute("a.parquet")
    zeros = [0.0] * 99 + [-0.0]
    changed(mean_3=pa.array([0.0] * 100))
    pq.write_table(pq.read_table("b.parquet"), "a.parquet")
    changed(mean_3=pa.array(zeros))
    assert "1 vectors differ" in run("diff", "a.parquet", "b.parquet", code=1)
    changed(mean_3=pa.array([None, *zeros[1:-1], 0.0]))
    assert "null" in run("diff", "a.parquet", "b.parquet", code=1)
    calm = pq.read_table("a.parquet")["calm"].to_pylist()
    changed(calm=pa.array([*calm[:-1], not calm[-1]]))
    assert "calm" in run("diff", "a.parquet", "b.parquet", code=1)
    changed(quality=pa.array([[]] * 99 + [["HIGH"]], pa.list_(pa.string())))
    assert "quality" in run("diff", "a.parquet", "b.parquet", code=1)


def test_what_exists_on_one_side_only_is_shown():
    compute("a.parquet")
    pq.write_table(pq.read_table("a.parquet")[:-2], "b.parquet")
    said = run("diff", "a.parquet", "b.parquet", code=1)
    assert "Only in a.parquet: 2" in said
    assert "2 only on the left" in said


def test_provisional_vectors_are_not_compared():
    compute("a.parquet")
    table = pq.read_table("a.parquet")
    changed(final=pa.array([False] * 3 + [True] * 97))
    pq.write_table(table[3:], "c.parquet")
    assert "equal: 97" in run("diff", "b.parquet", "c.parquet")


def test_a_vector_that_is_there_twice_is_refused():
    compute("a.parquet")
    table = pq.read_table("a.parquet")
    pq.write_table(pa.concat_tables([table, table[:1]]), "b.parquet")
    assert "must have each vector once" in run("diff", "a.parquet", "b.parquet", code=2)
    pq.write_table(table.drop_columns(["mean_3"]), "b.parquet")
    assert "must have the same columns" in run("diff", "a.parquet", "b.parquet", code=2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["describe", "wide"], "must be one of"),
        (["describe", "own_sets:high"], "found nothing of that name"),
        (["describe", "no_such_module:x"], "must be importable from"),
        (["compute", "own_sets:wide", "-i", "ticks=gone.csv", "-o", "x.parquet"], "gone.csv"),
        (["backfill", "own_sets:wide", "-i", "ticks", "-o", "gold"], "must be STREAM=PATH"),
        (["diff", "gone", "gone"], "found nothing there"),
    ],
)
def test_errors_are_said_in_words_without_a_traceback(arguments, message):
    said = run(*arguments, code=2)
    assert message in said.replace("\n", " ")
    assert "Traceback" not in said


def test_a_name_of_something_else_is_refused():
    with pytest.raises(UnknownSetError, match=r"found a int; the module has \['wide'\]"):
        named_set("own_sets:not_a_set")


def test_a_backfill_by_hand_needs_its_settings(monkeypatch):
    monkeypatch.setenv("RIFFLE_BATCH_ROWS", "0")
    with pytest.raises(SettingsError, match=r"(?s)RIFFLE_OUTPUT: .* found none.*BATCH_ROWS.*'0'"):
        backfill_settings()
    with pytest.raises(SettingsError, match="the environment must say what to do"):
        _ = dataflows.backfill.flow
    with pytest.raises(AttributeError, match="no attribute 'flows'"):
        _ = dataflows.backfill.flows


def test_settings_survive_the_environment(monkeypatch):
    settings = BackfillSettings(
        feature_set="a:b", inputs=("x=1 2,3", "y=4"), output=Path("gold"), job="j", by_files=True
    )
    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)
    assert backfill_settings() == settings


def test_the_flow_runs_by_bytewax_itself(folder):
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "RIFFLE_FEATURE_SET": "own_sets:wide",
        "RIFFLE_INPUTS": "ticks=ticks.csv",
        "RIFFLE_OUTPUT": "gold",
        "RIFFLE_JOB": "by-hand",
    }
    command = [sys.executable, "-m", "bytewax.run", "dataflows.backfill"]
    subprocess.run(command, env=environment, cwd=folder, check=True)
    compute()
    assert "equal: 100" in run("diff", "wide.parquet", "gold/feature_set=wide/version=v1")


def test_a_backfill_by_command_ends_with_its_account():
    arguments = ["backfill", "own_sets:wide", "-i", "ticks=ticks.csv", "-o", "gold"]
    said = run(*arguments)
    assert "done by one process" in said
    assert "Account of rows" in said
    assert "must be empty, found vectors of another run" in run(*arguments, code=2).replace(
        "\n", " "
    )
