"""Reads vectors back: a file or a whole dataset, in one canonical order."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

NOT_KEY = frozenset({"quality", "coverage", "known_at", "n_rows", "final"})
"""Columns of every vector behind its features; none can be the entity or series."""


class UnreadableError(ValueError):
    """What holds no vectors."""


def vector_files(path: Path) -> list[Path]:
    """Lists the Parquet files of a dataset, or the one file that it is; hidden ones are left out.

    Raises:
        UnreadableError: when there are none.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        msg = f"{path}: must be a Parquet file or a dataset folder, found nothing there"
        raise UnreadableError(msg)
    files = [
        file
        for file in sorted(path.rglob("*.parquet"))
        if not any(part[0] in "._" for part in file.relative_to(path).parts)
    ]
    if not files:
        msg = f"{path}: must hold `.parquet` files of vectors, found none"
        raise UnreadableError(msg)
    return files


def read_vectors(path: Path) -> pa.Table:
    """Reads vectors, sorted by their identity: entity, series and time, set and version.

    Args:
        path: a file or a dataset folder.

    Raises:
        UnreadableError: when there are none, or they are of more than one set or version.
    """
    tables = [pq.ParquetFile(file).read() for file in vector_files(path)]
    first = tables[0]
    for table in tables[1:]:
        if table.schema.names != first.schema.names:
            msg = (
                f"{path}: must hold vectors of one set and version, found columns "
                f"{first.schema.names} and {table.schema.names}; name the folder of one version"
            )
            raise UnreadableError(msg)
    table = pa.concat_tables([t.replace_schema_metadata(first.schema.metadata) for t in tables])
    lacking = {"ts", *NOT_KEY} - set(table.schema.names)
    if lacking:
        msg = f"{path}: must have the columns of vectors, lacks {sorted(lacking)}"
        raise UnreadableError(msg)
    return table.sort_by([(name, "ascending") for name in identity(table)])


def identity(table: pa.Table) -> list[str]:
    """Gives the columns that tell vectors apart: all up to the version."""
    names = table.schema.names
    return names[: names.index("version") + 1]


def features(table: pa.Table) -> list[str]:
    """Gives the columns of features."""
    names = table.schema.names
    return names[names.index("version") + 1 : names.index("quality")]
