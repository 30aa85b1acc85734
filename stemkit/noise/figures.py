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


def draw_calibration(model: NoiseModel, diagnostics: dict[str, Any]) -> Figure:
    """Six panels: figure 3 of the paper (scan and pointwise noise through its filters), variance against signal,
    covariance along the row, covariance of the background, and where the rows stood.
    """
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(13, 7.2), layout="constrained")
    rows, registration, background = (diagnostics[k] for k in ("rows", "registration", "background"))
    _figure3(axes[0, 0], diagnostics["scan"], model.contrast, "gradient (contrast / px)", "scan residual (contrast)")
    axes[0, 0].set_title("Figure 3: scan noise", fontsize=10)
    _figure3(
        axes[0, 1], diagnostics["pointwise"], model.contrast, "pixel value (contrast)", "pointwise residual (contrast)"
    )
    axes[0, 1].set_title("Figure 3: pointwise noise", fontsize=10)
    _variance(axes[0, 2], rows, model)
    _along_row(axes[1, 0], rows, model)
    _background(axes[1, 1], background, model)
    _rows(axes[1, 2], registration, model)
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
    ax.set_title(
        f"Streaks {model.scan.amplitude:.3g}, {length}; correlation {model.pointwise.correlation_x:.2f}", fontsize=10
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
    ax.set_title(f"Jitter {model.scan.jitter:.2g} px", fontsize=10)
    if registration is None:
        ax.text(0.5, 0.5, "no columns", ha="center", va="center", transform=ax.transAxes, color="0.5")
        return
    shifts = registration.shifts.mean(axis=1)
    ax.plot(shifts, np.arange(len(shifts)), color=MEASURED, lw=0.7)
    ax.invert_yaxis()
