"""The noise of one image, drawn: the paper's figure 3, and the curves that the numbers come from."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from stemkit.noise.figure3 import Curve
from stemkit.noise.model import NoiseModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_calibration"]

MEASURED, LINE = "#31688e", "#e8543f"
#: Bins of the spectra.
N_BINS = 24


def draw_calibration(model: NoiseModel, diagnostics: dict[str, Any]) -> Figure:
    """Eight panels: figure 3 of the paper (scan and pointwise noise through its filters), variance against signal,
    displacement of the rows, covariance along the row, covariance of the background, and spectra of the displacements
    of the rows along x and along y.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 4, figsize=(17, 7.2), layout="constrained")
    rows, registration, background = (diagnostics[k] for k in ("rows", "registration", "background"))
    _figure3(axes[0, 0], diagnostics["scan"], model.contrast, "gradient (contrast / px)", "scan residual (contrast)")
    axes[0, 0].set_title("Figure 3: scan noise", fontsize=10)
    _figure3(
        axes[0, 1], diagnostics["pointwise"], model.contrast, "pixel value (contrast)", "pointwise residual (contrast)"
    )
    axes[0, 1].set_title("Figure 3: pointwise noise", fontsize=10)
    _variance(axes[0, 2], rows, model)
    _rows(axes[0, 3], registration, model)
    _along_row(axes[1, 0], rows, model)
    _background(axes[1, 1], background, model)
    _spectrum(axes[1, 2], registration, model, "x")
    _spectrum(axes[1, 3], diagnostics["across"], model, "y")
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure


def _figure3(ax: Axes, curve: Curve, contrast: float, xlabel: str, ylabel: str) -> None:
    x = curve.x / contrast
    ax.plot(x, curve.y / contrast, "o", color=MEASURED, ms=4)
    if len(x):
        ends = np.array([x.min(), x.max()])
        ax.plot(ends, curve.intercept / contrast + curve.slope * ends, color=LINE)
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.set_ylim(bottom=0)


def _variance(ax: Axes, rows: Any, model: NoiseModel) -> None:
    ax.plot(rows.signal, rows.variance, "o", color=MEASURED, ms=4)
    s = np.linspace(min(0.0, rows.signal.min(initial=0.0)), max(1.0, rows.signal.max(initial=1.0)), 50)
    ax.plot(s, np.maximum(rows.readout**2 + rows.gain * s, 0), color=LINE)
    kind = "counted" if model.pointwise.kind == "poisson" else f"shape {model.pointwise.shape:.2f}"
    ax.set(xlabel="signal (contrast)", ylabel="variance (contrast²)")
    ax.set_title(f"Pointwise: readout {rows.readout:.3g}, gain {rows.gain:.2g}, {kind}", fontsize=10)
    ax.set_ylim(bottom=0)


def _along_row(ax: Axes, rows: Any, model: NoiseModel) -> None:
    # the lag 0 holds the pointwise variance, which would hide the rest
    shown = rows.lag > 0
    ax.plot(rows.lag[shown], rows.covariance[shown], "o", color=MEASURED, ms=4)
    ax.plot(rows.lag[shown], rows.fitted[shown], color=LINE)
    ax.axhline(0, color="0.7", lw=0.8)
    ax.set_xscale("log")
    length = "whole rows" if math.isinf(model.scan.length) else f"{model.scan.length:.1f} px"
    ax.set(xlabel="lag along the row (px)", ylabel="covariance (contrast²)")
    scan = model.scan
    short = f" and {scan.short_amplitude:.3g}, {scan.short_length:.1f} px" if scan.short_amplitude else ""
    ax.set_title(
        f"Streaks {scan.amplitude:.3g}, {length}{short}; correlation {model.pointwise.correlation_x:.2f}", fontsize=10
    )


def _background(ax: Axes, background: Any, model: NoiseModel) -> None:
    ax.plot(background.distance, background.covariance, ".", color=MEASURED, ms=3)
    if len(background.fitted):
        ax.plot(background.distance, background.fitted, color=LINE)
    ax.axhline(0, color="0.7", lw=0.8)
    ax.set(xlabel="distance, other rows (px)", ylabel="covariance (contrast²)")
    what = (
        f"{model.background.amplitude:.3g}, {model.background.length:.0f} px" if model.background.amplitude else "none"
    )
    ax.set_title(f"Background: {what}", fontsize=10)


def _rows(ax: Axes, registration: Any, model: NoiseModel) -> None:
    ax.set(xlabel="displacement along x (px)", ylabel="row")
    ax.set_title(f"Displacement {model.scan.displacement:.2g} px", fontsize=10)
    if registration is None:
        _no_columns(ax)
        return
    shifts = registration.shifts.mean(axis=1)
    ax.plot(shifts, np.arange(len(shifts)), color=MEASURED, lw=0.7)
    ax.invert_yaxis()


def _spectrum(ax: Axes, registration: Any, model: NoiseModel, axis: str) -> None:
    """Power of the rows' displacements in bins of the frequency, over what white displacements of 1 px would have."""
    suffix = "_y" if axis == "y" else ""
    jitter, drift, hum = (getattr(model.scan, name + suffix) for name in ("jitter", "drift", "hum"))
    more = [f"drift {drift:.2g} px, {model.scan.drift_rows:.2g} rows"] if drift else []
    more += [f"hum {hum:.2g} px"] if hum else []
    ax.set_title("\n".join([f"Jitter along {axis} {jitter:.2g} px", *(["; ".join(more)] if more else [])]), fontsize=10)
    ax.set(xlabel="frequency (cycles per row)", ylabel=f"spectrum of the displacement along {axis} (px²)")
    if registration is None or registration.spectrum is None:
        _no_columns(ax)
        return
    spectrum, parts = registration.spectrum, registration.parts
    unit, n = spectrum.window.sum(axis=1), len(spectrum.frequency)
    edges = np.unique(np.geomspace(1, n, N_BINS).astype(int))
    scale = np.add.reduceat(unit, edges[:-1])
    at = np.add.reduceat(spectrum.frequency, edges[:-1]) / np.diff(np.r_[edges[:-1], n])
    ax.loglog(at, np.add.reduceat(spectrum.ordinate**2, edges[:-1]) / scale, "o", color=MEASURED, ms=4, label="rows")
    # the slowest displacements, which may be the specimen's, are not fitted
    fitted = np.r_[np.full(n - len(parts.fitted), np.nan), parts.fitted]
    ax.loglog(at, np.add.reduceat(fitted, edges[:-1]) / scale, color=LINE, label="model")
    noise = parts.noise * np.add.reduceat(spectrum.noise, edges[:-1]) / scale
    ax.loglog(at, noise, color="0.6", lw=0.8, ls="--", label="noise of the readings")
    if hum:
        alias = abs(1 / model.scan.hum_period - round(1 / model.scan.hum_period))
        ax.axvline(alias, color=LINE, lw=0.8, ls=":", label=f"hum, once in {model.scan.hum_period:.3g} rows")
    ax.legend(fontsize=8)


def _no_columns(ax: Axes) -> None:
    ax.text(0.5, 0.5, "no columns", ha="center", va="center", transform=ax.transAxes, color="0.5")
