"""`riffle replay`: a range of a set's vectors, from the topics of a flow into any sink."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console

from dataflows.commands.backfill import row_bar, show_account
from dataflows.live_plan import plan_flow
from dataflows.live_settings import LiveSettings
from dataflows.log_inputs import LogInput, Range
from dataflows.named_sets import named_set
from dataflows.recompute import recomputing
from dataflows.replay import Destination, settings_of_set, target_of
from dataflows.settings import SettingsError
from dataflows.times import parse_time_ns
from operators.durations import parse_duration_ns


@dataclass(frozen=True)
class Request:
    """What to replay.

    Attributes:
        name: of the set, as on the command line.
        span: the range.
        history_ns: how long before it to begin, if not as the set needs.
        destination: where to.
    """

    name: str
    span: Range
    destination: Destination
    history_ns: int | None = None


def parse_span(from_: str, to: str) -> Range:
    """Reads a range from the command line.

    Raises:
        SettingsError: when it holds no time.
    """
    span = Range(parse_time_ns(from_, "--from"), parse_time_ns(to, "--to"))
    if span.from_ns >= span.to_ns:
        msg = f"--from must be before --to, found {spelled(span.from_ns)} and {spelled(span.to_ns)}"
        raise SettingsError(msg)
    return span


def parse_history(text: str | None) -> int | None:
    """Reads a span of history from the command line.

    Raises:
        SettingsError: when it is none.
    """
    if text is None:
        return None
    try:
        return parse_duration_ns(text)
    except ValueError as error:
        msg = f"--history: {error}"
        raise SettingsError(msg) from None


def spelled(at_ns: int) -> str:
    """Spells a time as RFC 3339.

    >>> spelled(1_500_000_000)
    '1970-01-01T00:00:01.5Z'
    """
    text = str(np.datetime64(at_ns, "ns"))
    return text.rstrip("0").rstrip(".") + "Z"


def show_limits(
    console: Console, inputs: Sequence[LogInput], span: Range, final_until_ns: int
) -> None:
    """Says what of the range is not final yet, and which rows before it are gone."""
    if final_until_ns < span.to_ns:
        console.print(
            f"[yellow]final until[/yellow] {spelled(max(final_until_ns, span.from_ns))}: vectors "
            "after that may still change, and were left out"
        )
    clipped = [each for each in inputs if each.clipped]
    if clipped:
        some = ", ".join(
            f"{'/'.join(i.partition)} begins at offset {i.start:,}" for i in clipped[:4]
        )
        console.print(
            f"[yellow]note[/yellow]: {len(clipped)} of {len(inputs)} partitions have lost their "
            f"beginning ({some}); vectors whose windows reach back there lack rows"
        )


def run(console: Console, settings: LiveSettings, request: Request) -> int:
    """Replays a range and prints the account of rows; gives the number of vectors."""
    feature_set = named_set(request.name)
    plan = plan_flow(settings_of_set(settings, request.name, feature_set))
    taken = {
        name for each in settings.sets.values() for name in (each.topic, each.provisional_topic)
    }
    target = target_of(plan, feature_set, request.destination, taken)
    with (
        row_bar(console, "replay", "messages") as bar,
        recomputing(plan, feature_set, request.span, request.history_ns, bar.show) as (
            computation,
            inputs,
        ),
    ):
        for vectors in computation.vectors():
            target.write(vectors)
        target.finish()
    show_account(console, computation.account(), dict(computation.dead))
    show_limits(console, inputs, request.span, computation.final_until_ns)
    console.print(f"[green]done[/green]: {computation.given:,} vectors in {request.destination}")
    return computation.given
