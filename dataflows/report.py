"""The demo's report: one HTML file with everything in it, that no network is needed to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from dataflows import charts
from dataflows.charts import Band, Heat, Line, Mark, Plot, Strips
from operators.feature_set import FeatureSet

PRICE_BARS = 700
"""Bars of an instrument that a price figure shows."""
SHOWN_ROWS = 8
"""Rows of a table of vectors."""
OPEN_BAR = (
    "<p><small>The trades end within a minute, so bars_from_trades leaves its bar open. For "
    "market_from_trades the clock of the news goes on and closes it.</small></p>"
)
STYLE = Path(__file__).with_name("report.css")


@dataclass(frozen=True, slots=True)
class SetResult:
    """What became of one feature set.

    Attributes:
        feature_set: the declaration.
        vectors: what the dataflow wrote, in order of time.
        rows: rows that came in.
        alone_s: seconds in one process.
        flow_s: seconds through the dataflow, its start included.
        differences: cells, flags or vectors that the two do not have in common.
        account: rows by fate, per stream.
    """

    feature_set: FeatureSet
    vectors: pl.DataFrame
    rows: int
    alone_s: float
    flow_s: float
    differences: int
    account: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The set's name."""
        return self.feature_set.name


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the report tells.

    Attributes:
        results: one per set.
        prices: closes per ``instrument_id`` and ``timeframe``.
        marks: named instants of the waveforms.
        workers: worker processes of the dataflow.
        online: the entity read back online, and its features.
        online_differences: features of it that are not those of its newest vector.
        history: the point-in-time frame.
        assumptions: about the data, by source.
        versions: what computed the bits.
    """

    results: Sequence[SetResult]
    prices: pl.DataFrame
    marks: Sequence[Mark]
    workers: int
    online: tuple[Mapping[str, str], Mapping[str, Any]] | None = None
    online_differences: int = 0
    history: pl.DataFrame | None = None
    assumptions: Sequence[tuple[str, str]] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def differences(self) -> int:
        """All that differs."""
        return sum(each.differences for each in self.results) + self.online_differences

    def result(self, name: str) -> SetResult | None:
        """The result of a set, if it took part."""
        return next((each for each in self.results if each.name == name), None)


def write_report(findings: Findings, path: Path) -> Path:
    """Writes the report as one HTML file."""
    path.write_text(render(findings), encoding="utf-8")
    return path


def render(findings: Findings) -> str:
    """The report as HTML that refers to nothing outside itself."""
    sections = [
        _section("Prices and their features", _prices(findings)),
        _section("Spectra over time", _spectra(findings)),
        _section("Quality flags over time", _flags(findings)),
        _section("Rows per second", [_speed(findings)]),
        _section("Feature sets", [_sets(findings)]),
        _section("The account of rows", [_account(findings)]),
        _section("Read back from Feast", _feast(findings)),
        _section("What was assumed", [_assumptions(findings)]),
    ]
    style = STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><title>Riffle: the demo\'s report</title>'
        f"<style>{style}</style></head><body><main>{_header(findings)}{''.join(sections)}"
        f"{_footer(findings)}</main></body></html>\n"
    )


def _section(title: str, parts: Sequence[str]) -> str:
    body = "".join(parts)
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _header(findings: Findings) -> str:
    vectors = sum(len(each.vectors) for each in findings.results)
    rows = sum(each.rows for each in findings.results)
    differences = findings.differences
    verdict = (
        '<p class="verdict same"><b>✓ The same bits.</b> The final vectors of one process and of '
        f"the dataflow with {findings.workers} workers are equal, bit for bit, in features, "
        "quality flags and coverage. Feast answers with the values of the newest vector.</p>"
        if not differences
        else f'<p class="verdict other"><b>✗ {differences:,} differences</b> between the final '
        "vectors of one process and of the dataflow, or between the newest vector and what Feast "
        "answers; the tables below say where.</p>"
    )
    facts = [
        (f"{len(findings.results)}", "feature sets"),
        (charts.count(rows), "rows read"),
        (f"{vectors:,}", "vectors written"),
        (f"{differences:,}", "differences"),
    ]
    cells = "".join(f"<div><b>{number}</b><span>{name}</span></div>" for number, name in facts)
    return (
        "<header><h1>Riffle <small>the demo's report</small></h1>"
        '<p class="lead">Real market bars, trades and ground motion became feature vectors twice, '
        "from one declaration: in one process and through a Bytewax dataflow.</p>"
        f'{verdict}<div class="facts">{cells}</div></header>'
    )


# -- prices -------------------------------------------------------------------------------------


def _prices(findings: Findings) -> list[str]:
    market, lab = findings.result("market"), findings.result("market_lab")
    figures = []
    if market and lab:
        hourly = {"instrument_id": "EURUSD", "timeframe": "1h"}
        daily = {"instrument_id": "AAPL", "timeframe": "1d"}
        figures = [
            _lab_figure("EURUSD, bars of 1 h", _priced(findings, hourly, market, lab), _rsi),
            _lab_figure("AAPL, bars of 1 d", _priced(findings, daily, market, lab), _volume),
        ]
    if minutes := findings.result("market_from_trades"):
        rows = _priced(findings, {"instrument_id": "ES", "timeframe": "1m"}, minutes)
        figures.append(_trades_figure("ES, bars of 1 min from trades", rows))
    return figures


def _priced(findings: Findings, keys: Mapping[str, str], *results: SetResult) -> pl.DataFrame:
    """The closes of one instrument, and next to each the features of some sets."""
    rows = _of(findings.prices, keys).select("ts", "close")
    for each in results:
        names = [name for name in each.feature_set.features if name not in rows.columns]
        rows = rows.join(_of(each.vectors, keys).select("ts", *names), on="ts")
    return rows.sort("ts")


def _of(rows: pl.DataFrame, keys: Mapping[str, str]) -> pl.DataFrame:
    """The rows of one key, in order of time."""
    return rows.filter(*(pl.col(name) == value for name, value in keys.items())).sort("ts")


def _line(rows: pl.DataFrame, name: str, style: str = "s1") -> Line:
    return Line(name, _times(rows), _numbers(rows, name), style)


def _rsi(rows: pl.DataFrame) -> Plot:
    return Plot("rsi_14", [_line(rows, "rsi_14", "s3")], 110, ticks=(0, 30, 70, 100))


def _volume(rows: pl.DataFrame) -> Plot:
    line = _line(rows, "volume_relative", "s3")
    return Plot("volume_relative, to its 20-bar mean", [line], 110, zero=True)


def _lab_figure(title: str, rows: pl.DataFrame, last: Callable[[pl.DataFrame], Plot]) -> str:
    """Close and Bollinger bands, volatility, and one more panel."""
    rows = rows.tail(PRICE_BARS)
    panels = [
        Plot("price", [_bollinger(rows), _line(rows, "close", "ink")], 230),
        Plot("vol_20, per bar", [_line(rows, "vol_20")], 110, zero=True),
        last(rows),
    ]
    note = f"The last {len(rows):,} bars, with features of market and market_lab."
    return charts.figure(title, panels, note=note) if len(rows) else ""


def _trades_figure(title: str, rows: pl.DataFrame) -> str:
    """Close, volatility, sentiment and the count of events."""
    sentiment = _line(rows, "sentiment_weighted_1h", "s2")
    stand_in = "sentiment_weighted_1h, of a stand-in derived from prices, not news"
    panels = [
        Plot("price", [_line(rows, "close", "ink")], 190),
        Plot("vol_20, per bar", [_line(rows, "vol_20")], 110, zero=True),
        Plot(stand_in, [sentiment], 110, ticks=(-1, 0, 1)),
        Plot("event_count_1h", [_line(rows, "event_count_1h", "s3")], 90, zero=True),
    ]
    note = f"{len(rows):,} bars built by bars_from_trades, and market over them in the same pass."
    return charts.figure(title, panels, note=note) if len(rows) else ""


def _bollinger(rows: pl.DataFrame) -> Band:
    """The bands, from position p and width w: close = middle (1 + w (p - 1/2))."""
    position, width = _numbers(rows, "bollinger_position"), _numbers(rows, "bollinger_width")
    middle = _numbers(rows, "close") / (1.0 + width * (position - 0.5))
    reach = middle * width / 2.0
    return Band("Bollinger bands, 20 bars, 2 σ", _times(rows), middle - reach, middle + reach)


# -- waveforms and flags ------------------------------------------------------------------------


def _spectra(findings: Findings) -> list[str]:
    """Band powers over time as heat maps, for vertical channels."""
    figures = []
    for name, channels, nyquist, each, windows in (
        (
            "machine_50hz",
            ("UH1/SHZ", "UH2/SHZ", "UH3/SHZ"),
            25.0,
            "hop",
            "Windows of 1 s every 0.5 s",
        ),
        ("waveform", ("UH4/EHZ",), 50.0, "message", "Messages of 256 samples"),
    ):
        result = findings.result(name)
        picked = {} if result is None else _channels(result, channels)
        if picked:
            note = f"{windows}; bands are eighths of 0 to {nyquist:g} Hz, named by their middle."
            title = f"Power in bands, per {each}"
            figures.append(_heat_figure(title, picked, nyquist, findings.marks, note))
    return figures


def _channels(result: SetResult, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    found = {}
    for name in names:
        asset, _, channel = name.partition("/")
        rows = _of(result.vectors, {"asset_id": asset, "channel": channel})
        if len(rows):
            found[name] = rows
    return found


def _heat_figure(
    title: str,
    picked: Mapping[str, pl.DataFrame],
    nyquist: float,
    marks: Sequence[Mark],
    note: str,
) -> str:
    """A heat map per channel, and how much the first one moves."""
    first, rows = next(iter(picked.items()))
    bands = [name for name in rows.columns if name.startswith("band_power_")]
    names = [f"{(k + 0.5) * nyquist / len(bands):.0f} Hz" for k in range(len(bands))]
    logs = {channel: _decades(each, bands) for channel, each in picked.items()}
    finite = np.concatenate([each[np.isfinite(each)] for each in logs.values()])
    low, high = np.quantile(finite, [0.01, 0.999]) if len(finite) else (0.0, 1.0)
    panels: list[charts.Panel] = [
        Heat(f"station {channel}", _times(each), _step_ns(each), names, logs[channel], low, high)
        for channel, each in picked.items()
    ]
    panels.append(Plot(f"std of {first}, counts", [_line(rows, "std", "s2")], 100, zero=True))
    key = charts.scale("log10 of power, counts²", low, high)
    return charts.figure(title, panels, marks, note, key)


def _decades(rows: pl.DataFrame, names: Sequence[str]) -> charts.Floats:
    values = np.stack([_numbers(rows, name) for name in names])
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(values > 0, np.log10(values), np.nan)


def _step_ns(rows: pl.DataFrame) -> int:
    return int(np.median(np.diff(_times(rows)))) if len(rows) > 1 else 10**9


def _flags(findings: Findings) -> list[str]:
    """A strip per flag, for one key of some sets."""
    figures = []
    for name, keys in (
        ("market", {"instrument_id": "EURUSD", "timeframe": "1h"}),
        ("market_from_trades", {"instrument_id": "ES", "timeframe": "1m"}),
        ("machine_50hz", {"asset_id": "UH3", "channel": "SHZ"}),
    ):
        result = findings.result(name)
        if result is None:
            continue
        rows = _of(result.vectors, keys)
        # Hourly bars over a year would leave no room between two strips.
        rows = rows.tail(PRICE_BARS) if name == "market" else rows
        if not len(rows):
            continue
        raised = rows["quality"].list
        holds = {flag: raised.contains(flag).to_numpy() for flag in result.feature_set.quality}
        styles = {flag: f"s{1 + i % 4}" for i, flag in enumerate(holds)}
        panels: list[charts.Panel] = [
            Strips(
                "vectors that raise a flag, and their share",
                _times(rows),
                _step_ns(rows),
                holds,
                styles,
            ),
            Plot("coverage", [_line(rows, "coverage")], 84, ticks=(0, 0.5, 1)),
        ]
        title = f"{name}, {' '.join(keys.values())}"
        note = f"{len(rows):,} vectors."
        figures.append(charts.figure(title, panels, note=note, left=240))
    return figures


def _speed(findings: Findings) -> str:
    rows = [
        (each.name, [each.rows / max(each.alone_s, 1e-9), each.rows / max(each.flow_s, 1e-9)])
        for each in findings.results
    ]
    names = ["one process", f"dataflow, {findings.workers} workers"]
    note = (
        "From file to file. These inputs are small, so this is mostly the time to load kernels, in "
        "the first set, and to start workers; the benchmarks measure throughput."
    )
    return charts.bars("Rows per second", rows, names, "rows/s", note) if rows else ""


# -- tables -------------------------------------------------------------------------------------


def _sets(findings: Findings) -> str:
    rows = []
    for each in findings.results:
        made, ts = each.feature_set, each.vectors["ts"]
        days = [str(day) for day in (ts.dt.date().min(), ts.dt.date().max()) if day]
        same = '<span class="same">same bits</span>'
        other = f'<span class="other">{each.differences:,} differences</span>'
        rows.append(
            [
                f"<code>{escape(made.name)}</code> {escape(made.version)}",
                escape(made.instants.name),
                str(len(made.features)),
                f"{each.rows:,}",
                f"{len(each.vectors):,}",
                " to ".join(dict.fromkeys(days)),
                same if not each.differences else other,
            ]
        )
    head = ["set", "a vector per", "#features", "#rows in", "#vectors", "days, UTC", "diff"]
    return _table(head, rows) + (OPEN_BAR if findings.result("market_from_trades") else "")


def _account(findings: Findings) -> str:
    lines = [(each.name, *line) for each in findings.results for line in each.account.items()]
    names = list(dict.fromkeys(fate for _, _, counts in lines for fate in counts))
    rows = [
        [
            f"<code>{escape(name)}</code>",
            escape(stream),
            *(f"{counts.get(fate, 0):,}" for fate in names),
        ]
        for name, stream, counts in lines
    ]
    if not rows:
        return ""
    said = "<p>Every row is somewhere: those that came in are the sum of all other columns.</p>"
    return said + _table(["set", "stream", *(f"#{name}" for name in names)], rows)


def _feast(findings: Findings) -> list[str]:
    parts = []
    if findings.online:
        keys, values = findings.online
        named = ", ".join(f"{key} {value}" for key, value in keys.items())
        parts.append(
            f"<h3>Online: {escape(named)}</h3><p>What <code>get_online_features</code> answers: "
            f"{findings.online_differences or 'no'} difference from the newest vector.</p>"
        )
        cells = [
            [f"<code>{escape(name)}</code>", escape(_cell(value))] for name, value in values.items()
        ]
        parts.append(_table(["feature", "#value"], cells))
    if findings.history is not None:
        parts.append(
            "<h3>Point in time</h3><p>What <code>get_historical_features</code> answers: next to "
            "each event, the newest vector that is not after it.</p>"
        )
        frame = findings.history.head(SHOWN_ROWS)
        heads = [("#" if kind.is_numeric() else "") + name for name, kind in frame.schema.items()]
        parts.append(_table(heads, [[escape(_cell(v)) for v in row] for row in frame.rows()]))
    return parts


def _assumptions(findings: Findings) -> str:
    items = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in findings.assumptions
    )
    return f"<dl>{items}</dl>" if items else ""


def _footer(findings: Findings) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in findings.versions.items())
    return f"<footer><p>Computed with {escape(versions)}.</p></footer>" if versions else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; columns whose head begins with ``#`` hold numbers."""
    numeric = [name.startswith("#") for name in head]

    def cells(tag: str, values: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{' class=n' if right else ''}>{value}</{tag}>"
            for value, right in zip(values, numeric, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    names = [escape(name.removeprefix("#")) for name in head]
    top = f"<thead><tr>{cells('th', names)}</tr></thead>"
    return f'<div class="table"><table>{top}<tbody>{body}</tbody></table></div>'


def _cell(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return _instant(value) if hasattr(value, "strftime") else str(value)


def _instant(value: Any) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S").removesuffix(":00")


def _times(rows: pl.DataFrame) -> charts.Times:
    return rows["ts"].dt.epoch("ns").to_numpy()


def _numbers(rows: pl.DataFrame, name: str) -> charts.Floats:
    return rows[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
