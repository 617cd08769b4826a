"""The files of an input: a file, or a folder and all below it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

from operators.decode import RefusedInputError
from operators.streams import Stream
from sources.csv import CsvFile
from sources.jsonl import JsonlFile
from sources.parquet import ParquetFile
from sources.rows import BLOCK_BYTES, RawFile

SUFFIXES = (".parquet", ".csv", ".jsonl")
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class Input(Protocol):
    """What is read as one partition: a file, or a slice of a table."""

    @property
    def name(self) -> str:
        """The name of its partition."""

    @property
    def where(self) -> str:
        """What messages call it; no other input of the stream is called so."""

    @property
    def constants(self) -> dict[str, str]:
        """Columns that all its rows have beside their own."""

    @property
    def counted(self) -> str:
        """What its size counts."""

    def size(self) -> int:
        """By which a reader that resumes notices a change."""

    def open(self, stream: Stream, block_bytes: int = BLOCK_BYTES) -> RawFile:
        """Opens it for the rows of a stream."""


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of an input.

    Attributes:
        path: where it is.
        name: its path below the input; the name of its partition.
    """

    path: Path
    name: str

    @property
    def where(self) -> str:
        """What messages call it."""
        return str(self.path)

    @property
    def counted(self) -> str:
        """What its size counts."""
        return "bytes"

    def size(self) -> int:
        """How large it is."""
        return self.path.stat().st_size

    def open(self, stream: Stream, block_bytes: int = BLOCK_BYTES) -> RawFile:
        """Opens it for the rows of a stream."""
        suffix = _checked(self).path.suffix
        if suffix == ".parquet":
            labels = [stream.entity] if stream.series is None else [stream.entity, stream.series]
            return ParquetFile(self.path, labels, block_bytes)
        if suffix == ".csv":
            return CsvFile(self.path, block_bytes)
        return JsonlFile(self.path, stream, block_bytes)

    @property
    def constants(self) -> dict[str, str]:
        """Columns that folders named ``column=value`` give to all its rows.

        >>> InputFile(Path("x"), "instrument_id=BTC%2FUSD/2024.parquet").constants
        {'instrument_id': 'BTC/USD'}
        """
        pairs = [part.split("=", 1) for part in Path(self.name).parts[:-1] if "=" in part]
        return {name: unquote(value) for name, value in pairs if value != HIVE_NULL}


def list_files(root: Path) -> list[InputFile]:
    """The files of an input, in the order of their names.

    Names that begin with ``_`` or ``.`` are bookkeeping of the programs that wrote the folder, and
    left out.

    Raises:
        RefusedInputError: when there is none, or one of another format.
    """
    if root.is_file():
        return [_checked(InputFile(root, root.name))]
    if not root.is_dir():
        msg = f"{root}: an input must be a file or folder, found neither"
        raise RefusedInputError(msg)
    found = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not any(part.startswith(("_", ".")) for part in parts):
            found.append(_checked(InputFile(path, "/".join(parts))))
    if not found:
        msg = f"{root}: a folder must hold {_formats()} files, found none"
        raise RefusedInputError(msg)
    return found


def _checked(file: InputFile) -> InputFile:
    if file.path.suffix not in SUFFIXES:
        found = file.path.suffix or "no suffix"
        msg = (
            f"{file.path}: the format of an input must be {_formats()}, found {found}; "
            "rename or convert it"
        )
        raise RefusedInputError(msg)
    return file


def _formats() -> str:
    return f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
