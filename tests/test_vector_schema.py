"""The published schemas are those of the declarations, and what is written conforms to them."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from feature_repo.sets import ALL
from operators.engine import Engine
from operators.plan import compile_plan
from sinks.vector_messages import VectorMessages, read_vectors_messages
from sinks.vector_schema import (
    FOLDER,
    documents,
    name_of,
    stream_schema,
    vector_schema,
    write_schemas,
)
from tests.driver import partitions_of
from tests.golden import fixed_batches

SETS = sorted(ALL)
STREAMS = {stream.name: stream for each in ALL.values() for stream in each.streams}
FORMATS = FormatChecker([])


@FORMATS.checks("date-time")
def is_time(text: object) -> bool:
    """RFC 3339, of which Python reads as many digits as it keeps."""
    if not isinstance(text, str):
        return True
    try:
        return datetime.fromisoformat(text).tzinfo is not None and "T" in text
    except ValueError:
        return False


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema, format_checker=FORMATS)


def published(name: str) -> Any:
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_the_published_files_are_those_of_the_declarations():
    written = {path.relative_to(FOLDER): path.read_text() for path in FOLDER.rglob("*.json")}
    assert written == dict(documents()), "run `python -m sinks.vector_schema`"


def test_files_of_what_is_no_more_are_removed(tmp_path: Path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "old.v1.valid.json").write_text("[]")
    write_schemas(tmp_path)
    found = {path.relative_to(tmp_path) for path in tmp_path.rglob("*.json")}
    assert found == {path for path, _ in documents()}


@pytest.mark.parametrize("name", SETS)
def test_valid_samples_pass_and_can_be_read(name):
    contract = name_of(ALL[name])
    samples = published(f"samples/{contract}.valid.json")
    for sample in samples:
        validator(published(f"{contract}.json")).validate(sample)
    values = [json.dumps(sample).encode() for sample in samples]
    assert read_vectors_messages(ALL[name], values).num_rows == len(samples)


@pytest.mark.parametrize("name", SETS)
def test_invalid_samples_fail_in_one_place_each(name):
    contract = name_of(ALL[name])
    checked = validator(published(f"{contract}.json"))
    for reason, sample in published(f"samples/{contract}.invalid.json").items():
        places = {tuple(error.absolute_path) for error in checked.iter_errors(sample)}
        assert len(places) == 1, reason


@pytest.mark.parametrize("name", SETS)
def test_the_vectors_of_every_shipped_set_conform(name):
    """Of real runs, final ones and provisional ones."""
    feature_set = ALL[name]
    batches = fixed_batches(feature_set)
    engine = Engine(compile_plan(feature_set), partitions_of(batches))
    messages, checked = VectorMessages(feature_set), validator(vector_schema(feature_set))
    seen = set()
    for number, batch in enumerate(batches):
        guess = engine.provisional() if number % 50 == 49 else None
        for vectors in (engine.process(batch).vectors, guess):
            if vectors is None:
                continue
            for value in messages.values(vectors)[:20]:
                vector = json.loads(value)
                checked.validate(vector)
                seen.add(vector["final"])
    assert True in seen


@pytest.mark.parametrize("name", sorted(STREAMS))
def test_the_contract_of_a_stream_takes_rows_and_refuses_what_is_none(name):
    stream = STREAMS[name]
    checked = validator(stream_schema(stream))
    time = "start_ts" if stream.start_stamped else "ts"
    row: dict[str, Any] = {stream.entity: "ACME", time: "2026-01-31T09:30:00Z", "more": 1}
    if stream.series:
        row[stream.series] = "1m"
    for field in stream.fields:
        row[field.name] = {"id": "x", "samples": [0.5], "number": 0.5}[field.kind]
    checked.validate(row)
    checked.validate({k: v for k, v in row.items() if k != time} | {f"{time}_ms": 5})
    for wrong in (
        {k: v for k, v in row.items() if k != time},
        {k: v for k, v in row.items() if k != stream.entity},
        row | {stream.entity: "a b"},
        row | {time: "yesterday"},
        row | {stream.fields[-1].name: True},
    ):
        assert not checked.is_valid(wrong)
