"""Units of measure, carried through expressions so that adding a price to a volume is an error."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True, slots=True)
class Unit:
    """A product of named base units with rational powers.

    >>> price = Unit.named("price")
    >>> str(price / price), str(price * price), str((price * price).root(2))
    ('1', 'price^2', 'price')
    """

    powers: tuple[tuple[str, Fraction], ...] = ()

    @staticmethod
    def named(name: str) -> Unit:
        """A base unit; ``"1"`` and ``""`` are the dimensionless unit."""
        return Unit() if name in {"", "1"} else Unit(((name, Fraction(1)),))

    def _combine(self, other: Unit, sign: int) -> Unit:
        powers = dict(self.powers)
        for name, power in other.powers:
            powers[name] = powers.get(name, Fraction(0)) + sign * power
        return Unit(tuple(sorted((name, p) for name, p in powers.items() if p != 0)))

    def __mul__(self, other: Unit) -> Unit:
        return self._combine(other, 1)

    def __truediv__(self, other: Unit) -> Unit:
        return self._combine(other, -1)

    def root(self, degree: int) -> Unit:
        """The unit whose ``degree``-th power is this one."""
        return Unit(tuple((name, power / degree) for name, power in self.powers))

    def __str__(self) -> str:
        shown = [name if power == 1 else f"{name}^{power}" for name, power in self.powers]
        return " ".join(shown) or "1"


ONE = Unit()
"""The dimensionless unit."""
