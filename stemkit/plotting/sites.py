"""Names of columns, point defects and detection limits on an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stemkit.images.containers import Images, single_image
from stemkit.plotting.columns import LABEL_COLORS
from stemkit.plotting.drawing import limit_to_image, marker_size, pixel_positions
from stemkit.plotting.images import show_image
from stemkit.tables import check_columns

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["show_defects", "show_detection_limit", "show_names"]

#: Colour, marker and words of each kind of defect, and of sites that were not tested (Okabe and Ito 2008, for the
#: common colour vision deficiencies).
DEFECTS = {
    "vacancy": ("#d55e00", "s", "vacancy", "vacancies"),
    "missing": ("#d55e00", "s", "site without a column", "sites without a column"),
    "weak": ("#e69f00", "v", "weak column", "weak columns"),
    "strong": ("#56b4e9", "^", "strong column", "strong columns"),
    "interstitial": ("#cc79a7", "D", "interstitial", "interstitials"),
    "displaced": ("#009e73", "h", "displaced column", "displaced columns"),
}
#: Colour of sites without a column.
MISSING_COLOR = "#d55e00"
#: Edge of the markers of defects, fraction of the width of the axes (chosen).
DEFECT_MARKER_SIZE = 0.035
#: Area of the markers of detection limits, areas of those of columns (chosen).
LIMIT_MARKER_AREA = 1.8


def show_names(
    image: Images,
    columns: pd.DataFrame,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    missing: pd.DataFrame | None = None,
) -> Axes:
    """Draw an image with its columns coloured by their names.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    columns : DataFrame
        Positions and ``name``, as of :func:`stemkit.structure.register_crystal`. Columns without a name are crosses.
    ax : matplotlib Axes, optional
    title : str, optional
    missing : DataFrame, optional
        Sites without a column, drawn as squares.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``columns`` lacks names.
    """
    check_columns("columns", columns, ("y", "x", "name"), "the result of register_crystal, with names")
    ax = show_image(image, ax, title)
    one = single_image(image)
    positions = pixel_positions(one, columns)
    (y, x), size = positions.T, marker_size(ax, positions)
    names = columns["name"].to_numpy(dtype=object, na_value=None)
    for k, name in enumerate(columns["name"].dropna().value_counts().index):
        rows = names == name
        color = LABEL_COLORS[k % len(LABEL_COLORS)]
        label = f"{name} ({rows.sum()})"
        ax.scatter(x[rows], y[rows], s=size, facecolors="none", edgecolors=color, linewidths=1.2, label=label)
    rows = columns["name"].isna().to_numpy()
    if rows.any():
        ax.scatter(x[rows], y[rows], s=size / 2, c="white", marker="x", linewidths=1.0, label=f"no name ({rows.sum()})")
    if missing is not None and len(missing):
        at_y, at_x = pixel_positions(one, missing).T
        style: dict[str, Any] = {"s": size, "marker": "s", "facecolors": "none", "edgecolors": MISSING_COLOR}
        ax.scatter(at_x, at_y, linewidths=1.2, label=f"no column ({len(missing)})", **style)
    _legend(ax)
    limit_to_image(ax, one.shape)
    return ax


def show_defects(image: Images, defects: pd.DataFrame, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw an image with its point defects, a marker for each kind.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    defects : DataFrame
        ``point_defects(table, lattice).defects``; the kind may also be "missing", of a site that was not tested.
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``defects`` lacks the kinds.
    """
    check_columns("defects", defects, ("y", "x", "kind"), "point_defects(table, lattice).defects")
    ax = show_image(image, ax, title)
    one = single_image(image)
    y, x = pixel_positions(one, defects).T
    size = (DEFECT_MARKER_SIZE * ax.get_window_extent().width * 72 / ax.figure.dpi) ** 2
    for kind, (color, marker, single, several) in DEFECTS.items():
        rows = (defects["kind"] == kind).to_numpy()
        if rows.any():
            label = f"{rows.sum()} {single if rows.sum() == 1 else several}"
            style: dict[str, Any] = {"marker": marker, "facecolors": "none", "edgecolors": color, "linewidths": 1.6}
            ax.scatter(x[rows], y[rows], s=size, label=label, **style)
    _legend(ax)
    limit_to_image(ax, one.shape)
    return ax


def show_detection_limit(
    image: Images,
    columns: pd.DataFrame,
    ax: Axes | None = None,
    title: str | None = None,
    *,
    limits: tuple[float, float] = (0.0, 1.0),
) -> Axes:
    """Draw an image with its columns coloured by the smallest change of brightness that would have been found.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    columns : DataFrame
        ``point_defects(table, lattice).columns``. Columns that were not tested are crosses.
    ax : matplotlib Axes, optional
    title : str, optional
    limits : (float, float), default=(0.0, 1.0)
        Ends of the colour scale, fractions of the expected brightness. Beyond 1, not even a missing column is found.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``columns`` lacks the limit.
    """
    import matplotlib.pyplot as plt

    check_columns("columns", columns, ("y", "x", "detectable"), "point_defects(table, lattice).columns")
    ax = show_image(image, ax, title)
    one = single_image(image)
    positions = pixel_positions(one, columns)
    (y, x), size = positions.T, LIMIT_MARKER_AREA * marker_size(ax, positions)
    limit = columns["detectable"].to_numpy(dtype=np.float64)
    known = np.isfinite(limit)
    style: dict[str, Any] = {"cmap": "viridis_r", "vmin": limits[0], "vmax": limits[1], "edgecolors": "white"}
    drawn = ax.scatter(x[known], y[known], c=limit[known], s=size, linewidths=0.3, **style)
    ax.scatter(x[~known], y[~known], s=size / 4, c="white", marker="x", linewidths=0.8)
    label = "smallest change found, fraction of the brightness"
    beyond = "max" if known.any() and limit[known].max() > limits[1] else "neither"
    plt.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, label=label, extend=beyond)
    limit_to_image(ax, one.shape)
    return ax


def _legend(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        # below the image, of which every part may have columns
        place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.01), "ncols": 3}
        ax.legend(fontsize="small", facecolor="0.35", labelcolor="white", **place)
