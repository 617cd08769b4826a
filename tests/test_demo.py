"""The demo's inputs and its report, on a few rows of each source."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import typer
from rich.progress import Progress

from dataflows import charts, demo, demo_data
from dataflows.demo_sets import asset_50hz, machine_50hz
from dataflows.report import Findings, SetResult, render, write_report
from feature_repo.bars_from_trades import bars_from_trades, market_from_trades
from feature_repo.market import market
from feature_repo.market_lab import market_lab
from feature_repo.sets import ALL
from feature_repo.waveform import waveform

ROWS = 600


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return demo_data.write_inputs(tmp_path_factory.mktemp("inputs"), ROWS)


@pytest.fixture(scope="module")
def frames(inputs):
    bars = pl.concat([pl.read_parquet(path) for path in sorted(inputs.bars.iterdir())])
    return {
        "bars": bars.sort("ts"),
        "news": pl.read_parquet(inputs.news),
        "trades": pl.read_csv(inputs.trades),
        "windows": pl.read_ndjson(inputs.windows),
        "readings": pl.read_parquet(inputs.readings),
    }


@pytest.fixture(scope="module")
def findings(frames):
    sets = (
        market, market_lab, bars_from_trades, market_from_trades, waveform,
        machine_50hz, asset_50hz,
    )  # fmt: skip
    results = []
    for each in sets:
        given = {stream.name: frames[stream.name] for stream in each.streams}
        rows = sum(map(len, given.values()))
        account = {name: {"in": len(frame), "late": 0} for name, frame in given.items()}
        results.append(SetResult(each, each.compute(**given), rows, 0.5, 2.0, 0, account))
    minutes = results[2].vectors.select("instrument_id", "timeframe", "ts", "close")
    columns = frames["bars"].select("instrument_id", "timeframe", "ts", "close")
    return Findings(
        results=results,
        prices=pl.concat([columns, minutes]),
        marks=[charts.Mark(demo_data.nanoseconds(demo_data.OPENED), "start")],
        workers=2,
        online=({"instrument_id": "ES"}, {"ret_1": 0.25, "vol_20": None, "quality": ["GAP"]}),
        history=columns.head(3),
        assumptions=demo_data.ASSUMPTIONS,
        versions={"numpy": np.__version__},
    )


# -- the inputs ---------------------------------------------------------------------------------


def test_bars_are_stamped_with_their_end(frames):
    bars = frames["bars"]
    assert bars["instrument_id"].unique().sort().to_list() == [
        "AAPL", "EURUSD", "FB", "GOOG", "IBM", "MSFT",
    ]  # fmt: skip
    first = bars.filter(pl.col("instrument_id") == "EURUSD").row(0, named=True)
    # The file's first line: 01.01.2017 22:00, from 1.05236 to 1.05227.
    assert first["ts"] == datetime(2017, 1, 1, 23, tzinfo=UTC)
    assert (first["open"], first["close"]) == (1.05236, 1.05227)
    daily = bars.filter(pl.col("timeframe") == "1d")
    assert set(daily["ts"].dt.hour()) == {0}
    # A day that trades ends on Tuesday to Saturday, at midnight.
    assert set(daily["ts"].dt.weekday()) <= {2, 3, 4, 5, 6}


def test_trades_are_brought_from_chicago_to_utc(frames):
    first = frames["trades"].row(0, named=True)
    assert first["ts"] == "2013-09-01T22:00:00.083Z"
    assert frames["trades"]["trade_id"].to_list() == list(range(1, 20 * ROWS + 1))


def test_news_is_a_stand_in_and_says_so(inputs, frames):
    news = frames["news"]
    assert "stand_in" in inputs.news.name
    assert set(news["origin"]) == {"stand-in, derived from prices, not news"}
    assert news["event_id"].str.starts_with("stand-in-").all()
    assert news["event_id"].is_unique().all()
    assert news["sentiment"].is_between(-1, 1).all()
    assert news["confidence"].is_between(0, 1).all()
    assert news["ts"].is_sorted()


def test_the_stand_in_takes_the_largest_moves_and_their_direction(frames):
    bars = frames["bars"].filter(pl.col("instrument_id") == "EURUSD")
    change = bars.select("ts", (pl.col("close") / pl.col("close").shift(1) - 1).alias("change"))
    events = frames["news"].filter(pl.col("instrument_id") == "EURUSD").join(change, on="ts")
    assert len(events) == round(0.05 * (ROWS - 1))
    assert (events["sentiment"].sign() == events["change"].sign()).all()
    others = change.join(events, on="ts", how="anti").drop_nulls()
    assert others["change"].abs().max() < events["change"].abs().min()


def test_messages_hold_the_samples_in_order(inputs):
    lines = [json.loads(line) for line in inputs.windows.read_text().splitlines()]
    mine = [each for each in lines if (each["asset_id"], each["channel"]) == ("UH1", "SHZ")]
    assert [len(each["values"]) for each in mine] == [demo_data.SAMPLES_PER_MESSAGE] * 2
    # The file's first samples, and 256 samples at 50 Hz later.
    assert mine[0]["values"][:5] == [-50.0, -105.0, -162.0, -176.0, -160.0]
    starts = [datetime.fromisoformat(each["start_ts"]) for each in mine]
    assert starts[1] - starts[0] == timedelta(seconds=256 / 50)
    assert [each["ts"] for each in lines] == sorted(each["ts"] for each in lines)


def test_readings_lie_on_the_grid_of_their_rate(frames):
    readings = frames["readings"]
    period_ns = round(1e9 / demo_data.READINGS_RATE_HZ)
    assert (readings["ts"].dt.epoch("ns") % period_ns == 0).all()
    assert readings["ts"].is_sorted()
    assert readings.group_by("asset_id", "channel").len()["len"].to_list() == [ROWS] * 5


def test_a_missing_package_is_named_with_what_to_do():
    with pytest.raises(demo_data.MissingDataError, match=r"`no_such_package`.*run `make setup`"):
        demo_data.package_file("no_such_package", "data.csv")
    with pytest.raises(demo_data.MissingDataError, match=r"`obspy`: it has no nothing\.csv"):
        demo_data.package_file("obspy", "nothing.csv")


def test_the_command_ends_with_2_when_the_data_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo_data, "find_spec", lambda _: None)
    with pytest.raises(typer.Exit) as ended:
        demo.demo(tmp_path)
    assert ended.value.exit_code == demo.REFUSED
    assert "run `make setup`" in capsys.readouterr().err


def test_the_inputs_are_the_same_each_time(tmp_path, inputs):
    again = demo_data.write_inputs(tmp_path, ROWS)
    for name in ("trades", "windows", "news", "readings"):
        assert getattr(again, name).read_bytes() == getattr(inputs, name).read_bytes(), name


def test_the_demo_runs_every_shipped_set_or_its_own_at_its_rate():
    names = {name.rpartition(":")[2].removesuffix("_50hz") for name, _ in demo.SETS}
    assert names == set(ALL)


# -- the report ---------------------------------------------------------------------------------


class Page(HTMLParser):
    """Collects tags and text, and insists on balance."""

    EMPTY = frozenset({"meta", "path", "rect", "br"})

    def __init__(self):
        super().__init__()
        self.open = []
        self.tags = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html: str) -> Page:
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return page


def test_the_report_refers_to_nothing_outside_itself(findings, tmp_path):
    path = write_report(findings, tmp_path / "report.html")
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html)
    page = parsed(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "img", "iframe"})
    assert not any({"src", "href"} & attrs.keys() for _, attrs in page.tags)
    assert path.stat().st_size < 2_000_000


def test_the_report_has_its_plots_with_titles_and_axes(findings):
    page = parsed(render(findings))
    titles = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    for title in (
        "EURUSD, bars of 1 h",
        "AAPL, bars of 1 d",
        "ES, bars of 1 min from trades",
        "Power in bands, per hop",
        "Power in bands, per message",
        "market, EURUSD 1h",
        "Rows per second",
    ):
        assert title in titles
    text = "".join(page.text)
    for words in ("time, UTC:", "rows/s", "log10 of power, counts²", "not news", "UH1/SHZ"):
        assert words in text
    assert "nan" not in {part.strip() for part in page.text}


def test_the_report_tells_sameness_and_difference(findings):
    assert "The same bits." in render(findings)
    worse = replace(findings.results[0], differences=3)
    told = render(replace(findings, results=[worse, *findings.results[1:]]))
    assert "3 differences" in told
    assert "The same bits." not in told
    assert "1 differences" in render(replace(findings, online_differences=1))


def test_the_report_of_nothing_is_a_page(findings):
    parsed(render(replace(findings, results=[], online=None, history=None)))


# -- charts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [2.0, 2.0], [np.nan, np.nan], [np.inf, 1.0], [0.0, 1e-9], [1e12, -1e12]],
    ids=str,
)
def test_a_plot_takes_whatever_there_is(values):
    ts_ns = np.arange(len(values), dtype=np.int64) * 10**9
    plot = charts.Plot("x", [charts.Line("x", ts_ns, np.array(values, np.float64))])
    html = charts.figure("f", [plot])
    parsed(html)
    assert not re.search(r"\b(nan|inf)\b", html)


def test_strips_join_neighbours_and_break_at_gaps():
    ts_ns = np.array([1, 2, 3, 10, 11], np.int64) * 10**9
    holds = {"A": np.array([True, True, False, True, True]), "B": np.zeros(5, np.bool_)}
    svg = charts.Strips("flags", ts_ns, 10**9, holds).draw(0, charts.TimeAxis(0, 11 * 10**9))
    spans = re.findall(r'class="fill s1" d="([^"]*)"', svg)
    assert [span.count("M") for span in spans] == [2, 0]


def test_a_heat_map_leaves_missing_cells_empty():
    ts_ns = np.arange(1, 5, dtype=np.int64) * 10**9
    values = np.array([[0.0, 0.0, np.nan, 1.0]])
    heat = charts.Heat("h", ts_ns, 10**9, ["row"], values, 0.0, 1.0)
    svg = heat.draw(0, charts.TimeAxis(0, 4 * 10**9))
    assert svg.count("M") == 2  # one run of two equal cells, and the last one


@pytest.mark.parametrize("span_s", [1, 50, 3_000, 40_000, 600_000, 10_000_000, 400_000_000])
def test_an_axis_of_time_has_a_few_marks_in_order(span_s):
    start = datetime(2017, 3, 1, 7, tzinfo=UTC)
    low = demo_data.nanoseconds(start)
    axis = charts.TimeAxis(low, low + span_s * 10**9)
    ticks = charts._time_ticks(axis)
    assert 1 <= len(ticks) <= 14
    places = [place for place, _ in ticks]
    assert places == sorted(places)
    assert len({label for _, label in ticks}) == len(ticks)


def test_the_style_is_a_file_beside_the_report():
    assert Path(demo.__file__).with_name("report.css").exists()


# -- the command --------------------------------------------------------------------------------


@pytest.fixture
def terminal_free(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def test_the_demo_compares_feeds_and_reads_back(tmp_path, monkeypatch, terminal_free, capsys):
    few = [each for each in demo.SETS if each[0] in {"market", "market_from_trades"}]
    monkeypatch.setattr(demo, "SETS", tuple(few))
    folders = demo.Folders(tmp_path / "out")
    findings = demo.play(folders, demo.Stages(Progress(disable=True)), ROWS)
    assert findings.differences == 0
    assert [each.name for each in findings.results] == ["market", "market_from_trades"]
    for each in findings.results:
        assert {name: row["in"] for name, row in each.account.items()}.keys() == {
            stream.name for stream in each.feature_set.streams
        }
    assert findings.online is not None
    assert findings.history is not None
    _, values = findings.online
    assert values["event_count_1h"] > 0
    assert findings.history["ret_1"].null_count() < len(findings.history)
    parsed(folders.report.read_text(encoding="utf-8"))
    monkeypatch.setattr(demo, "play", lambda *_: findings)
    demo.demo(tmp_path / "out")
    printed = capsys.readouterr().out
    for words in ("market_from_trades", "equal", "vol_20", str(folders.report)):
        assert words in printed.replace("\n", "")


def test_the_command_ends_with_1_when_anything_differs(tmp_path, monkeypatch, findings, capsys):
    worse = replace(findings, results=[replace(findings.results[0], differences=3)])
    monkeypatch.setattr(demo, "play", lambda *_: worse)
    with pytest.raises(typer.Exit) as ended:
        demo.demo(tmp_path)
    assert ended.value.exit_code == 1
    assert "3 differ" in capsys.readouterr().out
