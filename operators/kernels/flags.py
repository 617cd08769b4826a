"""Flags, 1.0 or 0.0, NaN where they are not known: comparisons, and Kleene's logic."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel


@inlined
def known(a, b, flag):
    """The flag as a number; NaN where an operand is."""
    if a != a or b != b:
        return np.nan
    return 1.0 if flag else 0.0


@kernel
def less(a, b):
    """Whether ``a < b``."""
    result = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        result[i] = known(a[i], b[i], a[i] < b[i])
    return result


@kernel
def less_or_equal(a, b):
    """Whether ``a <= b``."""
    result = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        result[i] = known(a[i], b[i], a[i] <= b[i])
    return result


@kernel
def equal(a, b):
    """Whether ``a == b``."""
    result = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        result[i] = known(a[i], b[i], a[i] == b[i])
    return result


@kernel
def not_equal(a, b):
    """Whether ``a != b``."""
    result = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        result[i] = known(a[i], b[i], a[i] != b[i])
    return result


@kernel
def both(a, b):
    """False where either is false, else null where either is null."""
    result = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        result[i] = 0.0 if a[i] == 0.0 or b[i] == 0.0 else known(a[i], b[i], True)
    return result


@kernel
def either(a, b):
    """True where either is true, else null where either is null."""
    result = np.empty(a.shape[0])
    for i in range(a.shape[0]):
        result[i] = 1.0 if a[i] == 1.0 or b[i] == 1.0 else known(a[i], b[i], False)
    return result
