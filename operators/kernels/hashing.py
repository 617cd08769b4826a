"""Stable hashes of strings, from their UTF-8 bytes: FNV-1a, 64 bits, with MurmurHash3's finish."""

from __future__ import annotations

import numpy as np

from operators.kernels import inlined, kernel

KEY_GROUPS = 64
"""Number of key groups; fixed, because snapshots are kept by key group."""


@inlined
def hash_text(data, start, stop):
    """The hash of some bytes, as int64."""
    h = np.uint64(14695981039346656037)
    for at in range(start, stop):
        h = (h ^ np.uint64(data[at])) * np.uint64(1099511628211)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    return np.int64(h ^ (h >> np.uint64(33)))


@kernel
def hash_strings(data, offsets):
    """Hashes of the byte strings ``data[offsets[i]:offsets[i + 1]]``, as int64."""
    result = np.empty(offsets.shape[0] - 1, np.int64)
    for i in range(result.shape[0]):
        result[i] = hash_text(data, offsets[i], offsets[i + 1])
    return result


def hash_names(names: list[str]) -> np.ndarray:
    """Hashes of strings, int64[len(names)].

    >>> int(hash_names(["AAPL"])[0]) == int(hash_names(["MSFT", "AAPL"])[1])
    True
    """
    encoded = [name.encode() for name in names]
    offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(name) for name in encoded], out=offsets[1:])
    return hash_strings(np.frombuffer(b"".join(encoded) or b"\0", dtype=np.uint8), offsets)


def key_groups(names: list[str]) -> np.ndarray:
    """Key group of each entity, int64 in ``0 .. KEY_GROUPS``."""
    return hash_names(names) & (KEY_GROUPS - 1)
