"""What Arrow messages would unfold to: a few kilobytes can say gigabytes.

Compressed bodies, texts and lists that rows share, and lists of nulls take next to nothing until
they are read. The size of a message says what it may cost only without them.
"""

from __future__ import annotations

import struct

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

MOST_UNFOLDED = 64
"""Bytes of texts for each byte of a message: labels of the longest, by codes of one byte."""
LEAST_SAMPLE_BYTES = 1
"""A message cannot hold more samples than this leaves room for."""

# Where Arrow's own description of its messages (Message.fbs) puts what is asked for here.
_HEADER_KIND, _HEADER, _BATCH_OF_DICTIONARY, _COMPRESSION = 1, 2, 1, 3
_DICTIONARY, _BATCH = 2, 3


def is_compressed(value: bytes) -> bool:
    """Whether any batch of an IPC stream is compressed, told without unfolding it.

    Raises:
        pa.ArrowException: when it is no IPC stream.
    """
    reader = pa.ipc.MessageReader.open_stream(pa.py_buffer(value))
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return False
        if _says_compressed(message.metadata.to_pybytes()):
            return True


def _says_compressed(metadata: bytes) -> bool:
    try:
        root = struct.unpack_from("<I", metadata)[0]
        kind_at = _field(metadata, root, _HEADER_KIND)
        kind = metadata[kind_at] if kind_at else 0
        if kind not in {_DICTIONARY, _BATCH}:
            return False
        batch = _table(metadata, root, _HEADER)
        if kind == _DICTIONARY:
            batch = _table(metadata, batch, _BATCH_OF_DICTIONARY)
        return _field(metadata, batch, _COMPRESSION) != 0
    except (struct.error, IndexError) as error:
        msg = f"a batch must say what it holds, got {error}"
        raise pa.ArrowInvalid(msg) from None


def _field(metadata: bytes, table: int, number: int) -> int:
    """Where a field of a flatbuffer's table stands; 0 for one that is left out."""
    offsets = table - struct.unpack_from("<i", metadata, table)[0]
    size = struct.unpack_from("<H", metadata, offsets)[0]
    at = 4 + 2 * number
    if at >= size:
        return 0
    offset = struct.unpack_from("<H", metadata, offsets + at)[0]
    return table + offset if offset else 0


def _table(metadata: bytes, table: int, number: int) -> int:
    """Where a table within a table stands."""
    at = _field(metadata, table, number)
    return int(at + struct.unpack_from("<I", metadata, at)[0])


def unfolds_beyond(table: pa.Table, size: int) -> str | None:
    """Which column of a message of some size would unfold to more than it may; None for none."""
    for name in table.column_names:
        for chunk in table.column(name).chunks:
            samples, text = _unfolded(chunk)
            if samples * LEAST_SAMPLE_BYTES > size:
                return f"{samples} samples in `{name}` in {size} bytes"
            if text > MOST_UNFOLDED * size:
                return f"{text} bytes of text in `{name}` in {size} bytes"
    return None


def _unfolded(array: pa.Array) -> tuple[int, int]:
    """Samples of lists, and bytes of texts, that the rows of a column hold together."""
    kind, types = array.type, pa.types
    if types.is_fixed_size_list(kind):
        return len(array) * int(kind.list_size), 0
    if (
        types.is_list(kind)
        or types.is_large_list(kind)
        or types.is_list_view(kind)
        or types.is_large_list_view(kind)
    ):
        return _total(pc.list_value_length(array)), 0
    if types.is_dictionary(kind) and _has_length(kind.value_type):
        return 0, _total(pc.take(pc.binary_length(array.dictionary), array.indices))
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return 0, _total(_lengths_of_views(array))
    return 0, 0


def _has_length(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _lengths_of_views(array: pa.Array) -> pa.Array:
    """The lengths of texts that are views: the first of the four words of each."""
    words = array.buffers()[1]
    lengths = np.frombuffer(words, np.int32)[4 * array.offset :: 4][: len(array)]
    return pa.array(lengths, mask=np.asarray(pc.is_null(array)))


def _total(lengths: pa.Array) -> int:
    # As 64 bits: lengths are of 32, and so would be their sum.
    return int(pc.sum(lengths.cast(pa.int64())).as_py() or 0)
