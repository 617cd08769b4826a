"""JSON objects as the rows of a stream: what their values mean, and what is wrong with others.

Lines of a file and messages of a log are read by the same code, so that the same bytes are the same
row, or are refused for the same reason.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec
import numpy as np
import pyarrow as pa

from operators.checks import KINDS, show
from operators.dead_letters import Reason
from operators.streams import Stream

NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)
TYPES: dict[str, Any] = {
    "number": float | None,
    "id": int | str | None,
    "samples": list[float] | None,
}


class JsonRecords:
    """Takes objects apart into the columns of a stream.

    Args:
        stream: what they are rows of.
        what: what messages call an object's text: a line, a message.
    """

    def __init__(self, stream: Stream, what: str) -> None:
        self._kinds = {field.name: field.kind for field in stream.fields}
        self._what = what
        self._decoders: dict[tuple[str, ...], msgspec.json.Decoder[Any]] = {}

    def kind(self, column: str) -> str:
        """The kind of a column's values; labels and times are like ids."""
        return self._kinds.get(column, "id")

    def decoder(self, columns: Sequence[str]) -> msgspec.json.Decoder[Any]:
        """Decodes objects into records whose fields ``f0``, ``f1``, ... are some columns."""
        names = tuple(columns)
        if names not in self._decoders:
            record = msgspec.defstruct(
                "Record",
                [(f"f{index}", TYPES[self.kind(name)], None) for index, name in enumerate(names)],
                rename={f"f{index}": name for index, name in enumerate(names)},
                gc=False,
            )
            self._decoders[names] = msgspec.json.Decoder(record)
        return self._decoders[names]

    def array(self, column: str, values: list[Any]) -> pa.Array:
        """The values of a column."""
        kind = self.kind(column)
        if kind == "number":
            return pa.array(values, pa.float64())
        if kind == "samples":
            return pa.array(values, pa.large_list(pa.float64()))
        for type_ in (pa.large_string(), pa.int64()):
            try:
                return pa.array(values, type_)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                continue
        # Numbers among texts: a text that spells a whole number is that number to the decoder.
        texts = [None if value is None else str(value) for value in values]
        return pa.array(texts, pa.large_string())

    def problem(self, text: bytes, columns: Sequence[str], error: Exception) -> tuple[Reason, str]:
        """What is wrong with a text that could not be decoded, given what the decoder said."""
        said = str(error)
        if type(error) is msgspec.DecodeError and "out of range" not in said:
            # A second look at what is no JSON at all would cost as much as twenty good texts.
            constant = _constant(text, said)
            return _not_finite(constant) if constant else self.malformed(error)
        return self._problem(text, columns) or self.malformed(error)

    def _problem(self, text: bytes, columns: Sequence[str]) -> tuple[Reason, str] | None:
        try:
            record = _loaded(text, _STRICT)
        except _DoubledKeyError as error:
            return twice_in_an_object(str(error))
        except _NotFiniteError as error:
            return _not_finite(str(error))
        except (ValueError, RecursionError) as error:
            return self.malformed(error)
        if not isinstance(record, dict):
            return self.malformed(show(record))
        for name in columns:
            value, kind = record.get(name), self.kind(name)
            if not _fits(value, kind):
                must = KINDS[kind] if name in self._kinds else "a text or whole number"
                return Reason.WRONG_TYPE, f"`{name}` must be {must}, got {show(value)}"
            if kind != "id" and not _finite(value):
                return Reason.NOT_FINITE, f"`{name}` must be finite, got {show(value)}"
        return None

    def malformed(self, found: object) -> tuple[Reason, str]:
        """Says that a text is no object."""
        said = f"a {self._what} must be a JSON object, got"
        return Reason.MALFORMED, f"{said}{'' if isinstance(found, str) else ':'} {found}"


def _not_finite(constant: str) -> tuple[Reason, str]:
    return Reason.NOT_FINITE, f"a number must be finite, got {constant}"


def _constant(text: bytes, said: str) -> str | None:
    """The number that JSON does not have at which the decoder says that it stopped, if it did."""
    if (stopped := _STOPPED.fullmatch(said)) is None:
        return None
    at = int(stopped[1])
    if text.startswith(b"Infinity", at):
        return "-Infinity" if text[at - 1 : at] == b"-" else "Infinity"
    return "NaN" if text.startswith(b"NaN", at) and text[at - 1 : at] != b"-" else None


def twice_in_an_object(key: str) -> tuple[Reason, str]:
    """Says that an object has a key twice."""
    return Reason.DUPLICATE_KEY, f"a key must stand once in an object, got {show(key)} twice"


def doubled_key(text: bytes) -> str | None:
    """The first key that an object in a text has twice; None if there is none, or it is no JSON."""
    try:
        _loaded(text, _DISTINCT)
    except _DoubledKeyError as error:
        return str(error)
    except (ValueError, RecursionError):
        return None  # the decoder says so better
    return None


class _NotFiniteError(ValueError):
    """A number that JSON does not have."""


class _DoubledKeyError(ValueError):
    """A key that an object has twice."""


def _no_json(constant: str) -> NoReturn:
    raise _NotFiniteError(constant)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        names = [name for name, _ in pairs]
        raise _DoubledKeyError(next(name for name in names if names.count(name) > 1))
    return record


_STOPPED = re.compile(r"JSON is malformed: invalid character \(byte (\d+)\)")
# To make one takes as long as to read a message with it.
_DISTINCT = json.JSONDecoder(object_pairs_hook=_distinct)
_STRICT = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_json)


def _loaded(text: bytes, decoder: json.JSONDecoder) -> Any:
    """What a text says; one that may be of another encoding than UTF-8 is read as that."""
    encoding = "utf-8" if text[:1] == b"{" and text[1:2] != b"\0" else json.detect_encoding(text)
    return decoder.decode(text.decode(encoding, "surrogatepass"))


def _finite(value: Any) -> bool:
    try:
        return bool(np.isfinite(np.array(0.0 if value is None else value, np.float64)).all())
    except OverflowError:
        return False


def _fits(value: Any, kind: str) -> bool:
    """Whether a value is of a kind."""
    if value is None:
        return True
    if kind == "samples":
        return isinstance(value, list) and all(
            item is not None and _fits(item, "number") for item in value
        )
    types = (int, float) if kind == "number" else (int, str)
    return isinstance(value, types) and not isinstance(value, bool)
