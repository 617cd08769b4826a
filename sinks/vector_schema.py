"""The published contracts: JSON Schemas of vectors and of input rows, written from declarations.

``python -m sinks.vector_schema`` writes them and samples of each to `schemas/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

from feature_repo.sets import ALL
from operators.checks import LABEL
from operators.decode import TIME_UNITS
from operators.feature_set import FeatureSet
from operators.streams import Field, Stream

JsonObject: TypeAlias = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
FOLDER = Path(__file__).parents[1] / "schemas"

_KINDS = {"number": "number", "count": "integer", "flag": "boolean"}
_TIME: JsonObject = {"type": "string", "format": "date-time", "pattern": "Z$"}
_LABEL: JsonObject = {"type": "string", "pattern": f"^{LABEL.pattern}$"}


def name_of(feature_set: FeatureSet) -> str:
    """The name of a set's contract.

    >>> name_of(ALL["market"])
    'market.fs_v1'
    """
    return f"{feature_set.name}.{feature_set.version}"


def vector_schema(feature_set: FeatureSet) -> JsonObject:
    """The contract of a set's vectors as JSON: what :mod:`sinks.vector_messages` writes.

    >>> vector_schema(ALL["market"])["properties"]["ret_1"]["type"]
    ['number', 'null']
    """
    said = "Constant of every vector of this set."
    columns: JsonObject = {feature_set.entity: {**_LABEL, "description": "What the vector is of."}}
    if feature_set.series:
        columns[feature_set.series] = {**_LABEL, "description": "Which of its series."}
    for label, value in feature_set.labels.items():
        columns[label] = {"const": value, "description": said}
    columns["ts"] = {**_TIME, "description": "The instant as of which the vector is true."}
    columns["feature_set"] = {"const": feature_set.name, "description": said}
    columns["version"] = {"const": feature_set.version, "description": said}
    for name, expr in feature_set.feature_exprs.items():
        unit = "" if str(expr.unit) in {"", "1"} else f"; unit: {expr.unit}"
        columns[name] = {"type": [_KINDS[expr.kind], "null"], "description": expr.formula + unit}
    flags = [{"const": flag, "description": e.formula} for flag, e in feature_set.quality.items()]
    columns |= {
        "quality": {
            "type": "array",
            "items": {"oneOf": flags} if flags else False,
            "uniqueItems": True,
            "description": "The flags that are raised, in the order of their declaration.",
        },
        "coverage": {
            "type": "number",
            "minimum": 0,
            "maximum": 1,
            "description": "Share of the expected rows that are there.",
        },
        "known_at": {**_TIME, "description": "Greatest arrival of the rows that were seen."},
        "n_rows": {"type": "integer", "minimum": 0, "description": "How many rows were seen."},
        "final": {"type": "boolean", "description": "Whether the vector will never change."},
    }
    return {
        "$schema": DIALECT,
        "$id": f"urn:riffle:vectors:{name_of(feature_set)}",
        "title": f"Vectors of {feature_set.name}, version {feature_set.version}",
        "description": feature_set.description,
        "type": "object",
        "properties": columns,
        "required": list(columns),
        "additionalProperties": False,
    }


def stream_schema(stream: Stream) -> JsonObject:
    """The contract of a stream's rows as JSON: what sources read.

    What a schema cannot say is checked all the same: rules between fields, and how far a time may
    be from its arrival.
    """
    stem = "start_ts" if stream.start_stamped else "ts"
    labels = [stream.entity, *([stream.series] if stream.series else [])]
    columns: JsonObject = dict.fromkeys(labels, _LABEL)
    for suffix, unit_ns in TIME_UNITS.items():
        whole = {"type": "integer", "description": f"In units of {unit_ns} ns since 1970."}
        columns[stem + suffix] = (
            whole if suffix else {"anyOf": [{"type": "string", "format": "date-time"}, whole]}
        )
    columns |= {field.name: _field(field) for field in stream.fields}
    return {
        "$schema": DIALECT,
        "$id": f"urn:riffle:rows:{stream.name}",
        "title": f"Rows of {stream.name}",
        "type": "object",
        "properties": columns,
        "required": labels + [field.name for field in stream.fields if not field.nullable],
        "anyOf": [{"required": [stem + suffix]} for suffix in TIME_UNITS],
    }


def _field(field: Field) -> JsonObject:
    bounds = {"exclusiveMinimum": field.above, "minimum": field.least, "maximum": field.most}
    number = {"type": "number", **{k: v for k, v in bounds.items() if v is not None}}
    if field.kind == "samples":
        return {"type": "array", "items": number, "minItems": 1}
    types = ["string", "integer"] if field.kind == "id" else ["number"]
    said = number | {"type": types + ["null"] * field.nullable}
    return said if field.unit == "1" else {**said, "description": f"unit: {field.unit}"}


# -- samples ----------------------------------------------------------------------------------


def valid_samples(feature_set: FeatureSet) -> list[JsonObject]:
    """Vectors that conform: one with every feature, one with none of them, a provisional one."""
    full: JsonObject = {feature_set.entity: "ACME"}
    if feature_set.series:
        full[feature_set.series] = "1m"
    full |= feature_set.labels
    full |= {"ts": "2026-01-31T09:30:00Z"}
    full |= {"feature_set": feature_set.name, "version": feature_set.version}
    values = {"number": -0.125, "count": 3, "flag": True}
    exprs = feature_set.feature_exprs
    full |= {name: values[expr.kind] for name, expr in exprs.items()}
    full |= {"quality": [], "coverage": 1.0, "known_at": "2026-01-31T09:30:00.123456789Z"}
    full |= {"n_rows": 21, "final": True}
    empty = full | dict.fromkeys(exprs) | {"quality": list(feature_set.quality), "coverage": 0.0}
    return [full, empty, full | {"final": False}]


def invalid_samples(feature_set: FeatureSet) -> dict[str, JsonObject]:
    """Vectors that do not conform, by what is wrong with them."""
    full, *_ = valid_samples(feature_set)
    feature = next(iter(feature_set.features))
    return {
        "a feature is missing": {k: v for k, v in full.items() if k != feature},
        "a feature is text": full | {feature: "1.5"},
        "a column is not of the set": full | {"no_feature_of_this_set": 1.0},
        "the entity is missing": {k: v for k, v in full.items() if k != feature_set.entity},
        "the entity is empty": full | {feature_set.entity: ""},
        "the version is another": full | {"version": "another"},
        "the time has no zone": full | {"ts": "2026-01-31T09:30:00"},
        "the time is a number": full | {"ts": 1_769_851_800_000},
        "a flag is unknown": full | {"quality": ["NO_FLAG_OF_THIS_SET"]},
        "the coverage is above one": full | {"coverage": 1.5},
        "the number of rows is no whole number": full | {"n_rows": 0.5},
        "final is text": full | {"final": "true"},
    }


def documents() -> Iterator[tuple[Path, str]]:
    """Every file of the contracts, by its path in the folder, and its content."""
    streams: dict[str, Stream] = {}
    for feature_set in ALL.values():
        name = name_of(feature_set)
        yield Path(f"{name}.json"), _text(vector_schema(feature_set))
        yield Path("samples") / f"{name}.valid.json", _text(valid_samples(feature_set))
        yield Path("samples") / f"{name}.invalid.json", _text(invalid_samples(feature_set))
        streams |= {stream.name: stream for stream in feature_set.streams}
    for name, stream in sorted(streams.items()):
        yield Path("streams") / f"{name}.json", _text(stream_schema(stream))


def _text(document: JsonObject | list[JsonObject]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def write_schemas(folder: Path = FOLDER) -> None:
    """Writes the contracts, and removes those of sets and streams that are no more."""
    wanted = {folder / path: text for path, text in documents()}
    for path in set(folder.rglob("*.json")) - wanted.keys():
        path.unlink()
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_schemas()
