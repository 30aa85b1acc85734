"""Vectors on an image, coloured by their direction, with a colour wheel."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.containers import Images, single_image
from stemkit.parameters import check_number, check_positive
from stemkit.plotting.drawing import (
    ANNOTATION_ZORDER,
    draw_note,
    limit_to_image,
    pixel_positions,
    round_number,
)
from stemkit.plotting.images import show_image
from stemkit.statistics import median_spacing
from stemkit.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, ListedColormap

__all__ = ["direction_colors", "show_displacements"]

#: Lightness (CIELAB) of the colours of directions (chosen: bright on a dark image).
LIGHTNESS = 74.0
#: Their chroma (chosen: the largest that all hues have in sRGB at this lightness is 39).
CHROMA = 38.0
#: Quantile of the lengths that is drawn as long as the distance of neighbouring vectors (chosen).
LENGTH_QUANTILE = 0.9
#: Radius of the colour wheel at most, fraction of the shorter side of the image (chosen).
MAX_WHEEL_RADIUS = 0.09
#: The same, square roots of the area of the image (chosen).
MAX_WHEEL_RADIUS_OF_AREA = 0.055
#: Least length of the arrow next to the wheel, radii of the wheel (chosen).
MIN_ARROW_LENGTH = 0.9
#: Pixels of the colour wheel along its edge (chosen).
WHEEL_PIXELS = 201
#: Hole of the colour wheel, fraction of its radius (chosen).
WHEEL_HOLE_RADIUS = 0.45
#: Colour of vectors that are not significant (chosen).
FAINT_COLOR = "0.7"
#: Colour of walls (chosen).
WALL_COLOR = "white"


def show_displacements(
    image: Images,
    vectors: pd.DataFrame,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    name: str = "displacement",
    scale: float | None = None,
    min_significance: float = 0.0,
    walls: pd.DataFrame | None = None,
    colormap: str | Colormap | None = None,
) -> Axes:
    """Draw vectors on an image as arrows, coloured by direction, with a colour wheel and the length of an arrow.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    vectors : DataFrame
        Result of :func:`stemkit.structure.cage_displacements` or :func:`stemkit.structure.polarization`. Rows without a
        vector are not drawn. Positions are in nm for a calibrated image, otherwise in px.
    ax : matplotlib Axes, optional
    title : str, optional
    name : {"displacement", "polarization"}, default="displacement"
        The vectors that are drawn.
    scale : float, optional
        Length of an arrow, pixels of the image per unit of the vectors. By default long arrows reach to the next one.
    min_significance : float, default=0.0
        Vectors whose ``significance`` is below this number are drawn as thin grey arrows.
    walls : DataFrame, optional
        Result of :func:`stemkit.structure.domain_walls`; each pair at a wall is marked by a line between the two.
    colormap : str or Colormap, optional
        Colours of the directions from +x over +y, which points down, to +x, such as ``"twilight"``; must be cyclic. By
        default hues of equal lightness and chroma, :func:`direction_colors`.

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels.

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``vectors`` lacks the columns.
    """
    import matplotlib as mpl

    check_columns("vectors", vectors, ("y", "x", f"{name}_y", f"{name}_x"), "a table of vectors")
    check_positive("scale", scale, optional=True)
    check_number("min_significance", min_significance)
    if walls is not None:
        check_columns("walls", walls, ("i", "j", "wall"), "the result of domain_walls")
    ax = show_image(image, ax, title)
    one = single_image(image)
    known = vectors[[f"{name}_y", f"{name}_x"]].notna().all(axis=1)
    positions = pixel_positions(one, vectors[known])
    values = vectors.loc[known, [f"{name}_y", f"{name}_x"]].to_numpy(dtype=np.float64)
    colors = direction_colors() if colormap is None else mpl.colormaps.get_cmap(colormap)
    spacing = median_spacing(positions, min(one.shape) / 10)
    scale = _scale(values, spacing) if scale is None else scale
    clear = np.ones(len(values), dtype=bool)
    if min_significance > 0:
        clear = vectors.loc[known, "significance"].to_numpy() >= min_significance
    turn = np.arctan2(values[:, 0], values[:, 1]) / (2 * np.pi) % 1
    _draw_arrows(ax, positions[~clear], values[~clear] * scale, spacing / 3, color=FAINT_COLOR)
    _draw_arrows(ax, positions[clear], values[clear] * scale, spacing, color=colors(turn[clear]))
    if walls is not None:
        _draw_walls(ax, one, vectors, walls[walls["wall"]])
    unit = vectors.attrs.get("units", {}).get(f"{name}_y", "")
    _draw_key(ax, one.shape, colors, scale, values, unit)
    limit_to_image(ax, one.shape)
    return ax


@cache
def direction_colors() -> ListedColormap:
    """Cyclic colours of equal lightness and chroma: the circle of hues in CIELAB, perceptually uniform.

    Returns
    -------
    matplotlib ListedColormap
        0 and 1 are the same colour, orange-red.
    """
    from matplotlib.colors import ListedColormap
    from skimage.color import lab2rgb

    hue = 2 * np.pi * np.arange(256) / 256 + np.pi / 6
    lab = np.column_stack([np.full(256, LIGHTNESS), CHROMA * np.cos(hue), CHROMA * np.sin(hue)])
    return ListedColormap(lab2rgb(lab), name="directions")


def _scale(values: NDArray, spacing: float) -> float:
    long = _long(values)
    return spacing / long if long > 0 else 1.0


def _long(values: NDArray) -> float:
    """Length that few vectors exceed."""
    return float(np.quantile(np.hypot(values[:, 0], values[:, 1]), LENGTH_QUANTILE)) if len(values) else 0.0


def _draw_arrows(
    ax: Axes, positions: NDArray, steps: NDArray, spacing: float, color: str | NDArray, zorder: float = 2
) -> None:
    """Arrows ``(n, 2)`` in pixels, their middle at the positions."""
    if len(positions) == 0:
        return
    ax.quiver(
        positions[:, 1],
        positions[:, 0],
        steps[:, 1],
        steps[:, 0],
        color=color,
        angles="xy",
        scale_units="xy",
        scale=1,
        units="xy",
        pivot="mid",
        width=0.13 * spacing,
        headwidth=3.2,
        headlength=3.4,
        headaxislength=3.2,
        minlength=0.5,
        edgecolor="black",
        linewidth=0.3,
        zorder=zorder,
    )


def _draw_walls(ax: Axes, image: xr.DataArray, vectors: pd.DataFrame, walls: pd.DataFrame) -> None:
    """Lines through the middle of each pair, perpendicular to it."""
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    start, end = (pixel_positions(image, vectors.loc[walls[side]]) for side in ("i", "j"))
    middle, across = (start + end) / 2, (end - start)[:, ::-1] * [-0.5, 0.5]
    lines = np.stack([middle - across, middle + across], axis=1)[..., ::-1]
    drawn = LineCollection(list(lines), colors=WALL_COLOR, linewidths=1.6, zorder=3)
    drawn.set_path_effects([withStroke(linewidth=2.8, foreground="black")])
    ax.add_collection(drawn, autolim=False)


def _draw_key(ax: Axes, shape: tuple[int, ...], colors: Colormap, scale: float, values: NDArray, unit: str) -> None:
    """Colour wheel in the upper right corner, and next to it an arrow with its length."""
    from matplotlib.patches import Rectangle

    radius = min(MAX_WHEEL_RADIUS * min(shape), MAX_WHEEL_RADIUS_OF_AREA * float(np.sqrt(np.prod(shape))))
    length = round_number(max(MIN_ARROW_LENGTH * radius / scale, _long(values)))
    arrow = length * scale
    width, height = 4 * radius + max(arrow, 2 * radius), 2.6 * radius
    corner = (shape[1] - 0.5 - width, -0.5)
    ax.add_patch(Rectangle(corner, width, height, facecolor="black", alpha=0.6, zorder=ANNOTATION_ZORDER))
    y, x = height / 2 - 0.5, shape[1] - 1.4 * radius
    _draw_wheel(ax, y, x, radius, colors)
    tail = corner[0] + (width - 2.8 * radius) / 2 - arrow / 2
    _draw_arrows(
        ax,
        np.array([[y + 0.5 * radius, tail + arrow / 2]]),
        np.array([[0.0, arrow]]),
        radius,
        "white",
        ANNOTATION_ZORDER + 1,
    )
    text = f"{length:g} {unit}".strip().replace("uC/cm2", "µC/cm²")
    draw_note(ax, tail + arrow / 2, y, text, ha="center", va="bottom", in_pixels=True)


def _draw_wheel(ax: Axes, y: float, x: float, radius: float, colors: Colormap) -> None:
    grid = np.linspace(-1, 1, WHEEL_PIXELS)
    distance = np.hypot(grid[:, None], grid)
    wheel = colors(np.arctan2(grid[:, None], grid) / (2 * np.pi) % 1)
    wheel[..., 3] = (distance <= 1) & (distance >= WHEEL_HOLE_RADIUS)
    aspect = ax.get_aspect()  # imshow sets another one
    ax.imshow(wheel, extent=(x - radius, x + radius, y + radius, y - radius), zorder=ANNOTATION_ZORDER + 1)
    ax.set_aspect(aspect)
