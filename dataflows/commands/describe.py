"""`riffle sets` and `riffle describe`: what is declared, for people and as JSON."""

from __future__ import annotations

import json
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from dataflows.named_sets import named_set, shipped_sets
from operators.durations import show_duration
from operators.expr import Expr
from operators.feature_set import FeatureSet, SetColumn
from operators.streams import Stream


def overview(feature_set: FeatureSet) -> dict[str, Any]:
    """Tells what a set is in a few words."""
    return {
        "name": feature_set.name,
        "version": feature_set.version,
        "emits": emission(feature_set),
        "key": [feature_set.entity, *([feature_set.series] if feature_set.series else [])],
        "streams": [stream.name for stream in feature_set.streams],
        "features": list(feature_set.feature_exprs),
        "quality": list(feature_set.quality),
        "description": feature_set.description,
    }


def emission(feature_set: FeatureSet) -> str:
    """Tells when a set emits.

    >>> from operators.streams import Field
    >>> ticks = Stream("ticks", "id", (Field("price"),))
    >>> emission(
    ...     FeatureSet("wide", "v1", ticks.hop("1s", every="1s"), {"n": ticks.col("price").count()})
    ... )
    'per hop: ticks[1s every 1s]'
    """
    instants = feature_set.instants
    if not isinstance(instants, Stream):
        across = "across" in instants.name
        return f"{'per common instant' if across else 'per hop'}: {instants.name}"
    return f"{'per message' if instants.samples else 'per row'} of {instants.name}"


def cost_ns(expr: Expr) -> int:
    """Adds up the rough cost of an expression per row, each sub-expression once."""
    seen: dict[str, int] = {}
    pending = [expr]
    while pending:
        each = pending.pop()
        if isinstance(each, SetColumn):
            each = each.expr
        if each.fingerprint not in seen:
            seen[each.fingerprint] = each.cost_ns
            pending.extend(each.args)
    return sum(seen.values())


def feature_facts(expr: Expr) -> dict[str, str]:
    """Tells what a catalogue says of a feature."""
    inner = expr.expr if isinstance(expr, SetColumn) else expr
    return {
        "formula": expr.formula,
        "unit": str(expr.unit),
        "warm-up": str(expr.warm_up),
        "nulls": inner.nulls,
        "error scale": inner.scale,
        "cost": f"{cost_ns(expr)} ns",
    }


def stream_facts(stream: Stream) -> dict[str, str]:
    """Tells what must be known to feed a stream."""
    keys = [stream.entity, *([stream.series] if stream.series else [])]
    identity = "none" if stream.identity is None else ", ".join([*keys, "ts", *stream.identity])
    return {
        "key": ", ".join(keys),
        "columns": ", ".join(field.name for field in stream.fields),
        "identity": identity,
        "time": "`start_ts`, the start" if stream.start_stamped else "`ts`, the end",
        "max. delay": show_duration(stream.max_delay_ns) if stream.max_delay_ns else "none",
    }


def show_sets(console: Console, *, as_json: bool) -> None:
    """Lists the shipped sets."""
    sets = shipped_sets()
    if as_json:
        console.out(json.dumps([overview(each) for each in sets.values()], indent=2))
        return
    table = Table(title="Feature sets")
    for column in ("set", "version", "emits", "key", "streams", "features"):
        table.add_column(column, overflow="fold")
    for each in sets.values():
        facts = overview(each)
        table.add_row(
            Text(each.name, style="bold"), each.version, Text(facts["emits"]),
            ", ".join(facts["key"]), ", ".join(facts["streams"]), str(len(facts["features"])),
        )  # fmt: skip
    console.print(table)
    console.print("Look into one by [bold]riffle describe SET[/bold].")


def show_set(console: Console, name: str) -> None:
    """Describes one set."""
    feature_set = named_set(name)
    console.print(
        Text(f"{feature_set.name} {feature_set.version}", style="bold"),
        Text(f"- {emission(feature_set)}; key {', '.join(overview(feature_set)['key'])}"),
    )
    if feature_set.description:
        console.print(Text(feature_set.description.strip()))
    for stream in feature_set.streams:
        facts = "; ".join(f"{name} {fact}" for name, fact in stream_facts(stream).items())
        console.print(Text(f"reads {stream.name}: {facts}"))
    exprs = feature_set.feature_exprs
    _print_facts(console, "feature", {n: feature_facts(e) for n, e in exprs.items()})
    flags = {n: {"raised where": e.formula} for n, e in feature_set.quality.items()}
    if flags:
        _print_facts(console, "quality flag", flags)
    console.print(Text(f"coverage: {feature_set.coverage_expr.formula}"))


def _print_facts(console: Console, head: str, facts: dict[str, dict[str, str]]) -> None:
    table = Table(show_lines=True)
    for column in (head, *next(iter(facts.values()))):
        table.add_column(column, overflow="fold")
    for name, row in facts.items():
        table.add_row(Text(name, style="bold"), *(Text(value) for value in row.values()))
    console.print(table)
