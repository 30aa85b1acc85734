"""Figure of a calibration: the measured curves with the fitted model, and figure 3 of Li et al. for comparison."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from stemkit.noise.components import NoiseComponents
from stemkit.noise.filter_residuals import ResidualCurve
from stemkit.noise.model import NoiseModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stemkit.noise.background import BackgroundStatistics
    from stemkit.noise.registration import BeamDisplacement

__all__ = ["plot_calibration"]

#: Color of the measured points (chosen).
POINTS = "#31688e"
#: Color of the fitted curves (chosen).
FIT = "#e8543f"
#: Bins of the spectra (chosen).
N_BINS = 24


def plot_calibration(model: NoiseModel, diagnostics: dict[str, Any]) -> Figure:
    """Eight panels: the two curves of the paper's figure 3 (residuals of its filters), variance against signal,
    displacement of the rows, covariance along the row, covariance of the background, and spectra of the displacements
    of the rows along x and along y.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(17, 7.2), layout="constrained")
    _filter_residual(axes[0, 0], diagnostics["scan"], model.contrast)
    axes[0, 0].set(title="Figure 3: scan noise", xlabel="gradient (contrast / px)", ylabel="scan residual (contrast)")
    _filter_residual(axes[0, 1], diagnostics["pointwise"], model.contrast)
    axes[0, 1].set(title="Figure 3: pointwise noise", xlabel="pixel value (contrast)")
    axes[0, 1].set_ylabel("pointwise residual (contrast)")
    _variance(axes[0, 2], diagnostics["components"], model)
    _rows(axes[0, 3], diagnostics["displacement_x"], model)
    _covariance_along_row(axes[1, 0], diagnostics["components"], model)
    _background(axes[1, 1], diagnostics["background"], model)
    _spectrum(axes[1, 2], diagnostics["displacement_x"], model, "x")
    _spectrum(axes[1, 3], diagnostics["displacement_y"], model, "y")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
    return figure


def _filter_residual(ax: Axes, curve: ResidualCurve, contrast: float) -> None:
    x = curve.x / contrast
    ax.plot(x, curve.y / contrast, "o", color=POINTS, ms=4)
    if not np.any(curve.y):
        _note(ax, "no noise")
    if len(x):
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, curve.intercept / contrast + curve.slope * ends, color=FIT)
    ax.set_ylim(bottom=0)


def _variance(ax: Axes, components: NoiseComponents, model: NoiseModel) -> None:
    signal = components.signal
    if not np.any(components.variance):
        _note(ax, "no noise")
    ax.plot(signal, components.variance, "o", color=POINTS, ms=4)
    s = np.linspace(min(0.0, signal.min(initial=0.0)), max(1.0, signal.max(initial=1.0)), 50)
    ax.plot(s, components.pointwise_variance(s), color=FIT)
    kind = "counted" if model.pointwise.kind == "poisson" else f"shape {model.pointwise.shape:.2f}"
    ax.set(xlabel="signal (contrast)", ylabel="variance (contrast²)")
    ax.set_title(f"Pointwise: readout {components.readout:.3g}, gain {components.gain:.2g}, {kind}")
    ax.set_ylim(bottom=0)


def _covariance_along_row(ax: Axes, components: NoiseComponents, model: NoiseModel) -> None:
    # lag 0 has the pointwise variance, far above the rest
    shown, scan = components.lag > 0, model.scan
    ax.plot(components.lag[shown], components.covariance[shown], "o", color=POINTS, ms=4)
    ax.plot(components.lag[shown], components.fitted[shown], color=FIT)
    if shown.any():
        ax.axhline(0, color="0.7", lw=0.8)
        ax.set_xscale("log")
    else:
        _note(ax, "no noise")
    ax.set(xlabel="lag along the row (px)", ylabel="covariance (contrast²)")
    length = "whole rows" if math.isinf(scan.length) else f"{scan.length:.1f} px"
    short = f" and {scan.short_amplitude:.3g}, {scan.short_length:.1f} px" if scan.short_amplitude else ""
    ax.set_title(f"Streaks {scan.amplitude:.3g}, {length}{short}; correlation {model.pointwise.correlation_x:.2f}")


def _background(ax: Axes, statistics: BackgroundStatistics, model: NoiseModel) -> None:
    ax.plot(statistics.distance, statistics.covariance, ".", color=POINTS, ms=3)
    if not np.any(statistics.covariance):
        _note(ax, "no noise")
    if len(statistics.fitted):
        ax.plot(statistics.distance, statistics.fitted, color=FIT)
    ax.axhline(0, color="0.7", lw=0.8)
    ax.set(xlabel="distance, other rows (px)", ylabel="covariance (contrast²)")
    background = model.background
    text = f"{background.amplitude:.3g}, {background.length:.0f} px" if background.amplitude else "none"
    ax.set_title(f"Background: {text}")


def _rows(ax: Axes, displacement: BeamDisplacement | None, model: NoiseModel) -> None:
    ax.set(xlabel="displacement along x (px)", ylabel="row")
    ax.set_title(f"Displacement {model.scan.displacement:.2g} px")
    if displacement is None:
        _note(ax, "no columns")
        return
    shifts = displacement.shifts.mean(axis=1)
    ax.plot(shifts, np.arange(len(shifts)), color=POINTS, lw=0.7)
    ax.invert_yaxis()


def _spectrum(ax: Axes, displacement: BeamDisplacement | None, model: NoiseModel, axis: str) -> None:
    """Power of the rows' displacements in bins of the frequency, over that of white displacements of 1 px."""
    ax.set(xlabel="frequency (cycles per row)", ylabel=f"spectrum of the displacement along {axis} (px²)")
    ax.set_title(_spectrum_title(model, axis))
    if displacement is None or displacement.spectrum is None:
        _note(ax, "no columns")
        return
    spectrum, parts = displacement.spectrum, displacement.parts
    n = len(spectrum.frequency)
    edges = np.unique(np.geomspace(1, n, N_BINS).astype(int))[:-1]
    at = np.add.reduceat(spectrum.frequency, edges) / np.diff(np.r_[edges, n])
    scale = np.add.reduceat(spectrum.window.sum(axis=1), edges)
    # the slowest displacements, which may be the specimen's, are not fitted
    fitted = np.r_[np.full(n - len(parts.fitted), np.nan), parts.fitted]
    ax.loglog(at, np.add.reduceat(spectrum.ordinate**2, edges) / scale, "o", color=POINTS, ms=4, label="rows")
    ax.loglog(at, np.add.reduceat(fitted, edges) / scale, color=FIT, label="model")
    noise = parts.noise * np.add.reduceat(spectrum.noise, edges) / scale
    ax.loglog(at, noise, color="0.6", lw=0.8, ls="--", label="noise of the estimates")
    if parts.hum:
        frequency = 1 / model.scan.hum_period
        label = f"hum, once in {model.scan.hum_period:.3g} rows"
        ax.axvline(abs(frequency - round(frequency)), color=FIT, lw=0.8, ls=":", label=label)
    ax.legend(fontsize=8)


def _spectrum_title(model: NoiseModel, axis: str) -> str:
    suffix = "_y" if axis == "y" else ""
    jitter, drift, hum = (getattr(model.scan, name + suffix) for name in ("jitter", "drift", "hum"))
    slow = [f"drift {drift:.2g} px, {model.scan.drift_rows:.2g} rows"] if drift else []
    slow += [f"hum {hum:.2g} px"] if hum else []
    return "\n".join([f"Jitter along {axis} {jitter:.2g} px", *(["; ".join(slow)] if slow else [])])


def _note(ax: Axes, text: str) -> None:
    """Say in the middle of a panel why it is empty."""
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color="0.5")
