"""The demo's inputs: real data from small packages, as files in the columns of our streams.

The packages are read as folders of files and never imported. Nothing is drawn at random and nothing
is fetched. What had to be assumed is in :data:`ASSUMPTIONS`, which the demo's report prints.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

INSTANT = pl.Datetime("ns", "UTC")
SAMPLES_PER_MESSAGE = 256
READINGS_RATE_HZ = 50.0
"""Sampling rate of the stations whose samples go into the readings, one row a sample."""
STOCK_YEARS = 2
NEWSWORTHY = 0.95
"""Share of the bars whose absolute return is too small for an event of the stand-in."""
OPENED = datetime(2010, 5, 27, 16, 24, 3, 680_000, tzinfo=UTC)
EVENTS = (
    (datetime(2010, 5, 27, 16, 24, 33, 700_000, tzinfo=UTC), "first event"),
    (datetime(2010, 5, 27, 16, 27, 29, 700_000, tzinfo=UTC), "second event"),
)
"""When the two strong ground motions reach the stations, about 30 s and 206 s after the start."""

ASSUMPTIONS: tuple[tuple[str, str], ...] = (
    (
        "EURUSD, 1 h bars",
        "The file stamps the start of an hour, in UTC (trading opens at 17:00 New York in winter "
        "and in summer). The end of a bar is its start plus 1 h.",
    ),
    (
        "Stocks, 1 d bars",
        "The file has dates. The end of a bar is midnight UTC after its date, some hours after New "
        "York has closed. Prices are as traded, with jumps at splits.",
    ),
    (
        "ES, trades of the E-mini S&P 500 future",
        "Times are local to the exchange in Chicago and become UTC: trading opens at 17:00, "
        "and pauses from 10:30 on Labor Day. The file has no ids; a trade's is its row number.",
    ),
    (
        "Stations, windows and readings",
        f"Ground motion in counts. Each channel is cut into messages of {SAMPLES_PER_MESSAGE} "
        "samples; an incomplete last one is left out. Readings are of the channels with 50 Hz. "
        "Each of their samples is moved to the next instant of the common 20 ms grid, which "
        "shifts one station by half a sample.",
    ),
    (
        "News",
        "A STAND-IN, derived from prices, not news: an event at the end of each bar whose absolute "
        "return is in the top 5 % of its instrument; sentiment is tanh(z / 3), z the return's "
        "z-score; confidence is the rank of the bar's volume. It looks at the whole file, so it is "
        "of no use for a model.",
    ),
)

_BARS = ("instrument_id", "timeframe", "ts", "open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class DemoInputs:
    """Where the inputs were written: a file per stream, or a folder of files."""

    bars: Path
    news: Path
    trades: Path
    windows: Path
    readings: Path


@dataclass(frozen=True, slots=True)
class Channel:
    """The samples of one channel of a station.

    Attributes:
        station, channel: such as ``UH1`` and ``SHZ``.
        rate_hz: its sampling rate.
        start_ns: time of its first sample.
        values: the samples, in counts.
    """

    station: str
    channel: str
    rate_hz: float
    start_ns: int
    values: npt.NDArray[np.float64]

    @property
    def period_ns(self) -> int:
        """Distance of two samples."""
        return round(1e9 / self.rate_hz)


class MissingDataError(FileNotFoundError):
    """Data of the demo that is not installed."""


def package_file(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported.

    Raises:
        MissingDataError: when the package, or the file in it, is not there.
    """
    spec = find_spec(package)
    places = (spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (path := Path(place) / name).exists():
            return path
    missing = "the package is not installed" if spec is None else f"it has no {name}"
    msg = f"demo data of package `{package}`: {missing}; run `make setup`, which installs it"
    raise MissingDataError(msg)


def write_inputs(folder: Path, most_rows: int | None = None) -> DemoInputs:
    """Writes the inputs of all streams.

    Args:
        folder: where to; it is made if need be.
        most_rows: bars of each instrument and samples of each channel, and 20 times as many
            trades, for a quick look; all of them by default.
    """
    inputs = DemoInputs(
        bars=folder / "bars",
        news=folder / "news_stand_in_from_prices.parquet",
        trades=folder / "trades.csv",
        windows=folder / "windows.jsonl",
        readings=folder / "readings.parquet",
    )
    inputs.bars.mkdir(parents=True, exist_ok=True)
    forex, stocks = forex_bars(most_rows), stock_bars(most_rows)
    trades = es_trades(20 * most_rows if most_rows else None)
    forex.write_parquet(inputs.bars / "eurusd_1h.parquet")
    stocks.write_parquet(inputs.bars / "stocks_1d.parquet")
    stand_in_news([forex, stocks, minute_bars(trades)]).write_parquet(inputs.news)
    trades.write_csv(inputs.trades, datetime_format="%Y-%m-%dT%H:%M:%S%.3fZ")
    channels = station_channels(most_rows)
    encode = msgspec.json.Encoder().encode
    inputs.windows.write_bytes(b"".join(encode(each) + b"\n" for each in messages(channels)))
    readings(channels).write_parquet(inputs.readings)
    return inputs


def forex_bars(most_rows: int | None = None) -> pl.DataFrame:
    """Hourly bars of EURUSD in 2017."""
    path = package_file("gym_anytrading", "datasets/data/FOREX_EURUSD_1H_ASK.csv")
    start = pl.col("time").str.to_datetime("%d.%m.%Y %H:%M:%S%.3f", time_zone="UTC")
    return (
        pl.read_csv(path, n_rows=most_rows)
        .rename(str.lower)
        .select(
            pl.lit("EURUSD").alias("instrument_id"),
            pl.lit("1h").alias("timeframe"),
            start.dt.offset_by("1h").cast(INSTANT).alias("ts"),
            *_BARS[3:],
        )
    )


def stock_bars(most_rows: int | None = None) -> pl.DataFrame:
    """Daily bars of five shares over the file's last years."""
    path = package_file("bokeh_sampledata", "_data/stocks.csv.gz")
    date = pl.col("date").str.to_date()
    last_years = date > date.max().dt.offset_by(f"-{STOCK_YEARS}y")
    bars = (
        pl.read_csv(path)
        .rename(str.lower)
        .filter(last_years)
        .select(
            pl.col("ticker").alias("instrument_id"),
            pl.lit("1d").alias("timeframe"),
            date.dt.offset_by("1d").cast(INSTANT).alias("ts"),
            *(pl.col(name).cast(pl.Float64) for name in _BARS[3:]),
        )
    )
    kept = bars.sort("ts").group_by("instrument_id").head(most_rows or len(bars))
    return kept.select(_BARS).sort("ts", "instrument_id")


def es_trades(most_rows: int | None = None) -> pl.DataFrame:
    """Trades of the E-mini S&P 500 future on 2013-09-01 to 03."""
    path = package_file("mlfinpy", "dataset/data/tick_data.csv")
    local = pl.col("DateTime").str.to_datetime("%Y-%m-%d %H:%M:%S%.3f", time_unit="ns")
    return (
        pl.read_csv(path, n_rows=most_rows)
        .with_row_index("trade_id", offset=1)
        .select(
            pl.lit("ES").alias("instrument_id"),
            local.dt.replace_time_zone("America/Chicago").dt.convert_time_zone("UTC").alias("ts"),
            pl.col("trade_id").cast(pl.Int64),
            pl.col("Price").alias("price"),
            pl.col("Volume").cast(pl.Float64).alias("size"),
        )
    )


def minute_bars(trades: pl.DataFrame) -> pl.DataFrame:
    """One-minute bars of trades, by polars: only the stand-in of the news needs them."""
    return (
        trades.group_by_dynamic("ts", every="1m", group_by="instrument_id", label="right")
        .agg(pl.col("price").last().alias("close"), pl.col("size").sum().alias("volume"))
        .with_columns(pl.lit("1m").alias("timeframe"))
    )


def stand_in_news(bars: list[pl.DataFrame]) -> pl.DataFrame:
    """Events derived from prices, since no real news with sentiment is at hand; not news.

    An event at the end of each bar whose absolute return is in the top of its instrument's.
    """
    change = (pl.col("close") / pl.col("close").shift(1) - 1).over("instrument_id")
    z = (pl.col("change") - pl.col("change").mean()) / pl.col("change").std()
    rank = pl.col("volume").rank("ordinal") / pl.len()
    large = pl.col("change").abs() > pl.col("change").abs().quantile(NEWSWORTHY, "lower")
    columns = ["instrument_id", "timeframe", "ts", "close", "volume"]
    return (
        pl.concat([each.select(columns) for each in bars])
        .with_columns(change.alias("change"))
        .drop_nulls("change")
        .with_columns(
            (z / 3).tanh().over("instrument_id").alias("sentiment"),
            rank.over("instrument_id").alias("confidence"),
            large.over("instrument_id").alias("large"),
        )
        .filter("large")
        .sort("ts", "instrument_id")
        .select(
            "instrument_id",
            pl.format("stand-in-{}-{}", "instrument_id", pl.col("ts").dt.epoch("s")).alias(
                "event_id"
            ),
            "ts",
            "sentiment",
            "confidence",
            pl.lit("stand-in, derived from prices, not news").alias("origin"),
        )
    )


def station_channels(most_samples: int | None = None) -> list[Channel]:
    """Ground motion at four stations on 2010-05-27: six channels at 50 or 100 Hz, of 230 s."""
    folder = package_file("obspy", "signal/tests/data")
    paths = sorted(folder.glob("BW.UH?.*.cut.slist.gz"))
    if not paths:
        msg = f"demo data of package `obspy`: must have waveforms BW.UH*.slist.gz in {folder}"
        raise MissingDataError(msg)
    return [_read_channel(path, most_samples) for path in paths]


def _read_channel(path: Path, most_samples: int | None) -> Channel:
    """A text file: a header with name, count, rate and start, then six samples a line."""
    with gzip.open(path, "rt") as file:
        name, count, rate, start, *_ = (part.strip() for part in file.readline().split(","))
        values = np.array(file.read().split(), np.float64)
    if len(values) != int(count.split()[0]):
        msg = f"{path}: must have {count}, found {len(values)}"
        raise ValueError(msg)
    _, station, _, channel, _ = name.split("_")
    return Channel(
        station,
        channel,
        float(rate.split()[0]),
        nanoseconds(datetime.fromisoformat(start).replace(tzinfo=UTC)),
        values[:most_samples],
    )


def nanoseconds(time: datetime) -> int:
    """Nanoseconds since the epoch, exact, which a float of seconds is not."""
    since = time - datetime(1970, 1, 1, tzinfo=UTC)
    return ((since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds) * 1_000


def messages(channels: list[Channel]) -> Iterator[dict[str, object]]:
    """Channels cut into messages of samples, in the order in which they end."""
    found = []
    for each in channels:
        length_ns = SAMPLES_PER_MESSAGE * each.period_ns
        for number in range(len(each.values) // SAMPLES_PER_MESSAGE):
            start_ns = each.start_ns + number * length_ns
            found.append((start_ns + length_ns, each, number, start_ns))
    for end_ns, each, number, start_ns in sorted(found, key=lambda message: message[0]):
        first = number * SAMPLES_PER_MESSAGE
        yield {
            "asset_id": each.station,
            "asset_type": "seismometer",
            "channel": each.channel,
            "start_ts": _rfc3339(start_ns),
            "ts": _rfc3339(end_ns),
            "sampling_rate_hz": each.rate_hz,
            "values": each.values[first : first + SAMPLES_PER_MESSAGE].tolist(),
        }


def _rfc3339(time_ns: int) -> str:
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


def readings(channels: list[Channel]) -> pl.DataFrame:
    """The channels of :data:`READINGS_RATE_HZ`, a row a sample, on the grid of that rate."""
    frames = []
    for each in channels:
        if each.rate_hz != READINGS_RATE_HZ:
            continue
        # Within 10 µs of an instant of the grid counts as on it: some headers are off by 1 µs.
        first_ns = -(-(each.start_ns - 10_000) // each.period_ns) * each.period_ns
        times_ns = first_ns + np.arange(len(each.values)) * each.period_ns
        frames.append(
            pl.DataFrame(
                {
                    "asset_id": each.station,
                    "asset_type": "seismometer",
                    "channel": each.channel,
                    "ts": pl.Series(times_ns, dtype=pl.Int64).cast(INSTANT),
                    "value": each.values,
                }
            )
        )
    return pl.concat(frames).sort("ts", "asset_id", "channel")
