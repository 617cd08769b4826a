"""Vectors made up for tests of where they are kept: all kinds of bits, names and times."""

from __future__ import annotations

import numpy as np

from operators.batch import Labels, Vectors
from operators.feature_set import FeatureSet

NAMES = ("É$1", "'; DROP TABLE riffle.progress; --", 'a"b', "{x,\\N}", "%s %(a)s", "two\nlines", "")
"""What somebody may call an instrument; plain values, all of them."""
WEEK_NS = 7 * 86_400 * 10**9
BEFORE_1970 = (-(10**18), 4 * 10**18)
"""Times of a century."""


def some_vectors(
    feature_set: FeatureSet,
    count: int = 50,
    seed: int = 7,
    times_ns: tuple[int, int] = BEFORE_1970,
    *,
    final: bool = True,
) -> Vectors:
    """Vectors with times at all nanoseconds, nulls, extremes and flags."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, len(NAMES), count, dtype=np.int32)
    features = {}
    for name, expr in feature_set.feature_exprs.items():
        values = rng.normal(size=count) * 10.0 ** rng.integers(-300, 300, count)
        if expr.kind == "count":
            values = rng.integers(0, 10**6, count).astype(np.float64)
        elif expr.kind == "flag":
            values = rng.integers(0, 2, count).astype(np.float64)
        else:
            values[:5] = 5e-324, -0.0, np.nextafter(1.0, 2.0), np.inf, -np.inf
        values[rng.random(count) < 0.2] = np.nan
        features[name] = values
    ts_ns = rng.integers(*times_ns, count)
    return Vectors(
        keys=Labels(codes, NAMES),
        series=Labels(codes[::-1].copy(), NAMES) if feature_set.series else None,
        ts_ns=ts_ns,
        features=features,
        quality=rng.integers(0, 2 ** len(feature_set.quality), count).astype(np.int64),
        coverage=rng.random(count),
        known_at_ns=ts_ns + rng.integers(0, 10**10, count),
        n_rows=rng.integers(1, 10**9, count),
        final=final,
    )
