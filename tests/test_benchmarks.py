"""The benchmarks run, and whatever they compare gives the same vectors; times are not judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import columns, contest, memory, run, workload


@pytest.mark.parametrize("part", ["columns", "parquet", "state", "small", "memory"])
def test_a_quick_run_checks_its_outputs_and_writes_what_it_found(part: str, tmp_path: Path) -> None:
    run.main(["--quick", "--only", part, "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    told = json.loads(path.read_text(encoding="utf-8"))
    assert told["lines"]
    assert told["machine"]["numba"]


@pytest.mark.parametrize("part", ["kafka", "latency"])
def test_a_quick_run_over_kafka_loses_nothing(
    part: str, kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_TEST_KAFKA", kafka)
    run.main(["--quick", "--only", part, "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    assert json.loads(path.read_text(encoding="utf-8"))["lines"]


def test_a_quick_run_over_postgres_writes_the_rows_that_a_copy_does(
    postgres: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_TEST_POSTGRES", postgres)
    run.main(["--quick", "--only", "tables", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    assert len(json.loads(path.read_text(encoding="utf-8"))["lines"]) == 2


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_quick_run_over_online_stores_serves_what_push_does(
    redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIFFLE_TEST_REDIS", redis)
    run.main(["--quick", "--only", "online", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    assert len(json.loads(path.read_text(encoding="utf-8"))["lines"]) == 2


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_quick_run_over_three_places_finds_the_same_in_all(
    kafka: str, postgres: str, redis: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, address in (("KAFKA", kafka), ("POSTGRES", postgres), ("REDIS", redis)):
        monkeypatch.setenv(f"RIFFLE_TEST_{name}", address)
    run.main(["--quick", "--only", "places", "--results", str(tmp_path)])
    (path,) = tmp_path.glob("*.json")
    assert len(json.loads(path.read_text(encoding="utf-8"))["lines"]) == 1


def test_outputs_that_differ_are_refused_before_anything_is_timed() -> None:
    contenders = [
        contest.Contender(
            "some", "benchmarks.columns:PolarsJob", {"count": count, "keys": 2}, count
        )
        for count in (600, 602)
    ]
    with pytest.raises(contest.WrongOutputError, match="must give the same"):
        contest.contest(contenders, 1)


def test_a_difference_is_told_in_units_of_the_scale() -> None:
    wanted = columns.PolarsJob(600, 2)
    wanted.run()
    vectors = wanted.outputs()
    assert workload.difference(vectors, vectors) == 0.0
    other = {**vectors, "kurtosis": vectors["kurtosis"] + 1e-6}
    assert workload.difference(other, vectors) == pytest.approx(1e-6 / workload.WINDOW, rel=1e-3)
    nulls = {**vectors, "mean": np.zeros(600)}
    assert workload.difference(nulls, vectors) == float("inf")


def test_memory_is_drawn_as_bars() -> None:
    drawn = memory.plot([0.0, 50.0, 100.0], 3.0).splitlines()
    assert drawn[0].endswith("  █")
    assert drawn[-2].endswith(" ██")
