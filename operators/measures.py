"""What is read off the power density of a frame, one row of a table each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from operators.aggregates import Kernel
from operators.kernels import spectra
from operators.units import ONE, Unit


@dataclass(frozen=True, slots=True)
class SpectralMeasure:
    """A number read off a power density."""

    name: str
    kernel: Kernel
    unit: Callable[[Unit], Unit]
    scale: str
    formula: str


def _hertz(unit: Unit) -> Unit:
    return Unit.named("Hz")


DOMINANT_FREQUENCY = SpectralMeasure(
    "dominant_frequency", spectra.dominant_frequency, _hertz, "a bin", "argmax_{f > 0} P(f)"
)
CENTROID = SpectralMeasure(
    "spectral_centroid", spectra.centroid, _hertz, "Nyquist", "sum(f P) / sum(P)"
)
BANDWIDTH = SpectralMeasure(
    "spectral_bandwidth", spectra.bandwidth, _hertz, "Nyquist", "sqrt(sum((f - c)^2 P) / sum(P))"
)
ROLLOFF = SpectralMeasure(
    "spectral_rolloff", spectra.rolloff, _hertz, "a bin", "min f: sum(P up to f) >= share sum(P)"
)
ENTROPY = SpectralMeasure(
    "spectral_entropy", spectra.entropy, lambda unit: ONE, "1", "-sum(p log p) / log(bins)"
)
BAND_POWER = SpectralMeasure(
    "band_power", spectra.band_power, lambda unit: unit * unit, "mean square", "sum(P df) in band"
)
