"""Whether a process of a live flow is well: what is asked of it, and what it answers.

It is *live* while epochs end. Bytewax ends one only when every process of the flow has done its
part, so a worker that hangs, here or in another process of a cluster, shows here. What waits for
something outside and goes on trying is live, since a restart would not help it.

It is *ready* when its state is there, it is not about to stop, what it needs can be reached, and it
does not lag behind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from dataflows.dependencies import Dependency
from dataflows.observed import Observed

LEAST_BOUND_S = 30.0
EPOCHS_MISSED = 10
STARTUP_S = 300.0
"""How long the first epoch may take: state is read, kernels are loaded, a cluster finds itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as well.

    Attributes:
        interval_s: planned time between two epochs.
        ready_lag_s: the most that a ready process may lag behind.
        startup_s: how long the first epoch may take.
    """

    interval_s: float
    ready_lag_s: float
    startup_s: float = STARTUP_S

    @property
    def bound_s(self) -> float:
        """How long no epoch may end."""
        return max(LEAST_BOUND_S, EPOCHS_MISSED * self.interval_s)


@dataclass(frozen=True, slots=True)
class Verdict:
    """An answer.

    Attributes:
        reasons: in words, why not; empty when all is well.
        facts: what it is derived from.
    """

    reasons: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def well(self) -> bool:
        """Whether all is well."""
        return not self.reasons

    def document(self) -> dict[str, Any]:
        """The answer as it is served."""
        return {"status": "ok" if self.well else "failing", "reasons": self.reasons, **self.facts}


def liveness(observed: Observed, limits: Limits) -> Verdict:
    """Whether the process makes progress, or can't for reasons that a restart would not mend."""
    now_s = observed.now_s()
    begun = observed.progress_s is not None
    bound_s = limits.bound_s if begun else limits.startup_s
    last_s = observed.started_s if observed.progress_s is None else observed.progress_s
    # Who says that it waits, or tries again, does not hang; and has the whole time afterwards.
    last_s = max([last_s, *(each.heard_s for each in _dependencies(observed))])
    reasons = []
    if now_s - last_s > bound_s and not observed.idle:
        reasons.append(
            f"no epoch has ended for {now_s - last_s:.0f} s, at most {bound_s:.0f} s are normal: "
            "a worker of this process or of another one of its cluster hangs"
        )
    facts = {
        **_who(observed),
        "epochs": observed.epochs,
        "epoch_age_s": _age(now_s, observed.progress_s),
        "waiting_for": troubles(observed),
    }
    return Verdict(tuple(reasons), facts)


def readiness(observed: Observed, limits: Limits) -> Verdict:
    """Whether the process serves: recovered, reaching what it needs, and not behind."""
    reasons = []
    settled = observed.idle and observed.now_s() - observed.started_s > limits.bound_s
    if observed.recovery_s is None and not settled:
        reasons.append("recovering its state")
    if observed.draining:
        reasons.append("draining, because it was asked to stop")
    reasons += [f"{name} can't be used: {words}" for name, words in troubles(observed).items()]
    lag_s, behind = lag(observed)
    if math.isinf(lag_s):
        reasons.append(f"nothing of {behind} has been read yet")
    elif lag_s > limits.ready_lag_s:
        reasons.append(
            f"{behind} lags {lag_s:.0f} s behind, at most {limits.ready_lag_s:g} s are ready"
        )
    live = liveness(observed, limits)
    facts = {
        **_who(observed),
        "lag_s": None if math.isinf(lag_s) else round(lag_s, 3),
        "recovery_s": None if observed.recovery_s is None else round(observed.recovery_s, 3),
    }
    return Verdict((*reasons, *live.reasons), facts)


def lag(observed: Observed) -> tuple[float, str]:
    """The greatest lag of a partition in seconds, and which it is."""
    now_ns = observed.wall_ns()
    greatest_s, behind = 0.0, ""
    for watched in tuple(observed.parts):
        if watched.lag_records:
            lag_s = watched.lag_s(now_ns)
            if lag_s >= greatest_s:
                greatest_s, behind = lag_s, f"{watched.part.topic}/{watched.part.partition}"
    return greatest_s, behind


def troubles(observed: Observed) -> dict[str, str]:
    """What is wrong with what the process needs, in words, by name."""
    told = {each.name: each.trouble for each in _dependencies(observed)}
    return {name: words for name, words in told.items() if words is not None}


def _dependencies(observed: Observed) -> tuple[Dependency, ...]:
    return tuple(observed.dependencies.values())


def _who(observed: Observed) -> dict[str, Any]:
    return {"flow": observed.flow, "shard": observed.shard, "shards": observed.shards}


def _age(now_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else round(now_s - then_s, 3)
