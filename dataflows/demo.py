"""`riffle demo`: real data through every part, twice, compared bit for bit, with a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from dataflows import demo_data
from dataflows.charts import Mark, count
from dataflows.commands.compute import compute
from dataflows.commands.diff import Comparison, compare
from dataflows.inputs import scan_inputs
from dataflows.launch import Request, backfill
from dataflows.named_sets import named_set
from dataflows.report import Findings, SetResult, write_report
from sinks.dataset import read_vectors
from sinks.parquet import dataset_folder, versions

if TYPE_CHECKING:
    from feast import FeatureStore

WORKERS = 2
REFUSED = 2
"""Exit code when the demo's data is not there."""

SETS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("market", ("bars", "news")),
    ("market_lab", ("bars",)),
    ("bars_from_trades", ("trades",)),
    ("market_from_trades", ("trades", "news")),
    ("waveform", ("windows",)),
    ("dataflows.demo_sets:machine_50hz", ("readings",)),
    ("dataflows.demo_sets:asset_50hz", ("readings",)),
)
"""The sets, as the command line names them, and the streams that each reads."""
NOT_SERVED = frozenset({"market_lab", "bars_from_trades"})
"""Sets whose vectors go to Parquet only."""
READ_BACK = {"instrument_id": "ES", "timeframe": "1m"}
"""The entity that is read back online, of ``market_from_trades``."""

Watch = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the demo writes.

    Attributes:
        root: the folder of everything.
    """

    root: Path

    @property
    def inputs(self) -> Path:
        """The input files."""
        return self.root / "inputs"

    @property
    def gold(self) -> Path:
        """The dataset that the dataflow writes."""
        return self.root / "gold"

    @property
    def alone(self) -> Path:
        """The vectors of one process, a file per set."""
        return self.root / "one_process"

    @property
    def feast(self) -> Path:
        """Feast's registry and online store."""
        return self.root / "feast"

    @property
    def report(self) -> Path:
        """The report."""
        return self.root / "report.html"


@dataclass(slots=True)
class Stages:
    """Tells on a terminal what is being done, and is silent elsewhere."""

    progress: Progress
    done: int = 0
    total: int = 2 * len(SETS) + 3
    task: Any = field(default=None)

    def next(self, what: str) -> Watch:
        """Begins a stage, and gives what its rows are told to."""
        if self.task is None:
            self.task = self.progress.add_task(what, total=self.total)
        begun, self.done = self.done, self.done + 1
        self.progress.update(self.task, description=what, completed=begun)

        def watch(rows: int, of: int) -> None:
            self.progress.update(self.task, completed=begun + min(rows / max(of, 1), 1.0))

        return watch


def demo(output: Path = Path("out")) -> None:
    """Replays real data, compares one process with the dataflow, feeds Feast, writes a report.

    Args:
        output: folder for all that is written.

    Raises:
        typer.Exit: with 1 when anything differs, with 2 when the data is not installed.
    """
    console = Console()
    folders = Folders(output)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    try:
        with Progress(
            *columns, console=console, transient=True, disable=not console.is_terminal
        ) as progress:
            findings = play(folders, Stages(progress))
    except demo_data.MissingDataError as error:
        Console(stderr=True, soft_wrap=True).print(
            Text.assemble(("error: ", "bold red"), str(error))
        )
        raise typer.Exit(REFUSED) from None
    show(console, findings, folders)
    if findings.differences:
        raise typer.Exit(1)


def play(folders: Folders, stages: Stages, most_rows: int | None = None) -> Findings:
    """Does all that the demo does, and gives what it found.

    Args:
        folders: where to write.
        stages: is told what is being done.
        most_rows: rows of each instrument and channel, for a quick look; all by default.
    """
    stages.next("writing the inputs")
    inputs = demo_data.write_inputs(folders.inputs, most_rows)
    results = [_result(name, streams, inputs, folders, stages) for name, streams in SETS]
    stages.next("feeding Feast")
    online, history, wrong = _feast(results, folders)
    stages.next("writing the report")
    findings = Findings(
        results=results,
        prices=_prices(inputs, results),
        marks=[Mark(demo_data.nanoseconds(at), name) for at, name in demo_data.EVENTS],
        workers=WORKERS,
        online=online,
        online_differences=wrong,
        history=history,
        assumptions=demo_data.ASSUMPTIONS,
        versions=versions(),
    )
    write_report(findings, folders.report)
    return findings


def _result(
    name: str,
    streams: Sequence[str],
    inputs: demo_data.DemoInputs,
    folders: Folders,
    stages: Stages,
) -> SetResult:
    """Computes a set in one process and through the dataflow, and compares."""
    feature_set = named_set(name)
    given = [f"{stream}={getattr(inputs, stream)}" for stream in streams]
    alone = folders.alone / f"{feature_set.name}.parquet"
    watch, begun = stages.next(f"{feature_set.name}, one process"), time.perf_counter()
    compute(feature_set, scan_inputs(feature_set, given), alone, watch)
    watch, between = stages.next(f"{feature_set.name}, {WORKERS} workers"), time.perf_counter()
    request = Request(name, given, folders.gold, workers=WORKERS, overwrite=True)
    flow = backfill(request, watch)
    ended = time.perf_counter()
    vectors = read_vectors(dataset_folder(folders.gold, feature_set))
    return SetResult(
        feature_set=feature_set,
        vectors=pl.DataFrame(vectors),
        rows=flow.rows,
        alone_s=between - begun,
        flow_s=ended - between,
        differences=differences(compare(read_vectors(alone), vectors)),
        account=flow.account,
    )


def differences(found: Comparison) -> int:
    """The vectors that two datasets do not have in common."""
    return found.different + len(found.only_left) + len(found.only_right)


def _prices(inputs: demo_data.DemoInputs, results: Sequence[SetResult]) -> pl.DataFrame:
    """The closes of all bars, those that were built from trades among them."""
    columns = ["instrument_id", "timeframe", "ts", "close"]
    frames = [pl.read_parquet(path, columns=columns) for path in sorted(inputs.bars.iterdir())]
    frames += [each.vectors.select(columns) for each in results if each.name == "bars_from_trades"]
    return pl.concat(
        frame.with_columns(pl.col("instrument_id", "timeframe").cast(pl.String)) for frame in frames
    )


# -- Feast --------------------------------------------------------------------------------------


def _feast(
    results: Sequence[SetResult], folders: Folders
) -> tuple[tuple[Mapping[str, str], Mapping[str, Any]], pl.DataFrame, int]:
    """Registers and feeds what is served, and reads back an entity and a training frame."""
    from feature_repo.store import apply
    from sinks.feast import FeastOnline

    served = [each for each in results if each.name not in NOT_SERVED]
    store = apply(folders.gold, folders.feast, [each.feature_set for each in served])
    for each in served:
        FeastOnline(store, each.feature_set).write(each.vectors)
    minutes = next(each for each in served if each.name == "market_from_trades")
    online = _online(store, minutes)
    newest = _newest(minutes)
    wrong = sum(newest[name] != value for name, value in online.items())
    hourly = next(each for each in served if each.name == "market")
    return (READ_BACK, online), _history(store, hourly), wrong


def _online(store: FeatureStore, result: SetResult) -> dict[str, Any]:
    """What ``get_online_features`` says of one entity."""
    from feature_repo.names import view_name

    answer = store.get_online_features(
        features=store.get_feature_service(view_name(result.feature_set)), entity_rows=[READ_BACK]
    ).to_dict()
    names = [*result.feature_set.features, "quality", "coverage"]
    return {name: answer[name][0] for name in names}


def _newest(result: SetResult) -> dict[str, Any]:
    """The newest vector of the entity that is read back, in the dataset."""
    mine = (pl.col(name) == value for name, value in READ_BACK.items())
    return result.vectors.filter(*mine).sort("ts").row(-1, named=True)


def _history(store: FeatureStore, result: SetResult) -> pl.DataFrame:
    """The features of `market` as they stood at some events, by ``get_historical_features``."""
    from feature_repo.training import EVENT_TIME, training_frame

    start = datetime(2017, 1, 16, 9, 30, tzinfo=UTC)
    events = pl.DataFrame(
        {
            "instrument_id": ["EURUSD"] * 4 + ["AAPL"],
            "timeframe": ["1h"] * 4 + ["1d"],
            EVENT_TIME: [
                *(start + timedelta(hours=hours) for hours in (0, 1, 2, 30)),
                datetime(2012, 1, 25, 15, tzinfo=UTC),
            ],
        }
    )
    shown = ["ret_1", "ret_5", "vol_20", "event_count_1h", "sentiment_weighted_1h"]
    return training_frame(store, result.feature_set, events).select(*events.columns, *shown)


# -- the end ------------------------------------------------------------------------------------


def show(console: Console, findings: Findings, folders: Folders) -> None:
    """Prints the results as a table, one entity's features, and the paths."""
    table = Table(title="Riffle, the demo", title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("set", no_wrap=True)
    for head in ("rows", "vectors", "rows/s alone", f"{findings.workers} workers"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("diff", no_wrap=True)
    for each in findings.results:
        same = Text("equal", "green")
        table.add_row(
            each.name,
            f"{each.rows:,}",
            f"{len(each.vectors):,}",
            count(each.rows / each.alone_s),
            count(each.rows / each.flow_s),
            Text(f"{each.differences:,} differ", "red") if each.differences else same,
        )
    console.print(table)
    if findings.online:
        keys, values = findings.online
        title = f"Online, {' '.join(keys.values())}"
        shown = Table("feature", title=title, title_justify="left", box=box.SIMPLE_HEAD)
        shown.add_column("value", justify="right")
        for name, value in values.items():
            shown.add_row(name, f"{value:.6g}" if isinstance(value, float) else str(value))
        console.print(shown)
    for name, path in (
        ("gold dataset", folders.gold),
        ("Feast", folders.feast),
        ("inputs", folders.inputs),
        ("report", folders.report),
    ):
        console.print(f"{name:13} {path}", soft_wrap=True)
