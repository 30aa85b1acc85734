"""Figure of ``stemkit detect``: the image with its columns, flags, lattices and vacancies, and an enlarged part."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from stemkit.cli.figures import non_interactive_pyplot
from stemkit.cli.suspicion import SUSPICIOUS
from stemkit.detection import Quality
from stemkit.plotting import show_image
from stemkit.plotting.flags import FLAG_STYLES, FLAG_WORDS, GOOD_STYLE
from stemkit.statistics import median_spacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from stemkit.cli.lattices import ImageLattice

__all__ = ["detection_figure", "enlarged_part"]

#: Colour of vacancies (chosen: not a colour of columns).
VACANCY_COLOR = "#ff2020"
#: Colour of lattice lines (chosen: not a colour of columns).
LATTICE_COLOR = "#ffffff"
#: Edge of the enlarged part, spacings of the columns (chosen).
ENLARGED_SPACINGS = 11.0
#: Least edge of the enlarged part, px (chosen).
MIN_ENLARGED_EDGE = 40
#: Largest edge of the enlarged part, fraction of that of the image (chosen).
MAX_ENLARGED_FRACTION = 0.4
#: Diameter of a symbol, spacings of the columns (chosen: larger than a column, smaller than the gap).
SYMBOL_SIZE = 0.62
#: Limits of the diameter of a symbol, points (chosen).
SYMBOL_LIMITS = (2.0, 22.0)
#: Diameter of a symbol in the legend, points (chosen).
LEGEND_SIZE = 9.0
#: Height of a panel, inches (chosen).
PANEL_HEIGHT = 5.6
#: Width of an image, heights, from which it is drawn above the enlarged parts (chosen: next to them it would be lower
#: than half a panel).
MIN_WIDE_ASPECT = 2.0


@dataclass(frozen=True)
class Part:
    """A part of an image: slices of rows and columns, px."""

    rows: slice
    columns: slice

    def positions(self, table: pd.DataFrame) -> tuple[NDArray, NDArray]:
        """Positions y, x of the columns in pixels of the part."""
        return table["y_px"].to_numpy() - self.rows.start, table["x_px"].to_numpy() - self.columns.start


def detection_figure(image: xr.DataArray, table: pd.DataFrame, lattices: Sequence[ImageLattice] = ()) -> Figure:
    """Draw an image with its columns, and an enlarged part as recorded and as enhanced.

    Parameters
    ----------
    image : DataArray of shape (n_y, n_x)
        The image in which the columns were found, with its recorded pixels if it was enhanced.
    table : DataFrame
        Columns of this image. Their flags are drawn with different symbols; of several flags, the most serious one.
    lattices : sequence of ImageLattice
        Lattices of this image: their lines are drawn, and their vacancies.

    Returns
    -------
    matplotlib Figure
    """
    recorded = image.stem.recorded
    part = enlarged_part(image.shape, table, lattices)
    panels = {"enlarged, recorded": recorded}
    if "recorded" in image.coords:
        panels["enlarged, enhanced"] = image
    figure, axes = _panels(len(panels), image.shape)
    whole = Part(slice(0, image.shape[0]), slice(0, image.shape[1]))
    show_image(recorded, axes[0], "columns on the recorded image")
    _draw_columns(axes[0], table, whole, lattices)
    _mark(axes[0], part)
    for ax, (title, shown) in zip(axes[1:], panels.items(), strict=True):
        show_image(shown.isel(y=part.rows, x=part.columns), ax, title)
        _draw_lattices(ax, lattices, part)
        _draw_columns(ax, table, part, lattices)
    _draw_legend(figure, axes[0])
    return figure


def _panels(n: int, shape: tuple[int, ...]) -> tuple[Figure, list[Axes]]:
    """Figure with panels for the whole image, and n enlarged parts next to it, or below it if the image is wide."""
    plt = non_interactive_pyplot()
    n_y, n_x = shape
    if n_x < MIN_WIDE_ASPECT * n_y:
        figure, axes = plt.subplots(
            1, n + 1, figsize=(PANEL_HEIGHT * (n + 1), PANEL_HEIGHT + 1.1), layout="constrained"
        )
        return figure, list(axes)
    height = PANEL_HEIGHT * n * n_y / n_x
    figure = plt.figure(figsize=(PANEL_HEIGHT * n, height + PANEL_HEIGHT + 1.5), layout="constrained")
    grid = figure.add_gridspec(2, n, height_ratios=(height, PANEL_HEIGHT))
    return figure, [figure.add_subplot(grid[0, :]), *(figure.add_subplot(grid[1, k]) for k in range(n))]


def enlarged_part(shape: tuple[int, ...], table: pd.DataFrame, lattices: Sequence[ImageLattice] = ()) -> Part:
    """The part with the most vacancies, else the most suspicious columns inside the image, else the middle.

    Parameters
    ----------
    shape : (int, int)
        ``(n_y, n_x)`` of the image, px.
    table : DataFrame
        Columns of the image.
    lattices : sequence of ImageLattice
        Lattices of the image, with their vacancies.
    """
    spacing = _spacing(table)
    edge = max(MIN_ENLARGED_EDGE, min(ENLARGED_SPACINGS * spacing, MAX_ENLARGED_FRACTION * min(shape)))
    n_y, n_x = (int(min(n, edge)) for n in shape)
    quality = table["quality"].to_numpy()
    marked = (quality & sum(Quality[name] for name in SUSPICIOUS) > 0) & (quality & Quality.EDGE == 0)
    vacancies = [found.vacancies[["y_px", "x_px"]] for found in lattices if len(found.vacancies)]
    places = np.concatenate([t.to_numpy(dtype=np.float64) for t in vacancies or [table.loc[marked, ["y_px", "x_px"]]]])
    center = _densest(places, min(n_y, n_x) / 2, shape)
    top, left = (
        int(np.clip(round(c - n / 2), 0, size - n)) for c, n, size in zip(center, (n_y, n_x), shape, strict=True)
    )
    return Part(slice(top, top + n_y), slice(left, left + n_x))


def _densest(places: NDArray, radius: float, shape: tuple[int, ...]) -> NDArray:
    """The place with the most others around it; the middle of the image without places."""
    if len(places) == 0:
        return np.array(shape) / 2
    tree = cKDTree(places)
    return places[int(np.argmax([len(near) for near in tree.query_ball_point(places, radius, p=np.inf)]))]


def _spacing(table: pd.DataFrame) -> float:
    """Median distance of nearest columns, px."""
    return median_spacing(table[["y_px", "x_px"]].to_numpy(), default=MIN_ENLARGED_EDGE / 4)


def _draw_columns(ax: Axes, table: pd.DataFrame, part: Part, lattices: Sequence[ImageLattice]) -> None:
    size = _symbol_size(table, part)
    quality, y_x = table["quality"].to_numpy(), part.positions(table)
    left = np.ones(len(table), dtype=bool)
    for name, (color, marker) in FLAG_STYLES.items():
        chosen = left & (quality & Quality[name] > 0)
        left &= ~chosen
        _draw_symbols(ax, y_x, chosen, color, marker, size, FLAG_WORDS[name])
    _draw_symbols(ax, y_x, left, *GOOD_STYLE, size, "without a flag")
    for found in lattices:
        everything = np.ones(len(found.vacancies), dtype=bool)
        name = "vacancy" if len(lattices) == 1 else f"vacancy of lattice {lattices.index(found)}"
        _draw_symbols(ax, part.positions(found.vacancies), everything, VACANCY_COLOR, "s", 1.6 * size, name)
    n_y, n_x = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
    ax.set(xlim=(-0.5, n_x - 0.5), ylim=(n_y - 0.5, -0.5))


def _draw_symbols(
    ax: Axes, y_x: tuple[NDArray, NDArray], chosen: NDArray, color: str, marker: str, size: float, name: str
) -> None:
    """Draw hollow symbols with a black outline, by which they are visible on bright columns."""
    from matplotlib.patheffects import withStroke

    if not chosen.any():
        return
    y, x = y_x
    width = float(np.clip(size / 9, 0.5, 1.4))
    drawn = ax.scatter(
        x[chosen],
        y[chosen],
        s=size**2,
        marker=marker,
        facecolors="none",
        edgecolors=color,
        linewidths=width,
        label=f"{name} ({chosen.sum()})",
    )
    drawn.set_path_effects([withStroke(linewidth=2.4 * width, foreground="black")])


def _draw_legend(figure: Figure, ax: Axes) -> None:
    """Explain the symbols of a panel, all at the same size."""
    handles, labels = ax.get_legend_handles_labels()
    if not handles:
        return
    shown: list[Any] = [copy(handle) for handle in handles]
    for handle in shown:
        handle.set_sizes([LEGEND_SIZE**2])
        handle.set_linewidths([1.4])
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": 4, "facecolor": "0.3", "labelcolor": "white"}
    legend = figure.legend(shown, labels, title="each column by its most serious flag", **place)
    legend.get_title().set_color("white")


def _symbol_size(table: pd.DataFrame, part: Part) -> float:
    """Diameter of the symbols, points."""
    n_y, n_x = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
    return float(np.clip(SYMBOL_SIZE * _spacing(table) * PANEL_HEIGHT * 72 / max(n_y, n_x), *SYMBOL_LIMITS))


def _draw_lattices(ax: Axes, lattices: Sequence[ImageLattice], part: Part) -> None:
    """Draw the lines of the lattices through the fitted cells, following the displacements of the columns."""
    for found in lattices:
        for start, end in _lattice_lines(found):
            y, x = np.array([start, end]).T
            ax.plot(x - part.columns.start, y - part.rows.start, color=LATTICE_COLOR, linewidth=0.6, alpha=0.7)


def _lattice_lines(found: ImageLattice) -> list[tuple[NDArray, NDArray]]:
    """Ends of the lines between neighbouring lattice points with columns, (y, x) px."""
    lattice = found.lattice
    chosen = lattice.site == 0
    places = found.columns[["y_px", "x_px"]].to_numpy()[chosen]
    cells = {tuple(cell): place for cell, place in zip(lattice.indices[chosen].tolist(), places, strict=True)}
    lines = []
    for (i, j), place in cells.items():
        lines += [(place, cells[cell]) for cell in ((i + 1, j), (i, j + 1)) if cell in cells]
    return lines


def _mark(ax: Axes, part: Part) -> None:
    """Draw the outline of the enlarged part."""
    from matplotlib.patches import Rectangle

    height, width = part.rows.stop - part.rows.start, part.columns.stop - part.columns.start
    for color, linewidth in (("black", 2.6), ("white", 1.2)):
        ax.add_patch(
            Rectangle(
                (part.columns.start - 0.5, part.rows.start - 0.5),
                width,
                height,
                fill=False,
                edgecolor=color,
                linewidth=linewidth,
            )
        )
