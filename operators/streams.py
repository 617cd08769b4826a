"""Streams: what rows come in, what tells them apart, and which of them are malformed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from operators.expr import Column, Elapsed, OffGrid, SeriesSeconds
from operators.instants import Derived, Instants, digest
from operators.units import Unit

YEAR_1990_NS = 631_152_000_000_000_000
YEAR_2100_NS = 4_102_444_800_000_000_000


@dataclass(frozen=True, slots=True)
class Field:
    """A column of a stream's rows.

    Args:
        name: as in the input.
        unit: its unit of measure, by name.
        kind: ``number`` (a finite float), ``samples`` (a list of them), ``id`` (a string or whole
            number that identifies, orders or labels) .
        nullable: whether a row may leave it out.
        above: values must be greater than this.
        least, most: values must be at least, at most this.
    """

    name: str
    unit: str = "1"
    kind: str = "number"
    nullable: bool = False
    above: float | None = None
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True, slots=True)
class NotBelow:
    """A row's rule: one field must not be below another."""

    upper: str
    lower: str


class _Readable(Instants):
    """Rows with columns that expressions can read."""

    fields: tuple[Field, ...]

    def col(self, name: str) -> Column:
        """A column of the rows.

        Raises:
            KeyError: naming the columns there are, when there is none of that name.
        """
        for field in self.fields:
            if field.name == name and field.kind != "id":
                return Column(self, name, Unit.named(field.unit), field.kind)
        readable = [field.name for field in self.fields if field.kind != "id"]
        msg = f"stream `{self.name}`: no column {name!r} to compute with; there are {readable}"
        raise KeyError(msg)

    def elapsed(self, rows: int = 1) -> Elapsed:
        """Seconds since so many rows before; 0 rows of another stream: since its last row."""
        return Elapsed(self, rows)


@dataclass(frozen=True, eq=False)
class Stream(_Readable):
    """The declaration of an input stream.

    Attributes:
        name: as on the command line and in topics.
        entity: column with the entity's key.
        fields: the other columns, but time and series.
        series: column that tells the entity's series apart (timeframe, channel), if any.
        series_is_duration: whether its values are durations such as ``1h``.
        identity: id columns that, with entity, series and time, identify a row; None for a stream
            without identity, whose rows are all kept.
        sequence: id column that orders rows of one instant.
        corrections: whether a row of the same identity and other bytes replaces the earlier one;
            where not, it is a dead letter.
        max_delay: a row whose arrival is more than this after its time is late.
        rules: what must hold between fields.
        rate_hz: nominal sampling rate of ``value`` streams on a grid.
        jitter: share of the sampling period by which a sample may be off its grid.
        rate_field: field of a message with its sampling rate, for streams with ``samples``.
        start_stamped: input column ``start_ts`` stamps the start of a bar or message, not its end.
    """

    name: str
    entity: str
    fields: tuple[Field, ...]
    series: str | None = None
    series_is_duration: bool = False
    identity: tuple[str, ...] | None = ()
    sequence: str | None = None
    corrections: bool = True
    max_delay_ns: int = 0
    rules: tuple[NotBelow, ...] = ()
    rate_hz: float | None = None
    jitter: float = 0.1
    rate_field: str | None = None
    start_stamped: bool = False
    earliest_ns: int = YEAR_1990_NS
    latest_ns: int = YEAR_2100_NS
    future_skew_ns: int = 5_000_000_000

    def __post_init__(self) -> None:
        names = [field.name for field in self.fields]
        for column in (*(self.identity or ()), *([self.sequence] if self.sequence else ())):
            if column not in names:
                msg = f"stream `{self.name}`: identity and sequence must be fields, got {column!r}"
                raise ValueError(msg)
        doubled = {name for name in names if names.count(name) > 1}
        if doubled:
            msg = f"stream `{self.name}`: fields must have distinct names, got {sorted(doubled)}"
            raise ValueError(msg)

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the rows: everything that decides which there are and in what order."""
        return digest(
            "stream", self.name, self.entity, self.series, self.identity, self.sequence,
            self.corrections, self.max_delay_ns, self.rate_hz, self.jitter,
        )  # fmt: skip

    @property
    def samples(self) -> Field | None:
        """The field with a message's samples, if rows are messages."""
        return next((field for field in self.fields if field.kind == "samples"), None)

    def field(self, name: str) -> Field:
        """A field by its name."""
        return next(field for field in self.fields if field.name == name)

    def series_seconds(self) -> SeriesSeconds:
        """The duration that the series' name spells, in seconds."""
        if not self.series_is_duration:
            msg = f"stream `{self.name}`: its series must be durations, which it does not declare"
            raise TypeError(msg)
        return SeriesSeconds(self)

    def off_grid(self) -> OffGrid:
        """Seconds of a row's time past the last multiple of its series' duration."""
        self.series_seconds()
        return OffGrid(self)

    def one_series(self, label: str) -> OneSeries:
        """Only the rows of one series, as rows of the entity that other sets can read."""
        return OneSeries(self, label)


@dataclass(frozen=True, eq=False)
class OneSeries(_Readable, Derived):
    """The rows of one series of a stream, seen as rows of the entity."""

    source: Stream
    label: str

    def __post_init__(self) -> None:
        if self.source.series is None:
            msg = f"stream `{self.source.name}` has no series to choose {self.label!r} from"
            raise ValueError(msg)

    @property
    def name(self) -> str:  # type: ignore[override]
        """What messages call it."""
        return f"{self.source.name}[{self.source.series}={self.label}]"

    @property
    def fields(self) -> tuple[Field, ...]:  # type: ignore[override]
        """Those of the stream."""
        return self.source.fields

    @cached_property
    def fingerprint(self) -> str:
        """Identity of the rows."""
        return digest("one_series", self.source.fingerprint, self.label)


def input_streams(instants: Iterable[Instants]) -> list[Stream]:
    """The streams that rows at these instants are made of, by name."""
    found: dict[str, Stream] = {}
    for item in instants:
        source: Instants = item
        while isinstance(source, Derived):
            source = source.source
        assert isinstance(source, Stream)
        found.setdefault(source.name, source)
    return [found[name] for name in sorted(found)]
