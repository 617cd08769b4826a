"""The `riffle` command: what it is asked, in words; `dataflows.commands` does the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from dataflows.failures import REFUSED, refusals
from dataflows.processes import FailedProcessError
from operators.kernels.hashing import KEY_GROUPS

app = typer.Typer(
    name="riffle",
    help="Feature vectors from streams: live, in replay and in backfill, with the same bits.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

SetName = Annotated[
    str, typer.Argument(metavar="SET", help="Name of a shipped set, or MODULE:ATTRIBUTE of yours.")
]
Inputs = Annotated[
    list[str],
    typer.Option(
        "--input", "-i", metavar="STREAM=PATH",
        help="A .parquet, .csv or .jsonl file, a folder of them, or table:NAME of the database "
        "that RIFFLE_DATABASE__URL tells; at least one per stream.",
    ),
]  # fmt: skip
Config = Annotated[
    Path | None,
    typer.Argument(
        metavar="FLOW.toml",
        help="The flow's settings; RIFFLE_... variables win over them. By default the file that "
        "RIFFLE_CONFIG names.",
    ),
]
FlowConfig = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", metavar="FLOW.toml",
        help="The flow's settings; by default the file that RIFFLE_CONFIG names.",
    ),
]  # fmt: skip
From = Annotated[
    str,
    typer.Option("--from", metavar="TIME", help="RFC 3339, a date, 'now', or '-1h' for 1 h ago."),
]
To = Annotated[str, typer.Option("--to", metavar="TIME", help="The time before which to end.")]


def _console() -> Console:
    console = Console()
    # A log has no width; what is read there must not be cut to that of some terminal.
    return console if console.is_terminal else Console(width=160)


@contextmanager
def _in_words() -> Iterator[None]:
    """Prints what a user can mend without a traceback, and ends with code 2."""
    try:
        yield
    except _told_in_words() as error:
        said = Text.assemble(("error: ", "bold red"), str(error))
        Console(stderr=True, soft_wrap=True).print(said)
        failed = isinstance(error, FailedProcessError)
        raise typer.Exit(1 if failed else REFUSED) from None


def _told_in_words() -> tuple[type[Exception], ...]:
    return (*refusals(), FailedProcessError)


@app.command()
def sets(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the shipped feature sets.

    Example: [bold]riffle sets --json | jq '.[].name'[/bold]
    """
    from dataflows.commands.describe import show_sets

    show_sets(_console(), as_json=as_json)


@app.command()
def describe(name: SetName) -> None:
    """Show what a set computes: formula, unit, warm-up, null rule, error scale and cost.

    Examples: [bold]riffle describe market[/bold], [bold]riffle describe my_features:wide[/bold]
    """
    from dataflows.commands.describe import show_set

    with _in_words():
        show_set(_console(), name)


@app.command()
def compute(
    name: SetName,
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", "-o", help="The Parquet file to write.")],
) -> None:
    """Compute a set over files, in one process and without Bytewax.

    Example: [bold]riffle compute market_lab --input bars=data/bars.csv --output lab.parquet[/bold]
    """
    from dataflows.commands.compute import run

    with _in_words():
        run(_console(), name, inputs, output)


@app.command()
def backfill(
    name: SetName,
    inputs: Inputs,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset.")],
    workers: Annotated[
        int, typer.Option("--workers", "-w", min=1, max=KEY_GROUPS, help="Number of processes.")
    ] = 1,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="One Bytewax cluster instead of separate shards.")
    ] = False,
    batch_rows: Annotated[int | None, typer.Option(min=1, help="The most rows of a batch.")] = None,
    recovery: Annotated[
        Path | None,
        typer.Option(help="Directory of snapshots, where a run that was stopped resumes."),
    ] = None,
    snapshot_every: Annotated[
        int | None, typer.Option(min=0, help="Seconds between two snapshots.")
    ] = None,
    feast: Annotated[
        Path | None, typer.Option(help="Feast repository whose online store is fed too.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the vectors of another run.")
    ] = False,
    warm_up: Annotated[
        bool,
        typer.Option("--warm-up", help="Rebuild what the snapshots lack for a changed set."),
    ] = False,
) -> None:
    """Compute a set over files into a dataset, by Bytewax, in one or more processes.

    Example: [bold]riffle backfill market --input bars=data/bars --input news=data/news.jsonl
    --output gold --workers 4 --recovery state[/bold]

    Give the same command again to resume a run that was killed, or to go on when the inputs have
    more files. SIGTERM or Ctrl-C drains: the state is kept, nothing is cut short.
    """
    from dataflows import launch
    from dataflows.commands.backfill import run
    from dataflows.settings import BATCH_ROWS

    request = launch.Request(
        name,
        inputs,
        output,
        workers,
        cluster,
        batch_rows or BATCH_ROWS,
        recovery,
        launch.SNAPSHOT_EVERY_S if snapshot_every is None else snapshot_every,
        feast,
        overwrite,
        warm_up,
    )
    with _in_words():
        run(_console(), request)


@app.command()
def apply(
    config: Config = None,
    partitions: Annotated[
        int, typer.Option("--partitions", min=1, help="Of the topics that are made.")
    ] = 4,
    replication: Annotated[
        int, typer.Option("--replication", help="Of the topics that are made; -1: as the brokers.")
    ] = -1,
    sql: Annotated[
        bool, typer.Option("--sql", help="Only print the SQL that tables need; change nothing.")
    ] = False,
) -> None:
    """Make the topics, tables and views that a live flow needs; say what is wrong with others.

    Tables are changed, too, when their set has gained a feature.

    Example: [bold]riffle apply flow.toml --partitions 8[/bold]
    """
    from dataflows.commands import online, tables
    from dataflows.commands.live import apply as make
    from dataflows.live_settings import live_settings

    with _in_words():
        settings = live_settings(config)
        if sql:
            fits = tables.show_sql(_console(), settings)
        else:
            fits = make(_console(), settings, partitions, replication)
            fits = tables.apply(_console(), settings) and fits
            online.apply(_console(), settings)
    if not fits:
        raise typer.Exit(1)


@app.command()
def live(
    config: Config = None,
    shards: Annotated[
        int | None, typer.Option("--shards", min=1, max=64, help="Number of processes.")
    ] = None,
    cluster: Annotated[
        int, typer.Option("--cluster", min=0, help="Instead, one Bytewax cluster of N processes.")
    ] = 0,
) -> None:
    """Run feature sets on Kafka, restarting what dies; the same command goes on where it stopped.

    Example: [bold]riffle live flow.toml --shards 4[/bold]

    SIGTERM or Ctrl-C drains: all that was read is given, the state is kept, and it ends with 0.
    """
    from dataflows.commands.live import live as run
    from dataflows.live_settings import live_settings

    with _in_words():
        given = {} if shards is None else {"shards": shards}
        run(live_settings(config, **given), config, cluster)


@app.command()
def rescale(
    shards: Annotated[
        int,
        typer.Option("--shards", min=0, max=64, help="Number of shards from now on; 0: a cluster."),
    ],
    config: Config = None,
) -> None:
    """Share the state of a stopped flow among another number of shards.

    Example: [bold]riffle rescale flow.toml --shards 3[/bold]
    """
    from dataflows.commands.live import share_out
    from dataflows.live_settings import live_settings

    with _in_words():
        share_out(_console(), live_settings(config), shards)


@app.command()
def archive(
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC...", help="Topics to copy.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the archives.")],
    config: FlowConfig = None,
) -> None:
    """Copy topics to Parquet, raw and complete; the same command goes on where it ended.

    Example: [bold]riffle archive bars news --output past --config flow.toml[/bold]
    """
    from dataflows.commands.archive import run

    with _in_words():
        run(_console(), topics, output, config)


@app.command()
def replay(
    name: SetName,
    from_: From,
    to: To,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the dataset to write.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option("--topic", help="Or the topic to write to, one of its own.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Or the set's table; of two vectors the newer stays.")
    ] = False,
    history: Annotated[
        str | None,
        typer.Option(
            metavar="SPAN",
            help="How long before --from to begin to read; by default as long as the set looks "
            "back, and from the beginning if that is a number of rows.",
        ),
    ] = None,
    config: FlowConfig = None,
) -> None:
    """Compute a range of a set's vectors again, from the topics of a live flow.

    Example: [bold]riffle replay market --from 2026-01-01 --to 2026-02-01 --output january
    --config flow.toml[/bold]
    """
    from dataflows.commands.replay import Request, parse_history, parse_span, run
    from dataflows.live_settings import live_settings
    from dataflows.replay import Destination

    with _in_words():
        destination = Destination(output, topic, table)
        request = Request(name, parse_span(from_, to), destination, parse_history(history))
        run(_console(), live_settings(config), request)


@app.command()
def verify(
    name: SetName,
    from_: From,
    to: To,
    config: FlowConfig = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Compute a range again and compare it bit for bit with what is held; exit 1 if it differs.

    The output topic, the table and the online store are compared, as the flow writes to them.

    Example: [bold]riffle verify market --from -1h --to -1m --config flow.toml[/bold]
    """
    from dataflows.commands.replay import parse_span
    from dataflows.commands.verify import run
    from dataflows.live_settings import live_settings

    with _in_words():
        equal = run(_console(), live_settings(config), name, parse_span(from_, to), as_json=as_json)
    if not equal:
        raise typer.Exit(1)


@app.command()
def diff(
    left: Annotated[Path, typer.Argument(metavar="A", help="A Parquet file or dataset folder.")],
    right: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """Compare the final vectors of two datasets bit for bit; exit 1 if any differ.

    Example: [bold]riffle diff lab.parquet gold/feature_set=market_lab[/bold]
    """
    from dataflows.commands.diff import diff as compare

    with _in_words():
        equal = compare(_console(), left, right)
    if not equal:
        raise typer.Exit(1)


@app.command()
def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything the demo writes.")
    ] = Path("out"),
) -> None:
    """Replay real market bars, trades and waveforms, and write a report with plots."""
    from dataflows.demo import demo as play

    play(output)


def main() -> None:
    """Runs the command line."""
    app()


if __name__ == "__main__":
    main()
