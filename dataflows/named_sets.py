"""Feature sets by the name they have on the command line."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from operators.feature_set import FeatureSet


class UnknownSetError(ValueError):
    """A name that is no feature set's."""


def shipped_sets() -> dict[str, FeatureSet]:
    """Gives the sets of the feature repository, by name."""
    from feature_repo.sets import ALL

    return ALL


def named_set(name: str) -> FeatureSet:
    """Finds a set.

    Args:
        name: of a shipped set, or ``module:attribute``, with the module found from the current
            folder.

    Raises:
        UnknownSetError: when there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon:
        known = shipped_sets()
        if name in known:
            return known[name]
        msg = (
            f"feature set {name!r}: must be one of {sorted(known)}, or `module:attribute` of your "
            "own, such as `my_features:wide`"
        )
        raise UnknownSetError(msg)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0] and error.name != module:
            raise
        msg = f"feature set {name!r}: module `{module}` must be importable from {here}, found none"
        raise UnknownSetError(msg) from None
    declared = getattr(found, attribute, None)
    if isinstance(declared, FeatureSet):
        return declared
    there = [key for key, value in vars(found).items() if isinstance(value, FeatureSet)]
    got = "nothing of that name" if declared is None else f"a {type(declared).__name__}"
    msg = f"feature set {name!r}: must be a FeatureSet, found {got}; the module has {there}"
    raise UnknownSetError(msg)
