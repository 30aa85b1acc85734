"""Numbers of atoms on an image, and the histogram of the intensities that they follow from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stemkit.images.containers import Images, single_image
from stemkit.parameters import check_option, check_positive
from stemkit.plotting.drawing import limit_to_image, marker_size, pixel_positions
from stemkit.plotting.images import show_image
from stemkit.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["show_counts", "show_mixture"]

#: Colours of the numbers of atoms (chosen).
COUNT_COLORS = "viridis"
#: Weights of red, green and blue in the brightness of a colour (ITU-R BT.601).
LUMINANCE = np.array([0.299, 0.587, 0.114])
#: Brightness below which numbers are white (chosen).
DARK = 0.5
#: Bins of the histogram per standard deviation of a component (chosen).
BINS_PER_WIDTH = 2.0
#: Largest number of bins (chosen).
MAX_BINS = 400
#: Colour of components (Okabe and Ito 2008, for the common colour vision deficiencies).
COMPONENT_COLOR = "#0072b2"
#: Colour of their sum (as before).
MIXTURE_COLOR = "#d55e00"
#: Points of a curve per standard deviation of a component (chosen).
POINTS_PER_WIDTH = 8.0


def show_counts(
    image: Images, columns: pd.DataFrame, ax: Axes | None = None, title: str | None = None, *, numbers: bool = True
) -> Axes:
    """Draw an image with its columns coloured by their number of atoms.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    columns : DataFrame
        ``count_atoms(table).columns``. Columns that were not used in the fit have a dashed outline; those without a
        count are crosses.
    ax : matplotlib Axes, optional
    title : str, optional
    numbers : bool, default=True
        Write the number into each column.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``columns`` lacks counts.
    """
    import matplotlib as mpl
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    check_columns("columns", columns, ("y", "x", "count", "fitted"), "count_atoms(table).columns")
    ax = show_image(image, ax, title)
    one = single_image(image)
    positions = pixel_positions(one, columns)
    (y, x), size = positions.T, marker_size(ax, positions)
    known, fitted = columns["count"].notna().to_numpy(), columns["fitted"].to_numpy(dtype=bool)
    counts = columns["count"].to_numpy(dtype=np.float64, na_value=np.nan)
    low, high = (int(np.nanmin(counts)), int(np.nanmax(counts))) if known.any() else (0, 0)
    style: dict[str, Any] = {
        "s": 1.8 * size,
        "cmap": mpl.colormaps[COUNT_COLORS].resampled(high - low + 1),
        "vmin": low - 0.5,  # each number has one colour, its own in the middle
        "vmax": high + 0.5,
        "edgecolors": "white",
    }
    drawn = ax.scatter(x[known & fitted], y[known & fitted], c=counts[known & fitted], linewidths=0.5, **style)
    rest = known & ~fitted
    ax.scatter(x[rest], y[rest], c=counts[rest], linewidths=0.8, linestyles="dashed", **style)
    ax.scatter(x[~known], y[~known], s=size / 3, c="white", marker="x", linewidths=0.8)
    if numbers:
        _write_numbers(ax, x[known], y[known], counts[known], drawn.to_rgba(counts[known]), size)
    if known.any():
        plt.colorbar(
            drawn, ax=ax, fraction=0.046, pad=0.03, label="atoms", ticks=MaxNLocator(integer=True, min_n_ticks=1)
        )
    limit_to_image(ax, one.shape)
    return ax


def show_mixture(
    columns: pd.DataFrame,
    components: pd.DataFrame,
    width: float,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    by: str = "intensity",
) -> Axes:
    """Draw the histogram of the intensities with the components of the mixture and their sum.

    Parameters
    ----------
    columns, components, width
        Of the result of :func:`stemkit.structure.count_atoms`.
    ax : matplotlib Axes, optional
    title : str, optional
    by : str, default="intensity"
        Column of ``columns`` that was counted.

    Returns
    -------
    matplotlib Axes
        Axes with the intensity along x and the number of columns along y.

    Raises
    ------
    ValueError
        If ``columns`` lacks the intensity.
    """
    import matplotlib.pyplot as plt

    check_columns("columns", columns, ("fitted",), "count_atoms(table).columns")
    check_columns("components", components, ("count", "mean", "weight"), "count_atoms(table).components")
    check_option("by", by, columns.columns)
    check_positive("width", width)
    ax = plt.gca() if ax is None else ax
    values = columns.loc[columns["fitted"], by].to_numpy(dtype=np.float64)
    used = components[components["weight"] > 0.5 / max(len(values), 1)]
    n_bins = int(np.clip(np.ptp(values) / width * BINS_PER_WIDTH, 5, MAX_BINS))
    edges = np.histogram_bin_edges(values, n_bins)
    ax.hist(values, list(edges), color="0.75", label="columns")
    points = np.arange(edges[0] - 3 * width, edges[-1] + 3 * width, width / POINTS_PER_WIDTH)
    curves = len(values) * np.diff(edges)[0] * _densities(points, used, width)
    for curve, count in zip(curves.T, used["count"], strict=True):
        ax.plot(points, curve, color=COMPONENT_COLOR, linewidth=0.8)
        place: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": "small"}
        ax.text(points[curve.argmax()], curve.max(), f"{count}", color=COMPONENT_COLOR, **place)
    ax.plot(points, curves.sum(axis=1), color=MIXTURE_COLOR, label="mixture, components")
    ax.set(xlabel=by, ylabel="columns", title=title or "")
    ax.legend(frameon=False)
    return ax


def _densities(points: NDArray, components: pd.DataFrame, width: float) -> NDArray[np.float64]:
    """Weighted density ``(n, k)`` of each component."""
    z = (points[:, None] - components["mean"].to_numpy()) / width
    return components["weight"].to_numpy() * np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * width)


def _write_numbers(ax: Axes, x: NDArray, y: NDArray, counts: NDArray, below: NDArray, size: float) -> None:
    """Numbers in white on dark and in black on bright colours ``below``, (n, 4)."""
    font = float(np.clip(0.75 * np.sqrt(size), 3, 14))
    dark = below[:, :3] @ LUMINANCE < DARK
    for at_x, at_y, count, color in zip(x, y, counts, np.where(dark, "white", "black"), strict=True):
        ax.text(at_x, at_y, f"{count:.0f}", ha="center", va="center", fontsize=font, color=color, clip_on=True)
