"""Figures: images with a scale bar, their atomic columns, labels and residuals, and PNG pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from stemkit._version import __version__
from stemkit.atomic import check_place, whole_file
from stemkit.images import Images, pixel_sizes, recorded_image, split
from stemkit.tables import unit_of_table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

__all__ = [
    "compare",
    "save_figure",
    "save_picture",
    "scale_bar_length",
    "show_columns",
    "show_image",
    "show_labels",
    "show_residual",
]

#: Leading digits of the length of a scale bar, nm times a power of ten (chosen).
ROUND_LENGTHS = (1.0, 2.0, 5.0, 10.0)
#: Colour of a column without quality flags (chosen).
COLUMN_COLOR = "#e8543f"
#: Colour of a column with a quality flag (chosen).
FLAGGED_COLOR = "#f2b134"
#: Colours of labels 0, 1, ..., used cyclically; distinguishable with the common colour vision deficiencies (Okabe and
#: Ito 2008).
LABEL_COLORS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
#: Smallest upper limit of the colour scale of a residual map, standard deviations (chosen).
RESIDUAL_RANGE = 3.0
#: Quantile of the absolute residuals at which the colour scale ends (chosen: three standard deviations of a normal
#: distribution).
RESIDUAL_QUANTILE = 0.997
#: Quantiles of the intensities that are displayed black and white (chosen).
DISPLAY_QUANTILES = (0.001, 0.999)
#: Drawing order of scale bar and annotations (chosen: above the columns, which matplotlib draws at 1).
ANNOTATION_ZORDER = 5.0
#: Shorter side of a picture, screen pixels at least (chosen).
PICTURE_SIZE = 256
#: Resolution of a picture, dots per inch; it cancels, since the size of the figure is given in dots (chosen).
PICTURE_DPI = 100


def show_image(image: Images, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw an image in grey levels, with a scale bar if it is calibrated.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels.
    """
    import matplotlib.pyplot as plt

    one = _single_image(image)
    ax = plt.gca() if ax is None else ax
    _draw_pixels(ax, one, one.values, title, "gray", _display_range(one.values))
    _draw_scale_bar(ax, one)
    return ax


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
    if error_scale is not None and not 0 < error_scale < np.inf:
        raise ValueError(
            f"error_scale must be a positive number, the magnification of the error bars, but is {error_scale!r}"
        )
    ax = show_image(image, ax, title)
    one = _single_image(image)
    n_y, n_x = one.shape
    y, x = _pixel_positions(one, table)
    table = table[(y >= -0.5) & (y < n_y - 0.5) & (x >= -0.5) & (x < n_x - 0.5)]
    flagged = table["quality"].to_numpy() != 0
    for which, color in ((~flagged, COLUMN_COLOR), (flagged, FLAGGED_COLOR)):
        if error_scale is None:
            y, x = _pixel_positions(one, table[which])
            ax.scatter(x, y, s=_marker_size(ax, table), facecolors="none", edgecolors=color, linewidths=0.8)
        else:
            _draw_errors(ax, one, table[which], error_scale, color)
    if error_scale is not None:
        _draw_note(ax, 0.035, 0.97, f"1σ errors × {error_scale:g}", ha="left", va="top")
    if flagged.any():
        _draw_note(ax, 0.965, 0.97, f"○ {flagged.sum()} flagged", ha="right", va="top", color=FLAGGED_COLOR)
    _limit_to_image(ax, one.shape)
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
    values = np.asarray(labels)
    if values.shape != (len(table),):
        raise ValueError(f"labels must be one per column of the table, {len(table)}, but has shape {values.shape}")
    ax = show_image(image, ax, title)
    one = _single_image(image)
    y, x = _pixel_positions(one, table)
    size = _marker_size(ax, table)
    for label in np.unique(values[values >= 0]):
        rows = values == label
        color = LABEL_COLORS[int(label) % len(LABEL_COLORS)]
        text = f"{name} {label} ({rows.sum()})"
        ax.scatter(x[rows], y[rows], s=size, facecolors="none", edgecolors=color, linewidths=1.0, label=text)
    rows = values < 0
    if rows.any():
        ax.scatter(x[rows], y[rows], s=size / 3, c="white", marker="x", linewidths=0.8, label=f"none ({rows.sum()})")
    if len(values):
        ax.legend(loc="upper right", fontsize="small", facecolor="0.35", labelcolor="white", framealpha=0.8)
    _limit_to_image(ax, one.shape)
    return ax


def show_residual(
    image: Images,
    fitted: NDArray,
    noise_std: NDArray | float,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw the residual of a model divided by the expected standard deviation: noise alone has an RMS of 1.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        The recorded image, or an enhanced image that carries the recorded pixels, which are used.
    fitted : ndarray of shape (n_y, n_x)
        The model of the recorded pixels, in the image's units.
    noise_std : float or ndarray of shape (n_y, n_x)
        Expected standard deviation of the noise of each pixel, in the image's units, above 0. For a noise model it is
        ``np.sqrt(model.variance(fitted))``.
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels. The colour scale is centred on 0 (white), red where the recorded intensity exceeds
        the model, and ends at the 99.7 % quantile of the absolute residuals or at 3, whichever is larger. The RMS is
        written in the corner.

    Raises
    ------
    ValueError
        If the shapes differ, if ``fitted`` is not finite, or if ``noise_std`` is not finite and above 0.
    """
    import matplotlib.pyplot as plt

    recorded = recorded_image(_single_image(image))
    residual = _residual(recorded.values, np.asarray(fitted), np.asarray(noise_std))
    limit = max(RESIDUAL_RANGE, float(np.quantile(np.abs(residual), RESIDUAL_QUANTILE)))
    ax = plt.gca() if ax is None else ax
    drawn = _draw_pixels(ax, recorded, residual, title, "RdBu_r", (-limit, limit))
    bar = plt.colorbar(drawn, ax=ax, extend="both", fraction=0.046, pad=0.03)
    bar.set_label("(recorded − model) / expected standard deviation")
    _draw_scale_bar(ax, recorded, color="black", outline="white")
    rms = float(np.sqrt(np.mean(residual**2)))
    _draw_note(ax, 0.035, 0.97, f"RMS {rms:.3g}", ha="left", va="top", color="black", outline="white")
    return ax


def compare(images: dict[str, xr.DataArray], table: pd.DataFrame | None = None) -> Figure:
    """Draw images in one row of a figure, with the columns of ``table`` on the last one."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(images), figsize=(5 * len(images), 5.2), layout="constrained", squeeze=False)
    for i, (title, image) in enumerate(images.items()):
        if table is not None and i == len(images) - 1:
            show_columns(image, table, axes[0, i], title)
        else:
            show_image(image, axes[0, i], title)
    return figure


def save_picture(image: Images, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an image as a PNG picture with a scale bar, for display, one screen pixel per image pixel or more.

    The grey values are not intensities: they are scaled, with 0.1 % of the pixels clipped at either end.
    """
    import matplotlib.pyplot as plt

    one = _single_image(image)
    n_y, n_x = one.shape
    zoom = max(1, int(np.ceil(PICTURE_SIZE / min(n_y, n_x))))
    figure = plt.figure(figsize=(zoom * n_x / PICTURE_DPI, zoom * n_y / PICTURE_DPI), dpi=PICTURE_DPI)
    try:
        show_image(one, figure.add_axes((0, 0, 1, 1)))
        made = {"stemkit": __version__, "step": "picture"}
        if "stemkit" in one.attrs:
            made["previous"] = json.loads(one.attrs["stemkit"])
        return save_figure(figure, path, overwrite=overwrite, tight=False, text={"stemkit": json.dumps(made)})
    finally:
        plt.close(figure)


def save_figure(
    figure: Figure,
    path: str | Path,
    *,
    overwrite: bool = False,
    tight: bool = True,
    dpi: float | None = None,
    text: dict[str, str] | None = None,
) -> Path:
    """Write a figure completely or not at all.

    Parameters
    ----------
    figure : matplotlib Figure
    path : path-like
        The suffix determines the format; without a suffix it is PNG.
    overwrite : bool, default=False
        Replace an existing file.
    tight : bool, default=True
        Crop the figure to what is drawn.
    dpi : float, optional
        Dots per inch; the figure's own by default.
    text : dict of str to str, optional
        Metadata of the file.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    """
    path = Path(path)
    check_place(path, overwrite)
    box = "tight" if tight else None
    with whole_file(path) as temporary:
        figure.savefig(temporary, format=path.suffix[1:] or "png", bbox_inches=box, dpi=dpi or "figure", metadata=text)
    return path


def scale_bar_length(width: float) -> float:
    """Round length (nm) nearest to a fifth of the width of a field of view (nm)."""
    exponent = np.floor(np.log10(width / 5))
    candidates = np.array(ROUND_LENGTHS) * 10.0**exponent
    return float(candidates[np.argmin(np.abs(candidates - width / 5))])


def _draw_pixels(
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


def _limit_to_image(ax: Axes, shape: tuple[int, ...]) -> None:
    """Limit the axes to the image after markers were drawn."""
    ax.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))


def _pixel_positions(image: xr.DataArray, table: pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Positions y, x of columns in pixels of the image, from their positions in nm if both are calibrated."""
    sizes = pixel_sizes(image)
    if sizes is None or unit_of_table(table) == "px":
        return table["y_px"].to_numpy(), table["x_px"].to_numpy()
    y, x = ((table[d].to_numpy() - float(image.coords[d][0])) / s for d, s in zip(("y", "x"), sizes, strict=True))
    return y, x


def _draw_errors(ax: Axes, image: xr.DataArray, table: pd.DataFrame, scale: float, color: str) -> None:
    from matplotlib.collections import EllipseCollection

    (y, x), (y_err, x_err) = _pixel_positions(image, table), _position_errors(image, table)
    known = np.isfinite(y_err) & np.isfinite(x_err)
    ellipses = EllipseCollection(
        2 * scale * x_err[known],
        2 * scale * y_err[known],
        np.zeros(known.sum()),
        units="xy",
        offsets=np.column_stack([x[known], y[known]]),
        offset_transform=ax.transData,
        facecolors="none",
        edgecolors=color,
        linewidths=0.8,
    )
    ax.add_collection(ellipses, autolim=False)
    ax.scatter(x[~known], y[~known], s=_marker_size(ax, table) / 4, c=color, marker="x", linewidths=0.8)


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


def _residual(recorded: NDArray, fitted: NDArray, noise_std: NDArray) -> NDArray[np.float64]:
    if fitted.shape != recorded.shape:
        raise ValueError(f"fitted must have the image's shape, {recorded.shape}, but has shape {fitted.shape}")
    if noise_std.shape not in ((), recorded.shape):
        raise ValueError(
            f"noise_std must be a number or have the image's shape, {recorded.shape}, but has shape {noise_std.shape}"
        )
    if bad := int((~np.isfinite(fitted)).sum()):
        raise ValueError(f"fitted must be finite, but {bad} value(s) are NaN or infinite: give a model of every pixel")
    if bad := int((~(np.isfinite(noise_std) & (noise_std > 0))).sum()):
        raise ValueError(f"noise_std must be finite and above 0, but {bad} value(s) are not: set a lower limit")
    return (recorded.astype(np.float64) - fitted) / noise_std


def _single_image(image: Images) -> xr.DataArray:
    images = split(image, name="image")
    if len(images) != 1:
        raise ValueError(f"image must be a single image, but is a stack of {len(images)}: choose one with image[i]")
    return images[0]


def _display_range(values: NDArray) -> tuple[float, float]:
    low, high = np.quantile(values, DISPLAY_QUANTILES)
    return float(low), float(high) if high > low else float(low) + 1.0


def _draw_scale_bar(ax: Axes, image: xr.DataArray, color: str = "white", outline: str = "black") -> None:
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
    _draw_note(ax, x + width / 2, y - 0.008 * n_y, label, **place, in_pixels=True)


def _draw_note(
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

    size = float(np.clip(0.045 * _inches(ax)[1] * 72, 5, 24))
    transform = ax.transData if in_pixels else ax.transAxes
    note = ax.text(x, y, text, color=color, ha=ha, va=va, fontsize=size, transform=transform, zorder=ANNOTATION_ZORDER)
    # an outline keeps the text readable on bright columns
    note.set_path_effects([withStroke(linewidth=size / 5, foreground=outline)])


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes in inches."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    return ax.get_position().width * width, ax.get_position().height * height


def _marker_size(ax: Axes, table: pd.DataFrame) -> float:
    """Area of the circles in points squared, for a diameter of about half the spacing of the columns."""
    from scipy.spatial import cKDTree

    positions = table[["y_px", "x_px"]].to_numpy()
    spacing = float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1])) if len(positions) > 1 else 20.0
    points = _inches(ax)[0] * 72 / max(np.diff(ax.get_xlim())[0], 1)
    return float(np.clip((0.55 * spacing * points) ** 2, 2, 400))
