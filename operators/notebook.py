"""A feature set over frames, in one process and without Bytewax: for notebooks and tests."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace

import polars as pl
import pyarrow as pa

from operators.decode import decode
from operators.engine import Engine, Refused
from operators.feature_set import FeatureSet
from operators.frames import schema, vectors_table
from operators.plan import compile_plan


class RefusedRowsWarning(UserWarning):
    """Some rows of a frame were not used."""


def compute(feature_set: FeatureSet, frames: Mapping[str, pl.DataFrame]) -> pl.DataFrame:
    """The final vectors of whole frames; see :meth:`FeatureSet.compute`."""
    names = {stream.name for stream in feature_set.streams}
    if frames.keys() != names:
        msg = (
            f"feature set `{feature_set.name}`: must be given a frame for each of its streams "
            f"{sorted(names)}, got {sorted(frames)}"
        )
        raise TypeError(msg)
    engine = Engine(compile_plan(feature_set), [(name, "frame") for name in sorted(frames)])
    tables: list[pa.Table] = []
    for stream in feature_set.streams:
        batch, dead = decode(stream, frames[stream.name])
        output = engine.process(replace(batch, end=True))
        if len(dead):
            _warn(stream.name, len(dead), dead.messages[0])
        for refused in output.refused:
            _warn_refused(refused)
        if output.vectors is not None:
            tables.append(vectors_table(feature_set, output.vectors))
    target = schema(feature_set)
    table = pa.concat_tables([t.cast(target) for t in tables]) if tables else target.empty_table()
    frame = pl.DataFrame(pl.from_arrow(table))
    keys = [feature_set.entity, *([feature_set.series] if feature_set.series else []), "ts"]
    return frame.sort(keys)


def _warn_refused(refused: Refused) -> None:
    _warn(refused.batch.stream, len(refused.batch), refused.reason)


def _warn(stream: str, rows: int, reason: str) -> None:
    text = f"stream `{stream}`: {rows} rows were not used; the first: {reason}"
    warnings.warn(text, RefusedRowsWarning, stacklevel=5)
