"""Spectra, sign changes and grids of frames, from their definitions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import mpmath
import numpy as np
from scipy import signal

from operators.expr import Spectral
from tests.naive_numbers import Arithmetic, Exact, Number, Value, has_spread, shortened

FIXED_BITS = 200


def grid_cell(
    offset_ns: int, length: int, period_ns: Fraction, jitter: float, *, closed: str
) -> int | None:
    """The cell of a sample `offset_ns` before the end of its window, if it is near one."""
    from_start = length * period_ns - offset_ns - (period_ns if closed == "right" else 0)
    cell = math.floor(from_start / period_ns + Fraction(1, 2))
    near = abs(from_start - cell * period_ns) <= Fraction(jitter) * period_ns
    return cell if near and 0 <= cell < length else None


def zero_crossing_rate(a: Arithmetic, frame: Sequence[Value]) -> Value:
    """Share of neighbouring valid samples whose signs differ; zero counts as positive."""
    x = [value for value in frame if value is not None]
    if len(x) < 2:
        return None
    crossings = sum((v < 0) != (w < 0) for v, w in itertools.pairwise(x))
    return a.number(crossings) / (len(x) - 1)


def filled_share(a: Arithmetic, frame: Sequence[Value]) -> Value:
    """Share of the samples that are there."""
    return a.number(sum(value is not None for value in frame)) / max(len(frame), 1)


def _exact_density(x: Sequence[Number], rate_hz: float) -> list[Number]:
    """The density by the plain Fourier sum, in fixed point: exact to 200 bits of the greatest."""
    n = len(x)
    exact = [Fraction(value) for value in x]
    middle = sum(exact, Fraction(0)) / n
    largest = max(abs(value - middle) for value in exact)
    with mpmath.workprec(FIXED_BITS + 50):
        angles = [2 * mpmath.pi * k / n for k in range(n)]
        cos = [int(mpmath.ldexp(mpmath.cos(angle), FIXED_BITS)) for angle in angles]
        sin = [int(mpmath.ldexp(mpmath.sin(angle), FIXED_BITS)) for angle in angles]
    one = 1 << FIXED_BITS
    taper = [Fraction(one - value, 2 * one) for value in cos]
    scaled = [
        int((value - middle) * weight / largest * one)
        for value, weight in zip(exact, taper, strict=True)
    ]
    unit = (largest / (one * one)) ** 2 / (Fraction(rate_hz) * sum(w * w for w in taper))
    densities: list[Number] = []
    for k in range(n // 2 + 1):
        real = sum(value * cos[k * i % n] for i, value in enumerate(scaled))
        imaginary = sum(value * sin[k * i % n] for i, value in enumerate(scaled))
        doubled = 1 if k == 0 or 2 * k == n else 2
        densities.append(shortened(doubled * (real * real + imaginary * imaginary) * unit))
    return densities


def power_density(a: Arithmetic, x: Sequence[Number], rate_hz: float) -> list[Number]:
    """One-sided power density of the frame, mean removed, Hann taper."""
    if not has_spread(x):
        return [a.number(0)] * (len(x) // 2 + 1)
    if isinstance(a, Exact):
        return _exact_density(x, rate_hz)
    _, density = signal.periodogram(
        np.array([float(value) for value in x]),
        rate_hz,
        window="hann",
        detrend="constant",
        scaling="density",
    )
    return [a.number(float(value)) for value in density]


def in_band(k: int, n: int, rate_hz: float, low_hz: Fraction, high_hz: Fraction) -> bool:
    """Whether bin `k` lies in ``low <= f < high``; a band that ends at Nyquist includes it."""
    frequency = Fraction(k) * Fraction(rate_hz) / n
    return low_hz <= frequency < high_hz or (2 * k == n and low_hz <= frequency <= high_hz)


@dataclass(frozen=True)
class Spectrum:
    """A power density and what is read off it."""

    a: Arithmetic
    frequency: list[Number]
    density: list[Number]

    @property
    def power(self) -> Number:
        return self.a.total(self.density)

    @property
    def centroid(self) -> Number:
        pairs = zip(self.frequency, self.density, strict=True)
        return self.a.total([f * p for f, p in pairs]) / self.power

    def bandwidth(self) -> Number:
        middle = self.centroid
        pairs = zip(self.frequency, self.density, strict=True)
        terms = [p * (f - middle) * (f - middle) for f, p in pairs]
        return self.a.root(self.a.total(terms) / self.power)

    def dominant_frequency(self) -> Number:
        best = max(self.density[1:])
        return self.frequency[1 + self.density[1:].index(best)] if best > 0 else math.nan

    def rolloff(self, share: float) -> Number:
        enough = self.a.number(share) * self.power
        return next(
            f for k, f in enumerate(self.frequency) if self.a.total(self.density[: k + 1]) >= enough
        )

    def entropy(self) -> Number:
        shares = [p / self.power for p in self.density if p > 0]
        terms = [-share * self.a.log(share) for share in shares]
        return self.a.total(terms) / self.a.log(self.a.number(len(self.density)))


MEASURES: dict[str, Callable[[Spectrum, float], Number]] = {
    "dominant_frequency": lambda s, share: s.dominant_frequency(),
    "spectral_centroid": lambda s, share: s.centroid,
    "spectral_bandwidth": lambda s, share: s.bandwidth(),
    "spectral_rolloff": lambda s, share: s.rolloff(share),
    "spectral_entropy": lambda s, share: s.entropy(),
}


def band_power(
    a: Arithmetic, expr: Spectral, density: list[Number], n: int, rate_hz: float
) -> Number:
    """The sum of the densities in the band, times the width of a bin."""
    unit = Fraction(rate_hz) / 2 if expr.of_nyquist else Fraction(1)
    low_hz, high_hz = Fraction(expr.low) * unit, Fraction(expr.high) * unit
    inside = [p for k, p in enumerate(density) if in_band(k, n, rate_hz, low_hz, high_hz)]
    return a.total(inside) * a.number(Fraction(rate_hz) / n)


def spectral(a: Arithmetic, expr: Spectral, frame: Sequence[Value], rate_hz: float) -> Value:
    """A number read off the power density of a frame; null unless every sample is there."""
    x = [value for value in frame if value is not None]
    n = len(x)
    if n < len(frame) or n < 2:
        return None
    density = power_density(a, x, rate_hz)
    if expr.measure.name == "band_power":
        return a.checked(band_power(a, expr, density, n, rate_hz))
    if not any(density):
        return None
    frequency = [a.number(Fraction(k) * Fraction(rate_hz) / n) for k in range(len(density))]
    return a.checked(MEASURES[expr.measure.name](Spectrum(a, frequency, density), expr.low))
