"""`riffle verify`: what topic, table and online store hold, beside what the inputs say."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataflows import live_state
from dataflows.commands.backfill import row_bar
from dataflows.commands.replay import show_limits, spelled
from dataflows.held_online import OnlineHeld, Served
from dataflows.held_table import TableHeld
from dataflows.held_topic import TopicHeld
from dataflows.live_context import database_of
from dataflows.live_plan import FlowPlan, plan_flow
from dataflows.live_settings import LiveSettings
from dataflows.log_inputs import Range
from dataflows.named_sets import named_set
from dataflows.recompute import recomputing
from dataflows.replay import settings_of_set
from dataflows.settings import SettingsError
from dataflows.verify import Compared, Held, Verified, verify
from operators.feature_set import FeatureSet
from sources.kafka_client import Offsets

SHOWN = 20
"""Findings that are printed."""


def run(console: Console, settings: LiveSettings, name: str, span: Range, *, as_json: bool) -> bool:
    """Compares a range with what is held of it, and prints the differences; gives whether none.

    Raises:
        SettingsError: when the flow does not have the set.
    """
    if name not in settings.sets:
        msg = f"{name}: must be a set of the flow, there are {sorted(settings.sets)}"
        raise SettingsError(msg)
    feature_set = named_set(name)
    plan = plan_flow(settings_of_set(settings, name, feature_set))
    span, starts = since(console, plan, settings, span, quiet=as_json)
    held, serving = places(settings, name, plan, feature_set)
    quiet = Console(stderr=True) if as_json else console
    with (
        row_bar(quiet, "verify", "messages") as bar,
        recomputing(plan, feature_set, span, None, bar.show, starts) as (computation, inputs),
    ):
        results, served = verify(feature_set, computation, held, span.from_ns, bar.show, serving)
    equal = all(r.equal for r in results) and all(s.equal for s in served)
    until_ns = max(computation.final_until_ns, span.from_ns)
    if as_json:
        console.print_json(told(feature_set, Range(span.from_ns, until_ns), results, served))
        return equal
    for result in results:
        show(console, feature_set, result)
    for each in served:
        show_served(console, feature_set, each)
    show_limits(console, inputs, span, computation.final_until_ns)
    return equal


def places(
    settings: LiveSettings, name: str, plan: FlowPlan, feature_set: FeatureSet
) -> tuple[list[Held], list[OnlineHeld]]:
    """Where a flow writes a set's vectors: all of them, and the newest ones."""
    sinks = settings.sets[name].sinks
    held: list[Held] = []
    serving = []
    if "kafka" in sinks:
        held.append(TopicHeld(plan.connection, settings.sets[name].topic))
    if "table" in sinks:
        held.append(TableHeld(database_of(settings), feature_set))
    if "online" in sinks and settings.online is not None:
        from feature_repo.store import open_store  # so that others do not load Feast

        serving.append(OnlineHeld(open_store(settings.online.store)))
    return held, serving


def since(
    console: Console, plan: FlowPlan, settings: LiveSettings, span: Range, *, quiet: bool
) -> tuple[Range, Offsets]:
    """The part of a range that the flow has given, and where it began to read.

    It is in the flow's state; where that is not at hand, the flow is taken to have read and given
    all there is.

    Raises:
        SettingsError: when the flow has given nothing of the range.
    """
    root = settings.recovery
    state = live_state.read(root) if (root / live_state.FLOW_FILE).exists() else None
    if state is None or state.name != settings.name:
        return span, {}
    starts = {
        (facts.topic, number): offset
        for stream, facts in state.inputs.items()
        if facts.topic_id == plan.topic_ids.get(stream)
        for number, offset in enumerate(facts.starts)
    }
    if state.emit_from_ns <= span.from_ns:
        return span, starts
    since = spelled(state.emit_from_ns)
    if state.emit_from_ns >= span.to_ns:
        msg = f"--to must be after {since}, from which on the flow gives vectors (emit_from)"
        raise SettingsError(msg)
    if not quiet:
        console.print(f"[yellow]note[/yellow]: the flow gives vectors from {since} on (emit_from)")
    return Range(state.emit_from_ns, span.to_ns), starts


def told(
    feature_set: FeatureSet, span: Range, results: Sequence[Verified], served: Sequence[Served]
) -> str:
    """The results as JSON."""
    return msgspec.json.encode(
        {
            "feature_set": feature_set.name,
            "version": feature_set.version,
            "from": spelled(span.from_ns),
            "final_until": spelled(span.to_ns),
            "equal": all(r.equal for r in results) and all(s.equal for s in served),
            "held": [
                {
                    "name": result.held,
                    "equal": result.equal,
                    "compared": result.compared,
                    "same": result.same,
                    "different": result.different,
                    "missing": result.missing,
                    "extra": result.extra,
                    "twice": result.twice,
                    "findings": result.findings,
                }
                for result in results
            ],
            "served": [
                {
                    "name": each.held,
                    "equal": each.equal,
                    "compared": each.compared,
                    "same": each.same,
                    "different": each.different,
                    "later": each.later,
                    "behind": each.behind,
                    "missing": each.missing,
                    "findings": each.findings,
                }
                for each in served
            ],
        }
    ).decode()


def show(console: Console, feature_set: FeatureSet, result: Verified) -> None:
    """Prints what a comparison has found."""
    show_findings(console, feature_set, result)
    count = len(feature_set.feature_exprs)
    if result.equal:
        console.print(
            f"[green]equal[/green]: {result.compared:,} final vectors of {count} features in "
            f"{result.held}, bit for bit"
        )
        return
    console.print(
        f"[red]different[/red]: of {result.compared:,} vectors compared {result.different:,} "
        f"differ; {result.missing:,} are missing in {result.held}, {result.extra:,} are extra, "
        f"{result.twice:,} are there more than once"
    )
    if result.is_behind:
        console.print(
            "all that is missing is later than all that is there: the flow may only be behind"
        )


def show_served(console: Console, feature_set: FeatureSet, result: Served) -> None:
    """Prints what a comparison with an online store has found."""
    show_findings(console, feature_set, result)
    later = f"; {result.later:,} serve a later vector, which was not computed"
    beyond = later if result.later else ""
    if result.equal:
        console.print(
            f"[green]equal[/green]: the newest vectors of {result.compared:,} entities in "
            f"{result.held}, bit for bit{beyond}"
        )
        return
    console.print(
        f"[red]different[/red]: of {result.compared:,} entities compared in {result.held} "
        f"{result.different:,} differ; {result.behind:,} serve an older vector, {result.missing:,} "
        f"none{beyond}"
    )


def show_findings(console: Console, feature_set: FeatureSet, result: Compared) -> None:
    """Prints the first findings as a table."""
    if not result.findings:
        return
    keys = [feature_set.entity, *([feature_set.series] if feature_set.series else [])]
    keys += [*feature_set.labels, "ts"]
    title = f"{feature_set.name} {feature_set.version}: first differences"
    table = Table("kind", *keys, "column", "computed", result.held, title=title)
    for each in result.findings[:SHOWN]:
        cells = [each.kind, *each.vector, each.column, each.computed, each.held]
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
