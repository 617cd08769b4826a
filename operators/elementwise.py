"""Functions of the values of one row: how they are computed, shown, and what their units are.

Values are float64 with NaN for null; flags are 0.0, 1.0 or NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from operators.kernels import flags, runs
from operators.units import ONE, Unit

Array = npt.NDArray[np.float64]
UnitRule = Callable[[str, Sequence[Unit | None]], Unit]


@dataclass(frozen=True, slots=True)
class Elementwise:
    """One function of the values of a row."""

    name: str
    compute: Callable[..., Array]
    unit: UnitRule
    spelling: str
    kind: str = ""
    """Kind of the result; empty for that of the last operands."""
    takes_flags: bool = False
    scale: str = "4 ulp of the operands"
    nulls: str = "null where an operand is null or the result is not finite"

    def show(self, *operands: str) -> str:
        """The function applied to formulas."""
        return self.spelling.format(*operands)


def _finite(compute: Callable[..., Array]) -> Callable[..., Array]:
    """Null where the result is not finite; the engine has told numpy not to warn of that."""

    def computed(*operands: Array) -> Array:
        result = compute(*operands)
        runs.null_where_not_finite(result)
        return result

    return computed


def _swapped(compare: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    return lambda a, b: compare(b, a)


def _fill_null(a: Array, b: Array) -> Array:
    result = a.copy()
    np.copyto(result, b, where=np.isnan(a))
    return result


def _when(condition: Array, value: Array, other: Array) -> Array:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0.0, value, other))


def _equal_units(where: str, units: Sequence[Unit | None]) -> Unit:
    """All operands have one unit; constants take it on."""
    known = [unit for unit in units if unit is not None]
    if any(unit != known[0] for unit in known):
        msg = f"{where}: operands must have one unit, got {' and '.join(map(str, known))}"
        raise TypeError(msg)
    return known[0] if known else ONE


def _no_unit(where: str, units: Sequence[Unit | None]) -> Unit:
    _equal_units(where, units)
    return ONE


def _dimensionless(where: str, units: Sequence[Unit | None]) -> Unit:
    for unit in units:
        if unit not in (None, ONE):
            msg = (
                f"{where}: the operand must have no unit (divide by a reference first), got {unit}"
            )
            raise TypeError(msg)
    return ONE


def _product(where: str, units: Sequence[Unit | None]) -> Unit:
    return (units[0] or ONE) * (units[1] or ONE)


def _quotient(where: str, units: Sequence[Unit | None]) -> Unit:
    return (units[0] or ONE) / (units[1] or ONE)


def _chosen(where: str, units: Sequence[Unit | None]) -> Unit:
    return _equal_units(where, units[1:])


def _root(where: str, units: Sequence[Unit | None]) -> Unit:
    return (units[0] or ONE).root(2)


def _flag(name: str, compare: Callable[[Array, Array], Array]) -> Elementwise:
    return Elementwise(
        name, compare, _no_unit, f"({{}} {name} {{}})", kind="flag", scale="exact",
        nulls="null where an operand is null",
    )  # fmt: skip


_TABLE = (
    Elementwise("+", _finite(np.add), _equal_units, "({} + {})", kind="number"),
    Elementwise("-", _finite(np.subtract), _equal_units, "({} - {})", kind="number"),
    Elementwise("*", _finite(np.multiply), _product, "{} * {}", kind="number"),
    Elementwise("/", _finite(np.divide), _quotient, "{} / {}", kind="number"),
    Elementwise("negative", _finite(np.negative), _equal_units, "-{}", kind="number"),
    Elementwise("abs", _finite(np.abs), _equal_units, "abs({})", kind="number"),
    Elementwise("log", _finite(np.log), _dimensionless, "log({})", kind="number"),
    Elementwise("exp", _finite(np.exp), _dimensionless, "exp({})", kind="number"),
    Elementwise("sqrt", _finite(np.sqrt), _root, "sqrt({})", kind="number"),
    Elementwise("min_of", np.minimum, _equal_units, "min({}, {})", scale="exact"),
    Elementwise("max_of", np.maximum, _equal_units, "max({}, {})", scale="exact"),
    _flag("<", flags.less),
    _flag("<=", flags.less_or_equal),
    _flag(">", _swapped(flags.less)),
    _flag(">=", _swapped(flags.less_or_equal)),
    _flag("==", flags.equal),
    _flag("!=", flags.not_equal),
    Elementwise("&", flags.both, _no_unit, "({} & {})", "flag", takes_flags=True, scale="exact",
                nulls="Kleene: false where either is false, else null where either is null"),
    Elementwise("|", flags.either, _no_unit, "({} | {})", "flag", takes_flags=True, scale="exact",
                nulls="Kleene: true where either is true, else null where either is null"),
    Elementwise("not", lambda a: 1.0 - a, _no_unit, "~{}", "flag", takes_flags=True, scale="exact"),
    Elementwise("is_null", lambda a: np.isnan(a).astype(np.float64), _no_unit, "is_null({})",
                "flag", scale="exact", nulls="never null"),
    Elementwise("fill_null", _fill_null, _equal_units,
                "fill_null({}, {})", scale="exact", nulls="null where both are null"),
    Elementwise("when", _when, _chosen, "when({}).then({}).otherwise({})", scale="exact",
                nulls="null where the condition or the chosen value is null"),
)  # fmt: skip

FUNCTIONS = {function.name: function for function in _TABLE}
