"""Which rows a value looks at, and how many there must have been."""

from __future__ import annotations

from dataclasses import dataclass

from operators.durations import show_duration


@dataclass(frozen=True, slots=True)
class WarmUp:
    """What must have been seen before a value is the one that any earlier start would give."""

    rows: int = 1
    span_ns: int = 0

    def then(self, rows: int, span_ns: int) -> WarmUp:
        """After this, a window of so many rows or so long a span."""
        return WarmUp(self.rows + rows, self.span_ns + span_ns)

    def both(self, other: WarmUp) -> WarmUp:
        """Enough for this and the other."""
        return WarmUp(max(self.rows, other.rows), max(self.span_ns, other.span_ns))

    def __str__(self) -> str:
        shown = [f"{self.rows} rows"] if self.rows > 1 else []
        shown += [show_duration(self.span_ns)] if self.span_ns else []
        return " and ".join(shown) or "none"


@dataclass(frozen=True, slots=True)
class Rows:
    """A window over a number of rows, the current one included."""

    rows: int

    def __str__(self) -> str:
        return f"{self.rows} rows"


@dataclass(frozen=True, slots=True)
class Span:
    """A window over (t - span, t]."""

    span_ns: int

    def __str__(self) -> str:
        return show_duration(self.span_ns)


@dataclass(frozen=True, slots=True)
class Whole:
    """The window of the feature set itself: its hop window, or the samples of its message."""

    def __str__(self) -> str:
        return "the set's window"


Window = Rows | Span | Whole
"""The rows that an aggregate is over."""
