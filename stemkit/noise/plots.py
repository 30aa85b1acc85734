"""Figure of a calibration: the measured curves with the fitted model."""

from __future__ import annotations

import math
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemkit.noise.background import BackgroundStatistics
from stemkit.noise.components import NoiseComponents
from stemkit.noise.model import NoiseModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stemkit.noise.registration import BeamDisplacement

__all__ = ["plot_calibration"]

#: Color of the measured points (chosen).
POINTS = "#31688e"
#: Color of the fitted curves (chosen).
FIT = "#e8543f"
#: Characters of a line of a title, which is as wide as a panel (chosen).
TITLE_LENGTH = 50
#: Bins of the spectra (chosen).
N_BINS = 24
#: RMS distance of the points from the fit, as a fraction of the largest point, from which it is stated (chosen).
MISFIT = 0.1
#: The same of the spectra, in standard deviations of the points (chosen).
MISFIT_OF_SPECTRUM = 2.5


def plot_calibration(model: NoiseModel, diagnostics: dict[str, Any]) -> Figure:
    """Six panels: variance against signal, covariance along the row, covariance of the background, displacement of the
    rows, and its spectra along x and along y. A note in a panel says where the fit does not describe the points.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(14, 7.6), layout="constrained")
    _variance(axes[0, 0], diagnostics["components"], model)
    _covariance_along_row(axes[0, 1], diagnostics["components"], model)
    _background(axes[0, 2], diagnostics["background"], model)
    _rows(axes[1, 0], diagnostics["displacement_x"], model, diagnostics["part"][0], len(diagnostics["faulty"]))
    _spectrum(axes[1, 1], diagnostics["displacement_x"], model, "x")
    _spectrum(axes[1, 2], diagnostics["displacement_y"], model, "y")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_title(fill(ax.get_title(), TITLE_LENGTH), fontsize=10)
    return figure


# --- pointwise noise, streaks and background ---------------------------------------------------------------------


def _variance(ax: Axes, components: NoiseComponents, model: NoiseModel) -> None:
    signal = components.signal
    ax.plot(signal, components.variance, "o", color=POINTS, ms=4)
    s = np.linspace(min(0.0, signal.min(initial=0.0)), max(1.0, signal.max(initial=1.0)), 50)
    ax.plot(s, components.pointwise_variance(s), color=FIT)
    _note_misfit(ax, components.variance, components.pointwise_variance(signal), components.count)
    kind = "counted" if model.pointwise.kind == "poisson" else f"shape {model.pointwise.shape:.2f}"
    ax.set(xlabel="signal (contrast)", ylabel="variance (contrast²)")
    ax.set_title(f"Pointwise: readout {components.readout:.3g}, gain {components.gain:.2g}, {kind}")
    ax.set_ylim(bottom=0)


def _covariance_along_row(ax: Axes, components: NoiseComponents, model: NoiseModel) -> None:
    # lag 0 has the pointwise variance, far above the rest
    shown, scan = components.lag > 0, model.scan
    ax.plot(components.lag[shown], components.covariance[shown], "o", color=POINTS, ms=4)
    ax.plot(components.lag[shown], components.fitted[shown], color=FIT)
    _note_misfit(ax, components.covariance[shown], components.fitted[shown])
    if shown.any():
        ax.axhline(0, color="0.7", lw=0.8)
        ax.set_xscale("log")
    ax.set(xlabel="lag along the row (px)", ylabel="covariance (contrast²)")
    kinds = [(scan.amplitude, scan.length), (scan.short_amplitude, scan.short_length)]
    length = ["whole rows" if math.isinf(length) else f"{length:.1f} px" for _, length in kinds]
    streaks = " and ".join(f"{a:.3g}, {g}" for (a, _), g in zip(kinds, length, strict=True) if a) or "none"
    ax.set_title(f"Streaks: {streaks}; correlation {model.pointwise.correlation_x:.2f}")


def _background(ax: Axes, statistics: BackgroundStatistics, model: NoiseModel) -> None:
    ax.plot(statistics.distance, statistics.covariance, ".", color=POINTS, ms=3)
    if len(statistics.fitted):
        ax.plot(statistics.distance, statistics.fitted, color=FIT)
        _note_misfit(ax, statistics.covariance, statistics.fitted)
    elif not np.any(statistics.covariance):
        _note(ax, "no noise" if len(statistics.covariance) else "not measured: no columns, or few pixels between them")
    ax.axhline(0, color="0.7", lw=0.8)
    ax.set(xlabel="distance, other rows (px)", ylabel="covariance (contrast²)")
    background = model.background
    text = f"{background.amplitude:.3g}, {background.length:.0f} px" if background.amplitude else "none"
    ax.set_title(f"Background: {text}")


# --- displacements -----------------------------------------------------------------------------------------------


def _rows(ax: Axes, displacement: BeamDisplacement | None, model: NoiseModel, rows: slice, n_rows: int) -> None:
    """Mean displacement of each row of the part of the image that was measured."""
    ax.set(xlabel="displacement along x (px)", ylabel="row")
    part = "" if rows.stop - rows.start == n_rows else f", rows {rows.start} to {rows.stop - 1} of {n_rows}"
    ax.set_title(f"Displacement: RMS of the model {model.scan.displacement:.2g} px{part}")
    if displacement is None:
        _note(ax, "no columns")
        return
    shifts = displacement.shifts.mean(axis=1)
    ax.plot(shifts, np.arange(rows.start, rows.stop), color=POINTS, lw=0.7)
    ax.locator_params(axis="x", nbins=6)
    ax.invert_yaxis()


def _spectrum(ax: Axes, displacement: BeamDisplacement | None, model: NoiseModel, axis: str) -> None:
    """Power of the rows' displacements in bins of the frequency, over that of white displacements of 1 px."""
    ax.set(xlabel="frequency (cycles per row)", ylabel="power (px²)")
    ax.set_title(_spectrum_title(model, axis))
    if displacement is None:
        _note(ax, "no columns")
        return
    if displacement.spectrum is None:
        _note(ax, "too few rows")
        return
    spectrum, parts = displacement.spectrum, displacement.parts
    n = len(spectrum.frequency)
    edges = np.unique(np.geomspace(1, n, N_BINS).astype(int))[:-1]
    count = np.diff(np.r_[edges, n])
    at = np.add.reduceat(spectrum.frequency, edges) / count
    scale = np.add.reduceat(spectrum.window.sum(axis=1), edges)
    power = np.add.reduceat(spectrum.ordinate**2, edges) / scale
    first = n - len(parts.fitted)
    fitted = np.add.reduceat(np.r_[np.full(first, np.nan), parts.fitted], edges) / scale
    ax.loglog(at, power, "o", color=POINTS, ms=4, label="rows")
    ax.loglog(at, fitted, color=FIT, label="model")
    noise = parts.noise * np.add.reduceat(spectrum.noise, edges) / scale
    ax.loglog(at, noise, color="0.6", lw=0.8, ls="--", label="noise of the estimates")
    if first > 1:
        ax.axvspan(
            at[0] / 1.3, spectrum.frequency[first], color="0.93", lw=0, zorder=0, label="not fitted: may be strain"
        )
    is_hum = np.zeros(len(at), dtype=bool)
    if parts.hum:
        frequency = 1 / model.scan.hum_period
        alias = abs(frequency - round(frequency))
        is_hum[np.searchsorted(spectrum.frequency[edges], alias, side="right") - 1] = True
        ax.axvline(alias, color=FIT, lw=0.8, ls=":", label=f"hum, once in {model.scan.hum_period:.3g} rows")
    # single ordinates may be close to 0
    ax.set_ylim(bottom=0.1 * float(np.min(np.r_[noise[first > 0 :], power[np.isfinite(fitted)]])))
    compared = np.isfinite(fitted) & ~is_hum
    deviation = (power / fitted - 1)[compared] / np.sqrt(2 / count[compared])
    rms = float(np.sqrt((deviation**2).mean()))
    if parts.rejected:
        _legend(ax, "columns of a row do not share the drift\nor hum of this spectrum: it is the specimen's")
    else:
        _legend(ax, f"RMS distance from the model: {rms:.1f} standard deviations" * (rms > MISFIT_OF_SPECTRUM))


def _spectrum_title(model: NoiseModel, axis: str) -> str:
    suffix = "_y" if axis == "y" else ""
    jitter, drift, hum = (getattr(model.scan, name + suffix) for name in ("jitter", "drift", "hum"))
    slow = [f"drift {drift:.2g} px, {model.scan.drift_rows:.2g} rows"] if drift else []
    slow += [f"hum {hum:.2g} px"] if hum else []
    return "; ".join([f"Jitter along {axis} {jitter:.2g} px", *slow])


# --- notes -------------------------------------------------------------------------------------------------------


def _note_misfit(ax: Axes, points: NDArray, fitted: NDArray, weight: NDArray | None = None) -> None:
    """State the RMS distance of the points from the fit where it is large; without noise, say so."""
    if not np.any(points):
        _note(ax, "no noise")
        return
    rms = math.sqrt(float(np.average((points - fitted) ** 2, weights=weight)))
    if rms > MISFIT * float(np.abs(points).max()):
        _legend(ax, f"RMS distance from the fit: {rms:.2g} contrast²")


def _legend(ax: Axes, note: str = "") -> None:
    """A legend where it hides the fewest points, with a note on the fit; the note alone if there are no labels."""
    handles, _ = ax.get_legend_handles_labels()
    legend = ax.legend(handles=handles, fontsize=8, title=note, title_fontsize=8, frameon=bool(handles))
    legend.get_title().set_color(FIT)


def _note(ax: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color="0.5")
