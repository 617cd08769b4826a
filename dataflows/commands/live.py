"""`riffle live`, `riffle apply` and `riffle rescale`: a live flow from its settings."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from dataflows import live_state, rescale, topics
from dataflows.live_settings import CONFIG, LiveSettings
from dataflows.live_state import part_name
from dataflows.logs import set_up_logs
from dataflows.processes import free_addresses
from dataflows.settings import PREFIX
from dataflows.supervise import Supervisor, Worker
from operators.durations import NS_PER_UNIT

log = logging.getLogger("riffle")


def command_of(settings: LiveSettings, folder: Path) -> list[str]:
    """The command of one process of a flow.

    Args:
        settings: of the flow.
        folder: of its snapshots.
    """
    every_s = settings.snapshot_every // NS_PER_UNIT["s"]
    return [
        sys.executable, "-m", "bytewax.run", "dataflows.live",
        "-r", str(folder), "-s", str(every_s), "-b", "0",
    ]  # fmt: skip


def workers_of(settings: LiveSettings, config: Path | None, processes: int) -> list[Worker]:
    """The processes of a flow.

    Args:
        settings: of the flow, with its shards.
        config: file of the settings, if there is one.
        processes: of a cluster; 0 for shards.
    """
    told = {PREFIX + "PARENT": str(os.getpid()), PREFIX + "RECOVERY": str(settings.recovery)}
    if config is not None:
        told[CONFIG] = str(config.resolve())
    if processes:
        addresses = ";".join(free_addresses(processes))
        command = command_of(settings, settings.recovery / live_state.CLUSTER)
        return [
            Worker(f"process {i}", [*command, "-i", str(i), "-a", addresses], told)
            for i in range(processes)
        ]
    told[PREFIX + "SHARDS"] = str(settings.shards)
    return [
        Worker(
            f"shard {shard}",
            command_of(settings, settings.recovery / part_name(shard, settings.shards)),
            {**told, PREFIX + "SHARD": str(shard)},
        )
        for shard in range(settings.shards)
    ]


def live(settings: LiveSettings, config: Path | None, processes: int) -> None:
    """Runs a flow until it is asked to stop."""
    set_up_logs(topics.connection_of(settings).secrets)
    workers = workers_of(settings, config, processes)
    shown = f"a cluster of {processes}" if processes else f"{settings.shards} shards"
    log.info("flow %s runs as %s; SIGTERM or Ctrl-C drains it", settings.name, shown)
    Supervisor(workers, log.warning).run()
    log.info("flow %s is drained; the same command goes on from here", settings.name)


def apply(console: Console, settings: LiveSettings, partitions: int, replication: int) -> bool:
    """Makes the topics of a flow, shows them all, and tells whether they fit."""
    applied = topics.apply(settings, partitions, replication)
    table = Table(title=f"Topics of flow {settings.name}")
    for name in ("topic", "use", "state"):
        table.add_column(name, overflow="fold")
    for each in applied:
        style = "green" if each.ok else "red"
        table.add_row(each.topic.name, each.topic.use, f"[{style}]{each.state}[/{style}]")
    console.print(table)
    return all(each.ok for each in applied)


def share_out(console: Console, settings: LiveSettings, shards: int) -> None:
    """Shares a stopped flow's state among another number of shards."""
    before = rescale.rescale(settings.recovery, shards)
    words = [f"{n} shards" if n else "a cluster" for n in (before, shards)]
    console.print(f"[green]done[/green]: the state of {words[0]} is now that of {words[1]}")
