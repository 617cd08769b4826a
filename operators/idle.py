"""Runs that their time to live has emptied: nothing can see their rows any more.

Leaving them out frees memory and changes no vector: the next row of such a run would reset it, no
window reaches its rows, and no other stream may see a row that old.
"""

from __future__ import annotations

import numpy as np

from operators.engine import Engine
from operators.pending import Bools


def live_runs(engine: Engine) -> list[Bools]:
    """For each kind of rows, which of its runs something may still see.

    Kinds that share the numbers of their runs forget the same ones, and a run with pending rows
    stays.
    """
    tables, roots = engine.tables, engine.links.same_runs
    live = [np.ones(len(table), np.bool_) for table in tables]
    if not any(table.has_ttl for table in tables):
        return live
    pending = {
        index: {int(run) for rows in engine.pending[name].chunks for run in np.unique(rows.run)}
        for name, index in engine.plan.streams.items()
    }
    for root in sorted(set(roots)):
        family = [index for index, other in enumerate(roots) if other == root]
        last_ns = tables[root].last_ns[: len(tables[root])].copy()
        for index in family:
            count = len(tables[index])
            last_ns[:count] = np.maximum(last_ns[:count], tables[index].last_ns[:count])
        reach_ns = max(max(tables[i].ttl_ns, tables[i].keep_span_ns) for i in family)
        keep = last_ns >= engine.settled_ns - reach_ns
        keep[sorted(pending.get(root, ()))] = True
        for index in family:
            live[index] = keep[: len(tables[index])]
    return live
