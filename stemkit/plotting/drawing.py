"""Steps that the figures share: pixels, scale bar, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.pixel_size import pixel_sizes
from stemkit.statistics import median_spacing
from stemkit.tables import unit_of_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

__all__ = [
    "LEGEND",
    "display_range",
    "draw_note",
    "draw_pixels",
    "draw_scale_bar",
    "inches",
    "limit_to_image",
    "marker_size",
    "pixel_positions",
    "round_number",
    "scale_bar_length",
]

#: Leading digits of the length of a scale bar, nm times a power of ten (chosen).
ROUND_LENGTHS = (1.0, 2.0, 5.0, 10.0)
#: Quantiles of the intensities that are displayed black and white (chosen).
DISPLAY_QUANTILES = (0.001, 0.999)
#: Drawing order of scale bar and annotations (chosen: above the columns, which matplotlib draws at 1).
ANNOTATION_ZORDER = 5.0
#: Options of the legend on an image (chosen: readable on bright columns).
LEGEND = dict[str, Any](loc="upper right", fontsize="small", facecolor="0.35", labelcolor="white", framealpha=0.8)


def scale_bar_length(width: float) -> float:
    """Round length (nm) nearest to a fifth of the width of a field of view (nm)."""
    return round_number(width / 5)


def round_number(value: float) -> float:
    """Nearest of 1, 2 or 5 times a power of ten."""
    candidates = np.array(ROUND_LENGTHS) * 10.0 ** np.floor(np.log10(value))
    return float(candidates[np.argmin(np.abs(candidates - value))])


def draw_pixels(
    ax: Axes, image: xr.DataArray, values: NDArray, title: str | None, colormap: str, limits: tuple[float, float]
) -> AxesImage:
    """Draw an array with the pixel shape of the image, without ticks."""
    height, width = pixel_sizes(image) or (1.0, 1.0)
    low, high = limits
    drawn = ax.imshow(values, cmap=colormap, vmin=low, vmax=high, interpolation="nearest", aspect=height / width)
    ax.set(xticks=[], yticks=[])
    if title:
        ax.set_title(title)
    return drawn


def limit_to_image(ax: Axes, shape: tuple[int, ...]) -> None:
    """Limit the axes to the image after markers were drawn."""
    ax.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))


def display_range(values: NDArray) -> tuple[float, float]:
    """Intensities that are displayed as black and white."""
    low, high = np.quantile(values, DISPLAY_QUANTILES)
    return float(low), float(high) if high > low else float(low) + 1.0


def draw_scale_bar(ax: Axes, image: xr.DataArray, color: str = "white", outline: str = "black") -> None:
    """Draw a scale bar with its length; none on an image without pixel size."""
    from matplotlib.patches import Rectangle

    sizes = pixel_sizes(image)
    if sizes is None:
        return
    n_y, n_x = image.shape
    length = scale_bar_length(n_x * sizes[1])
    label = f"{length:g} nm" if length >= 1 else f"{length * 10:g} Å"
    width, thick = length / sizes[1], max(1.0, 0.014 * n_y)
    x, y = 0.035 * n_x, 0.955 * n_y
    ax.add_patch(
        Rectangle((x, y), width, thick, facecolor=color, edgecolor=outline, linewidth=0.5, zorder=ANNOTATION_ZORDER)
    )
    place = {"ha": "center", "va": "bottom", "color": color, "outline": outline}
    draw_note(ax, x + width / 2, y - 0.008 * n_y, label, **place, in_pixels=True)


def draw_note(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    ha: str,
    va: str,
    color: str = "white",
    outline: str = "black",
    in_pixels: bool = False,
) -> None:
    """Write text on the image, at a position in pixels or, from the lower left, in fractions of the axes."""
    from matplotlib.patheffects import withStroke

    # of the mean edge: a wide image is low
    size = float(np.clip(0.045 * np.sqrt(np.prod(inches(ax))) * 72, 5, 24))
    transform = ax.transData if in_pixels else ax.transAxes
    note = ax.text(x, y, text, color=color, ha=ha, va=va, fontsize=size, transform=transform, zorder=ANNOTATION_ZORDER)
    # an outline keeps the text readable on bright columns
    note.set_path_effects([withStroke(linewidth=size / 5, foreground=outline)])


def inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in inches."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    return ax.get_position().width * width, ax.get_position().height * height


def pixel_positions(image: xr.DataArray, table: pd.DataFrame) -> NDArray[np.float64]:
    """Positions ``(n, 2)``, (y, x), in pixels of the image: from those in nm if image and table are calibrated."""
    sizes = pixel_sizes(image)
    if sizes is not None and unit_of_table(table) == "nm":
        origin = [float(image.coords[d][0]) for d in ("y", "x")]
        return (table[["y", "x"]].to_numpy(dtype=np.float64) - origin) / sizes
    names = ["y_px", "x_px"] if {"y_px", "x_px"} <= set(table) else ["y", "x"]
    return table[names].to_numpy(dtype=np.float64)


def marker_size(ax: Axes, positions: NDArray) -> float:
    """Area of markers in points squared, for a diameter of about half the spacing of positions ``(n, 2)``, px."""
    points = inches(ax)[0] * 72 / max(np.diff(ax.get_xlim())[0], 1)
    return float(np.clip((0.55 * median_spacing(positions, 20.0) * points) ** 2, 2, 400))
