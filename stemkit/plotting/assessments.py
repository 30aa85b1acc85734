"""Evidence for and against an enhanced image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stemkit.plotting.drawing import LEGEND, display_range, draw_note, draw_pixels, draw_scale_bar, limit_to_image
from stemkit.plotting.images import show_image

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["show_assessment"]

#: End of the colour scale of the residual, standard deviations (chosen).
RESIDUAL_RANGE = 5.0
#: Colours of doubtful columns (Okabe and Ito 2008, for the common colour vision deficiencies).
VERDICT_COLORS = {"may be invented": "#e69f00", "filled in": "#56b4e9", "weakened": "#cc79a7", "missed": "#d55e00"}
#: Diameter of the circles around doubtful columns, column widths (chosen).
CIRCLE_DIAMETER = 5.0
#: Smallest diameter of these circles, fraction of the image (chosen).
MIN_CIRCLE_DIAMETER = 0.02
#: Largest q-value of a place in the residual that is marked (chosen: that of the verdicts).
MAX_Q_VALUE = 0.05
#: Edge of a panel, inches (chosen).
PANEL_SIZE = 5.0


def show_assessment(assessment: Any) -> Figure:
    """Draw an assessment: recorded and enhanced image with doubtful columns, residual, and uncertainty.

    Parameters
    ----------
    assessment : stemkit.trust.Assessment
        Result of :func:`stemkit.assess`.

    Returns
    -------
    matplotlib Figure
        Recorded image; enhanced image, with columns that may be invented, are filled in, weakened or missed; residual
        after the matched filter of a column, in standard deviations of the noise (red: the recorded image has more),
        with its significant places; and, if it was measured, the half-width of the 68 % interval of each pixel.
    """
    import matplotlib.pyplot as plt

    n = 3 + (assessment.uncertainty is not None)
    rows, cols = (2, 2) if n == 4 else (1, 3)
    n_y, n_x = assessment.recorded.shape
    height = PANEL_SIZE * float(np.clip(n_y / n_x, 0.3, 2.0)) + 0.6
    figure, axes = plt.subplots(
        rows, cols, figsize=(PANEL_SIZE * cols + 0.8, height * rows + 0.5), layout="constrained"
    )
    first, second, third, *others = axes.flat
    show_image(assessment.recorded, first, "recorded")
    show_image(assessment.enhanced, second, "enhanced")
    _draw_doubtful(second, assessment)
    _draw_residual(third, assessment)
    if others:
        _draw_uncertainty(others[0], assessment)
    figure.suptitle(_wrapped(str(assessment), 45 * cols), fontsize="medium")
    return figure


def _draw_doubtful(ax: Axes, assessment: Any) -> None:
    groups: list[tuple[str, pd.DataFrame]] = [("missed", assessment.missed)]
    if assessment.columns is not None:
        groups += [(str(name), part) for name, part in assessment.columns.groupby("verdict") if name in VERDICT_COLORS]
    drawn = 0
    for name, part in groups:
        if len(part):
            _circles(ax, part, VERDICT_COLORS[name], assessment)
            ax.plot([], [], "o", markerfacecolor="none", color=VERDICT_COLORS[name], label=f"{name} ({len(part)})")
            drawn += 1
    if drawn:
        ax.legend(**LEGEND | {"facecolor": "0.25"})
    limit_to_image(ax, assessment.enhanced.shape)


def _draw_residual(ax: Axes, assessment: Any) -> None:
    import matplotlib.pyplot as plt

    limits = (-RESIDUAL_RANGE, RESIDUAL_RANGE)
    drawn = draw_pixels(ax, assessment.recorded, assessment.residual.map, "residual, filtered", "RdBu_r", limits)
    bar = plt.colorbar(drawn, ax=ax, extend="both", fraction=0.046, pad=0.03)
    bar.set_label("(recorded − enhanced) / standard deviation")
    draw_scale_bar(ax, assessment.recorded, color="black", outline="white")
    places = assessment.residual.places
    places = places[places["q_value"] <= MAX_Q_VALUE]
    _circles(ax, places, "black", assessment)
    if len(places):
        draw_note(ax, 0.035, 0.97, f"○ {len(places)} significant", ha="left", va="top", color="black", outline="white")
    limit_to_image(ax, assessment.recorded.shape)


def _draw_uncertainty(ax: Axes, assessment: Any) -> None:
    import matplotlib.pyplot as plt

    values = assessment.uncertainty.values
    low, high = display_range(values)
    title = "uncertainty of the enhanced image"
    drawn = draw_pixels(ax, assessment.recorded, values, title, "viridis", (min(low, 0.0), high))
    bar = plt.colorbar(drawn, ax=ax, extend="max", fraction=0.046, pad=0.03)
    bar.set_label("half-width of the 68 % interval")
    draw_scale_bar(ax, assessment.recorded)


def _circles(ax: Axes, table: pd.DataFrame, color: str, assessment: Any) -> None:
    from matplotlib.collections import EllipseCollection

    diameter = max(CIRCLE_DIAMETER * assessment.residual.width, MIN_CIRCLE_DIAMETER * max(assessment.recorded.shape))
    sizes = np.full(len(table), diameter)
    circles = EllipseCollection(
        sizes,
        sizes,
        np.zeros(len(table)),
        units="xy",
        offsets=table[["x_px", "y_px"]].to_numpy(dtype=np.float64),
        offset_transform=ax.transData,
        facecolors="none",
        edgecolors=color,
        linewidths=1.2,
    )
    ax.add_collection(circles, autolim=False)


def _wrapped(text: str, width: int) -> str:
    from textwrap import fill

    return fill(text, max(width, 60))
