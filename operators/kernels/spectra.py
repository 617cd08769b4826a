"""Spectral features of frames, from one-sided power densities.

The density is that of ``scipy.signal.periodogram(x, rate, window="hann", detrend="constant",
scaling="density")``: mean removed, periodic Hann taper, ``|rfft|^2 / (rate * sum(taper^2))``,
doubled but at zero and Nyquist. numpy's FFT (pocketfft) gives the same bits whatever the number
of rows it is called with; ``tests/test_spectra.py`` holds it to that.
"""

from __future__ import annotations

import numpy as np

from operators.kernels import kernel


@kernel
def tapered(frames, taper):
    """Frames with their mean removed, times the taper; C-contiguous float64[frames, length]."""
    result = np.empty_like(frames)
    for q in range(frames.shape[0]):
        # From the first sample on: a constant frame has no power, and an offset costs no digit.
        first, total = frames[q, 0], 0.0
        for i in range(frames.shape[1]):
            total += frames[q, i] - first
        mean = total / frames.shape[1]
        for i in range(frames.shape[1]):
            result[q, i] = (frames[q, i] - first - mean) * taper[i]
    return result


def power_density(frames: np.ndarray, rate_hz: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies in Hz, float64[bins], and one-sided densities, float64[frames, bins]."""
    length = frames.shape[1]
    taper = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(length) / length)
    spectrum = np.fft.rfft(tapered(frames, taper), axis=1)
    density = spectrum.real**2 + spectrum.imag**2
    density *= 1.0 / (rate_hz * float(np.sum(taper * taper)))
    density[:, 1 : (length + 1) // 2] *= 2.0
    return np.arange(density.shape[1]) * (rate_hz / length), density


@kernel
def dominant_frequency(frequency, density, a, b, result):
    """Frequency of the greatest density, the lowest of equals; zero frequency is left out."""
    for q in range(density.shape[0]):
        best = 1
        for k in range(2, density.shape[1]):
            if density[q, k] > density[q, best]:
                best = k
        result[q] = frequency[best] if density[q, best] > 0.0 else np.nan


@kernel
def centroid(frequency, density, a, b, result):
    """Mean frequency weighted by density."""
    for q in range(density.shape[0]):
        total, moment = 0.0, 0.0
        for k in range(density.shape[1]):
            total += density[q, k]
            moment += density[q, k] * frequency[k]
        result[q] = moment / total if total > 0.0 else np.nan


@kernel
def bandwidth(frequency, density, a, b, result):
    """Root of the density-weighted mean square distance from the centroid."""
    for q in range(density.shape[0]):
        total, moment = 0.0, 0.0
        for k in range(density.shape[1]):
            total += density[q, k]
            moment += density[q, k] * frequency[k]
        middle = moment / total
        spread = 0.0
        for k in range(density.shape[1]):
            spread += density[q, k] * (frequency[k] - middle) ** 2
        result[q] = np.sqrt(spread / total) if total > 0.0 else np.nan


@kernel
def rolloff(frequency, density, a, b, result):
    """Lowest frequency at or below which the share ``a`` of the power lies."""
    for q in range(density.shape[0]):
        total = 0.0
        for k in range(density.shape[1]):
            total += density[q, k]
        reached = 0.0
        result[q] = np.nan
        for k in range(density.shape[1]):
            reached += density[q, k]
            if total > 0.0 and reached >= a * total:
                result[q] = frequency[k]
                break


@kernel
def entropy(frequency, density, a, b, result):
    """Shannon entropy of the normalised density over its greatest value, in [0, 1]."""
    for q in range(density.shape[0]):
        total = 0.0
        for k in range(density.shape[1]):
            total += density[q, k]
        sum_of_terms = 0.0
        for k in range(density.shape[1]):
            share = density[q, k] / total
            if share > 0.0:
                sum_of_terms -= share * np.log(share)
        result[q] = sum_of_terms / np.log(density.shape[1]) if total > 0.0 else np.nan


@kernel
def band_power(frequency, density, a, b, result):
    """Power in ``a <= f < b``: the sum of densities times the width of a bin."""
    width = frequency[1] - frequency[0]
    for q in range(density.shape[0]):
        total = 0.0
        for k in range(density.shape[1]):
            if a <= frequency[k] < b:
                total += density[q, k]
        result[q] = total * width
