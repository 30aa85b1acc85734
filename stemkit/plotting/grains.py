"""Grains and their boundaries on an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from stemkit.images.containers import Images, single_image
from stemkit.plotting.columns import LABEL_COLORS
from stemkit.plotting.drawing import draw_note, limit_to_image, pixel_positions
from stemkit.plotting.images import show_image

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["show_grains"]

#: Opacity of the colour of a grain (chosen: the columns remain visible).
OPACITY = 0.32
#: Number of points along the longer side of the image at which the grain is determined (chosen).
N_POINTS = 800
#: Distance from the nearest column up to which a point belongs to its grain, typical distances of columns (chosen).
MAX_GRAIN_DISTANCE = 1.2
#: Colour of coherent boundaries (chosen: distinct from the grains).
COHERENT_COLOR = "#ffec3d"
#: Colour of other boundaries (chosen).
BOUNDARY_COLOR = "white"


class GrainTables(Protocol):
    """The tables of :class:`stemkit.structure.Grains` that are drawn."""

    @property
    def columns(self) -> pd.DataFrame: ...
    @property
    def boundaries(self) -> pd.DataFrame: ...
    @property
    def segments(self) -> pd.DataFrame: ...


def show_grains(image: Images, grains: GrainTables, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw an image with its grains in different colours, and their boundaries with the misorientation.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    grains : Grains
        Result of :func:`stemkit.structure.find_grains`. Positions are in nm for a calibrated image, otherwise in px.
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels. Coherent boundaries (twins and coherent interfaces) are yellow, others white. The
        number at a boundary is the misorientation with its error, or the strain between different phases.

    Raises
    ------
    ValueError
        If ``image`` is a stack.
    """
    ax = show_image(image, ax, title)
    one = single_image(image)
    columns = grains.columns
    positions = pixel_positions(one, columns)
    _fill(ax, one.shape, positions, columns["grain"].to_numpy())
    ends = [pixel_positions(one, grains.segments.rename(columns={f"y{k}": "y", f"x{k}": "x"})) for k in range(2)]
    for number, boundary in grains.boundaries.iterrows():
        own = (grains.segments["boundary"] == number).to_numpy()
        lines = np.stack([end[own] for end in ends], axis=1)
        color = COHERENT_COLOR if boundary["coherent"] else BOUNDARY_COLOR
        _draw_lines(ax, lines, color)
        _label(ax, one, lines, _text(boundary), color)
    limit_to_image(ax, one.shape)
    return ax


def _fill(ax: Axes, shape: tuple[int, ...], positions: NDArray, grain: NDArray) -> None:
    """Colour each point of the image by the grain of the nearest column."""
    from matplotlib.colors import to_rgb
    from scipy.spatial import cKDTree

    if len(positions) < 2:
        return
    tree = cKDTree(positions)
    reach = MAX_GRAIN_DISTANCE * float(np.median(tree.query(positions, k=min(5, len(positions)))[0][:, -1]))
    step = max(max(shape) / N_POINTS, 1.0)
    y, x = (np.arange((step - 1) / 2, n, step) for n in shape)
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    distance, nearest = tree.query(grid)
    label = np.where(distance <= reach, grain[nearest], -1)
    colors = np.array([to_rgb(color) for color in LABEL_COLORS])
    overlay = np.zeros((*label.shape, 4))
    overlay[..., :3] = colors[label % len(colors)]
    overlay[..., 3] = np.where(label >= 0, OPACITY, 0.0)
    aspect = ax.get_aspect()  # imshow sets another one
    extent = (x[0] - step / 2, x[-1] + step / 2, y[-1] + step / 2, y[0] - step / 2)
    ax.imshow(overlay, extent=extent, interpolation="nearest")
    ax.set_aspect(aspect)


def _draw_lines(ax: Axes, lines: NDArray, color: str) -> None:
    """Lines ``(n, 2, 2)`` between ends (y, x)."""
    from matplotlib.collections import LineCollection
    from matplotlib.patheffects import withStroke

    drawn = LineCollection(list(lines[..., ::-1]), colors=color, linewidths=1.8, capstyle="round", zorder=3)
    drawn.set_path_effects([withStroke(linewidth=3.2, foreground="black")])
    ax.add_collection(drawn, autolim=False)


def _label(ax: Axes, image: xr.DataArray, lines: NDArray, text: str, color: str) -> None:
    """Write a text next to the line in the middle of a boundary, inside the image."""
    centers = lines.mean(axis=1)
    y, x = centers[np.argmin(((centers - centers.mean(axis=0)) ** 2).sum(axis=1))]
    height, width = image.shape
    extent = np.ptp(centers, axis=0)
    y = float(np.clip(y, 0.08 * height, 0.92 * height))
    if extent[1] > extent[0]:  # above a boundary that is rather horizontal, next to a vertical one
        x, y = float(np.clip(x, 0.3 * width, 0.7 * width)), y - 0.025 * height
        draw_note(ax, x, y, text, ha="center", va="bottom", color=color, in_pixels=True)
        return
    side = "left" if x < width / 2 else "right"
    offset = 0.015 * width * (1 if side == "left" else -1)
    draw_note(ax, x + offset, y, text, ha=side, va="center", color=color, in_pixels=True)


def _text(boundary: pd.Series) -> str:
    """Misorientation, or strain between two phases, and the kind of a coherent boundary."""
    name = "twin " if boundary["kind"] == "twin" else ""
    if not boundary["same_phase"]:
        return f"{boundary['kind']}, {100 * boundary['strain']:.1f} %"
    angle, error = abs(boundary["misorientation"]), boundary["misorientation_err"]
    if not np.isfinite(angle):
        return name.strip() or "mirror images"
    digits = int(np.clip(1 - np.floor(np.log10(error)), 1, 3)) if error > 0 else 2
    return f"{name}{angle:.{digits}f}±{error:.{digits}f}°"
