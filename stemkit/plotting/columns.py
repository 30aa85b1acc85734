"""Images with their atomic columns: flags, errors and labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from stemkit.images.containers import Images, single_image
from stemkit.images.pixel_size import pixel_sizes
from stemkit.parameters import check_positive
from stemkit.plotting.drawing import LEGEND, draw_note, limit_to_image, marker_size, pixel_positions
from stemkit.plotting.images import show_image
from stemkit.tables import check_columns, unit_of_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["compare", "show_columns", "show_labels"]

#: Colour of a column without quality flags (chosen).
COLUMN_COLOR = "#e8543f"
#: Colour of a column with a quality flag (chosen).
FLAGGED_COLOR = "#f2b134"
#: Colours of labels 0, 1, ..., used cyclically; distinguishable with the common colour vision deficiencies (Okabe and
#: Ito 2008).
LABEL_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def show_columns(
    image: Images,
    table: pd.DataFrame,
    ax: Axes | None = None,
    title: str | None = None,
    error_scale: float | None = None,
) -> Axes:
    """Draw an image with its measured columns; those with a quality flag are yellow, and a note gives their number.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        A calibrated image can be a crop of the measured one: columns are drawn at their positions in nm.
    table : DataFrame
        Result of :class:`stemkit.AtomDetector` for this image.
    ax : matplotlib Axes, optional
    title : str, optional
    error_scale : float, optional
        Draw ellipses instead of circles; their semi-axes are the standard deviations of the positions times this
        number, which is written in the corner. The jitter of the rows is added in quadrature if the table contains it.
        Columns without errors, whose fit failed, are drawn as crosses.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``error_scale`` is not a positive number.
    """
    check_positive("error_scale", error_scale, optional=True)
    check_columns("table", table, ("y", "x", "quality"), "the result of AtomDetector")
    ax = show_image(image, ax, title)
    one = single_image(image)
    positions = pixel_positions(one, table)
    inside = ((positions >= -0.5) & (positions < np.array(one.shape) - 0.5)).all(axis=1)
    table, positions = table[inside], positions[inside]
    flagged = table["quality"].to_numpy() != 0
    for which, color in ((~flagged, COLUMN_COLOR), (flagged, FLAGGED_COLOR)):
        if error_scale is None:
            y, x = positions[which].T
            ax.scatter(x, y, s=marker_size(ax, positions), facecolors="none", edgecolors=color, linewidths=0.8)
        else:
            _draw_errors(ax, one, table[which], error_scale, color)
    if error_scale is not None:
        draw_note(ax, 0.035, 0.97, f"1σ errors × {error_scale:g}", ha="left", va="top")
    if flagged.any():
        draw_note(ax, 0.965, 0.97, f"○ {flagged.sum()} flagged", ha="right", va="top", color=FLAGGED_COLOR)
    limit_to_image(ax, one.shape)
    return ax


def show_labels(
    image: Images,
    table: pd.DataFrame,
    labels: ArrayLike,
    ax: Axes | None = None,
    title: str | None = None,
    name: str = "lattice",
) -> Axes:
    """Draw an image with its columns coloured by label, such as the lattice or sublattice they belong to.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As for :func:`show_columns`.
    table : DataFrame
        The columns.
    labels : Series or array-like of int, shape (n,)
        Label of each column, such as ``fit_lattices(table).labels``. Columns labelled -1, which belong to no lattice,
        are drawn as crosses.
    ax : matplotlib Axes, optional
    title : str, optional
    name : str, default="lattice"
        Name of a label in the legend, which also gives the number of columns with each label.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or ``labels`` does not have one element per column.
    """
    check_columns("table", table, ("y", "x"), "the result of AtomDetector")
    values = np.asarray(labels)
    if values.shape != (len(table),):
        raise ValueError(f"labels must be one per column of the table, {len(table)}, but has shape {values.shape}")
    ax = show_image(image, ax, title)
    one = single_image(image)
    positions = pixel_positions(one, table)
    (y, x), size = positions.T, marker_size(ax, positions)
    for label in np.unique(values[values >= 0]):
        rows = values == label
        color = LABEL_COLORS[int(label) % len(LABEL_COLORS)]
        text = f"{name} {label} ({rows.sum()})"
        ax.scatter(x[rows], y[rows], s=size, facecolors="none", edgecolors=color, linewidths=1.0, label=text)
    rows = values < 0
    if rows.any():
        ax.scatter(x[rows], y[rows], s=size / 3, c="white", marker="x", linewidths=0.8, label=f"none ({rows.sum()})")
    if len(values):
        ax.legend(**LEGEND)
    limit_to_image(ax, one.shape)
    return ax


def compare(images: dict[str, xr.DataArray], table: pd.DataFrame | None = None) -> Figure:
    """Draw images in one row of a figure, with the columns of ``table`` on the last one.

    Parameters
    ----------
    images : dict of str to DataArray
        Single images by their titles.
    table : DataFrame, optional
        Columns of the last image, as for :func:`show_columns`.

    Returns
    -------
    matplotlib Figure

    Raises
    ------
    TypeError
        If ``images`` is not a dict.
    ValueError
        If it is empty.
    """
    import matplotlib.pyplot as plt

    if not isinstance(images, dict):
        raise TypeError(f"images must be a dict of images by their titles, but is {type(images).__name__}")
    if not images:
        raise ValueError("images must contain at least one image, but is empty")

    figure, axes = plt.subplots(1, len(images), figsize=(5 * len(images), 5.2), layout="constrained", squeeze=False)
    for i, (title, image) in enumerate(images.items()):
        if table is not None and i == len(images) - 1:
            show_columns(image, table, axes[0, i], title)
        else:
            show_image(image, axes[0, i], title)
    return figure


def _draw_errors(ax: Axes, image: xr.DataArray, table: pd.DataFrame, scale: float, color: str) -> None:
    from matplotlib.collections import EllipseCollection

    positions, (y_err, x_err) = pixel_positions(image, table), _position_errors(image, table)
    known = np.isfinite(y_err) & np.isfinite(x_err)
    ellipses = EllipseCollection(
        2 * scale * x_err[known],
        2 * scale * y_err[known],
        np.zeros(known.sum()),
        units="xy",
        offsets=positions[known][:, ::-1],
        offset_transform=ax.transData,
        facecolors="none",
        edgecolors=color,
        linewidths=0.8,
    )
    ax.add_collection(ellipses, autolim=False)
    y, x = positions[~known].T
    ax.scatter(x, y, s=marker_size(ax, positions) / 4, c=color, marker="x", linewidths=0.8)


def _position_errors(image: xr.DataArray, table: pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Standard deviations of the positions along y and x in pixels of the image, including jitter."""
    sizes, in_nm = pixel_sizes(image), unit_of_table(table) == "nm"
    errors = []
    for d, size in zip(("y", "x"), sizes or (1.0, 1.0), strict=True):
        error = table[f"{d}_err"].to_numpy(dtype=np.float64)
        # the image may have lost the pixel size that it had when it was measured; the table contains the ratio
        px = 1 / size if sizes is not None and in_nm else table[f"{d}_px_err"].to_numpy(dtype=np.float64) / error
        jitter = table[f"{d}_jitter"].to_numpy(dtype=np.float64) if f"{d}_jitter" in table else 0.0
        errors.append(np.hypot(error, jitter) * px)
    return errors[0], errors[1]
