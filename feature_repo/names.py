"""What a set is called wherever its vectors are looked up: views, services and tables."""

from __future__ import annotations

from operators.feature_set import FeatureSet


def view_name(feature_set: FeatureSet) -> str:
    """The name of a set's view, of its service and of its table, such as ``market_fs_v1``.

    Raises:
        ValueError: when name and version make no identifier, which stores need for tables.
    """
    name = f"{feature_set.name}_{feature_set.version}"
    if not name.isidentifier():
        msg = (
            f"feature set `{feature_set.name}`: for Feast and tables, name and version must be "
            f"letters, digits and `_`, got {name!r}"
        )
        raise ValueError(msg)
    return name


def join_keys(feature_set: FeatureSet) -> list[str]:
    """The columns that a vector is looked up by: the key of the entity, and of its series."""
    return [feature_set.entity, *([feature_set.series] if feature_set.series else [])]
