"""Smallest errors that one image allows: bounds for the numbers that ``benchmarks/calibration.py`` compares.

A number such as the RMS of the drift is compared with the value realised in the image. Even if every row's displacement
were measured without noise, its division into jitter and drift would be uncertain, since both have all frequencies.
Each ordinate of the spectrum is the sum ``z = D + R`` of the wanted part, of variance d, and the rest, of variance r.
Given z, D is normal with the mean ``w z``, ``w = d / (d + r)``, and the variance ``w r``. The mean square of D has
therefore the conditional variance ``sum(2 w^2 r^2 + 4 w^2 d r) / n^2``. Ordinates that are not observed add ``2 d^2``,
and the unknown parameters of the spectra add ``g^T I^-1 g``, with their Fisher information I and the gradient g of the
expected mean square. This sum is the bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from plain_scenes import Noise

from stemkit.periodicity import find_periodicity

__all__ = ["bounds"]

#: Displacements that change more slowly than over this many lattice vectors count as not observed, since they may be
#: strain of the specimen (that of stemkit.noise.registration).
SLOW = 3.0
#: Step of the numerical derivatives with respect to logarithms (chosen).
STEP = 1e-3


@dataclass(frozen=True)
class Spectra:
    """Variances of the wanted part and of the rest, and the number of independent ordinates of each frequency."""

    wanted: NDArray
    rest: NDArray
    count: float
    observed: NDArray


def bounds(noise: Noise, signal: NDArray, pointwise_variance: NDArray) -> dict[str, float]:
    """Standard deviation of the best estimate of each number, absolute; only of those that are not 0.

    Parameters
    ----------
    noise : Noise
        The true one.
    signal : ndarray of shape (n_y, n_x)
        Without noise, in units of the contrast.
    pointwise_variance : ndarray of shape (n_y, n_x)
        In units of the contrast squared.
    """
    found: dict[str, float] = {}
    vectors = find_periodicity(signal).vectors
    lowest = 0.0 if vectors is None else 1 / (SLOW * float(np.hypot(*vectors.T).min()))
    for axis, end in ((1, ""), (0, "_y")):
        slope = np.gradient(signal, axis=axis)
        # that of a row of mean information; streaks, and errors of the columns, would add to it
        estimates = len(signal) / max(float((slope**2 / pointwise_variance).sum()), 1e-12)
        found |= _displacement_bounds(noise, end, signal.shape, estimates, lowest)
    return found | _streak_bounds(noise, signal.shape, float(pointwise_variance.mean()))


# --- displacements -----------------------------------------------------------------------------------------------


def _displacement_bounds(
    noise: Noise, end: str, shape: tuple[int, int], estimates: float, lowest: float
) -> dict[str, float]:
    """Of the displacement along one axis; ``estimates`` is the variance with which a row's is measured, px squared."""
    n_y, n_x = shape
    jitter, drift, hum = (getattr(noise, name + end) for name in ("jitter", "drift", "hum"))
    frequency = np.arange(1, n_y) / (2 * n_y)
    observed = frequency > lowest
    # the fraction of the jitter's variance that the mean of a row has
    between_rows = min(1.0, 2 * math.sqrt(math.pi) * noise.jitter_length / n_x)

    def of_drift(p: NDArray) -> Spectra:
        flat = np.full(len(frequency), math.exp(p[2]))
        return Spectra(math.exp(p[0]) * _drift_spectrum(frequency, math.exp(p[1])), flat, 1.0, observed)

    def of_jitter(p: NDArray) -> Spectra:
        flat = np.full(len(frequency), math.exp(p[2]))
        rest = estimates + math.exp(p[0]) * _drift_spectrum(frequency, math.exp(p[1]))
        return Spectra(flat, rest, 1.0, observed)

    found: dict[str, float] = {}
    flat = between_rows * jitter**2 + estimates
    if drift:
        at = np.log([drift**2, noise.drift_rows, flat])
        std, covariance = _mean_square_std(of_drift, at, n_y)
        found[f"drift{end}"] = std / (2 * drift)
        rows = noise.drift_rows * math.sqrt(covariance[1, 1])
        found["drift_rows"] = min(rows, found.get("drift_rows", math.inf))
    if jitter and drift:
        at = np.log([drift**2, noise.drift_rows, between_rows * jitter**2])
        found[f"jitter{end}"] = _mean_square_std(of_jitter, at, n_y)[0] / (2 * jitter)
    elif jitter:
        # the remainder is the noise of the estimates: chi squared, and its product with the jitter
        variance = (2 * estimates**2 + 4 * estimates * between_rows * jitter**2) / n_y
        found[f"jitter{end}"] = math.sqrt(variance) / (2 * jitter)
    if hum:
        f = 1 / noise.hum_period
        power = flat + drift**2 * float(_drift_spectrum(np.array([abs(f - round(f))]), noise.drift_rows)[0])
        # Rife and Boorstyn 1974, doi:10.1109/TIT.1974.1055282
        found[f"hum{end}"] = math.sqrt(2 * power / n_y)
    return found


def _drift_spectrum(frequency: NDArray, rows: float) -> NDArray:
    """Spectrum of the covariance ``exp(-k^2 / (4 rows^2))``, frequencies in cycles per row, its aliases included."""
    aliases = frequency[:, None] + np.arange(-3, 4)
    gaussian = 2 * math.sqrt(math.pi) * rows * np.exp(-((2 * math.pi * aliases * rows) ** 2))
    return np.maximum(gaussian.sum(1), 1e-12)


# --- streaks -----------------------------------------------------------------------------------------------------


def _streak_bounds(noise: Noise, shape: tuple[int, int], pointwise: float) -> dict[str, float]:
    if not noise.short_streaks:
        return {}
    n_y, n_x = shape
    frequency = np.fft.rfftfreq(n_x)
    long = min(noise.streaks_length, n_x)

    def spectra(p: NDArray) -> Spectra:
        short = math.exp(p[0]) * _drift_spectrum(frequency, math.exp(p[1]))
        whole = math.exp(p[2]) * _drift_spectrum(frequency, math.exp(p[3])) if noise.streaks else 0.0
        r = p[-1]
        white = math.exp(p[-2]) * (1 - r**2) / (1 + r**2 - 2 * r * np.cos(2 * math.pi * frequency))
        return Spectra(short, whole + white, 2.0 * n_y, np.ones(len(frequency), dtype=bool))

    at = [math.log(noise.short_streaks**2), math.log(noise.short_streaks_length)]
    at += [math.log(noise.streaks**2), math.log(long)] if noise.streaks else []
    at += [math.log(pointwise), noise.correlation_x]
    std, covariance = _mean_square_std(spectra, np.array(at), n_x * n_y)
    return {
        "short_streaks": std / (2 * noise.short_streaks),
        "short_streaks_length": noise.short_streaks_length * math.sqrt(covariance[1, 1]),
    }


# --- the bound ---------------------------------------------------------------------------------------------------


def _mean_square_std(spectra: Callable[[NDArray], Spectra], at: NDArray, n: int) -> tuple[float, NDArray]:
    """Standard deviation of the mean square of the wanted part, and the covariance of the parameters."""
    true = spectra(at)
    d, r, seen = true.wanted, true.rest, true.observed
    v = d + r
    w = d / v
    steps = STEP * np.eye(len(at))
    changes = [(spectra(at + step), spectra(at - step)) for step in steps]
    of_wanted, of_rest = (
        np.array([(getattr(up, name) - getattr(down, name)) / (2 * STEP) for up, down in changes])
        for name in ("wanted", "rest")
    )
    scaled = ((of_wanted + of_rest) / v)[:, seen]
    covariance = np.linalg.pinv(true.count / 2 * scaled @ scaled.T, hermitian=True)
    of_share = (of_wanted * v - d * (of_wanted + of_rest)) / v**2
    expected = np.where(seen, of_share * (2 * d + r) + w * of_rest, of_wanted)
    gradient = true.count * expected.sum(1) / n
    conditional = np.where(seen, 2 * (w * r) ** 2 + 4 * w**2 * d * r, 2 * d**2)
    variance = true.count * float(conditional.sum()) / n**2 + float(gradient @ covariance @ gradient)
    return math.sqrt(variance), covariance
