"""Figures: images with a scale bar, columns over them, and pictures for people rather than programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

import stemkit
from stemkit.images import Images, measured_image, pixel_sizes, split

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

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

#: A scale bar has one of these lengths, times a power of ten, nm.
ROUND_LENGTHS = (1.0, 2.0, 5.0)
COLUMN_COLOUR = "#e8543f"
FLAGGED_COLOUR = "#f2b134"
#: Of labels 0, 1, ..., repeated; distinguishable with the common colour vision deficiencies (Okabe and Ito 2008).
LABEL_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
#: The colours of a map of residuals reach at least this many standard deviations.
RESIDUAL_RANGE = 3.0
#: Scale bar and notes lie over the columns.
ON_TOP = 5.0


def show_image(image: Images, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw one image in grey with a scale bar where it is calibrated.

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

    one = _one(image)
    ax = plt.gca() if ax is None else ax
    low, high = _display_range(one.values)
    sizes = pixel_sizes(one) or (1.0, 1.0)
    ax.imshow(one.values, cmap="gray", vmin=low, vmax=high, interpolation="nearest", aspect=sizes[0] / sizes[1])
    ax.set_xticks([])
    ax.set_yticks([])
    if title:
        ax.set_title(title)
    _draw_scale_bar(ax, one)
    return ax


def show_columns(
    image: Images,
    table: pd.DataFrame,
    ax: Axes | None = None,
    title: str | None = None,
    errors: float | None = None,
) -> Axes:
    """Draw an image with its measured columns; those with a quality flag are yellow, and a key counts them.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        A calibrated one can be a part of the image that was measured: columns stand at their place in nm.
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave for this image.
    ax : matplotlib Axes, optional
    title : str, optional
    errors : float, optional
        Instead of circles, draw ellipses whose half axes are the positions' standard deviations times this number,
        which stands in the corner. Jitter of the rows is added in quadrature where the table has it. Columns without
        errors, whose fit failed, are crosses.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If `image` is a stack, or `errors` is not a positive number.
    """
    if errors is not None and not 0 < errors < np.inf:
        raise ValueError(f"errors must be a positive number, by how much error bars are enlarged, but is {errors!r}")
    ax = show_image(image, ax, title)
    one = _one(image)
    n_y, n_x = one.shape
    y, x = _places(one, table)
    table = table[(y >= -0.5) & (y < n_y - 0.5) & (x >= -0.5) & (x < n_x - 0.5)]
    flagged = table["quality"].to_numpy() != 0
    for which, colour in ((~flagged, COLUMN_COLOUR), (flagged, FLAGGED_COLOUR)):
        if errors is None:
            y, x = _places(one, table[which])
            ax.scatter(x, y, s=_marker_size(ax, table), facecolors="none", edgecolors=colour, linewidths=0.8)
        else:
            _draw_errors(ax, one, table[which], errors, colour)
    if errors is not None:
        _draw_note(ax, 0.035, 0.97, f"1σ errors × {errors:g}", ha="left", va="top")
    if flagged.any():
        _draw_note(ax, 0.965, 0.97, f"○ {flagged.sum()} flagged", ha="right", va="top", colour=FLAGGED_COLOUR)
    ax.set_xlim(-0.5, n_x - 0.5)
    ax.set_ylim(n_y - 0.5, -0.5)
    return ax


def show_labels(
    image: Images,
    table: pd.DataFrame,
    labels: ArrayLike,
    ax: Axes | None = None,
    title: str | None = None,
    name: str = "lattice",
) -> Axes:
    """Draw an image with its columns in the colours of their labels: lattices, sublattices.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        As of :func:`show_columns`.
    table : DataFrame
        The columns.
    labels : Series or array-like of int, shape (n,)
        Of each column, such as ``fit_lattices(table).labels``. Columns of label -1, which belong to none, are crosses.
    ax : matplotlib Axes, optional
    title : str, optional
    name : str, default="lattice"
        What a label is, for the legend, which counts the columns of each.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If ``image`` is a stack, or there is not one label for each column.
    """
    values = np.asarray(labels)
    if values.shape != (len(table),):
        raise ValueError(f"labels must be one per column of the table, {len(table)}, but have the shape {values.shape}")
    ax = show_image(image, ax, title)
    one = _one(image)
    y, x = _places(one, table)
    size = _marker_size(ax, table)
    for label in np.unique(values[values >= 0]):
        rows = values == label
        colour = LABEL_COLOURS[int(label) % len(LABEL_COLOURS)]
        text = f"{name} {label} ({rows.sum()})"
        ax.scatter(x[rows], y[rows], s=size, facecolors="none", edgecolors=colour, linewidths=1.0, label=text)
    rows = values < 0
    if rows.any():
        ax.scatter(x[rows], y[rows], s=size / 3, c="white", marker="x", linewidths=0.8, label=f"none ({rows.sum()})")
    if len(values):
        ax.legend(loc="upper right", fontsize="small", facecolor="0.35", labelcolor="white", framealpha=0.8)
    ax.set_xlim(-0.5, one.shape[1] - 0.5)
    ax.set_ylim(one.shape[0] - 0.5, -0.5)
    return ax


def show_residual(
    image: Images,
    fitted: NDArray,
    noise_std: NDArray | float,
    ax: Axes | None = None,
    title: str | None = None,
) -> Axes:
    """Draw what a model leaves unexplained, in expected standard deviations: noise alone has an RMS of 1.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        The recorded image, or an enhanced one that carries its recorded pixels: those are compared.
    fitted : ndarray of shape (n_y, n_x)
        The model of the recorded pixels, in the image's units.
    noise_std : float or ndarray of shape (n_y, n_x)
        Standard deviation of the noise that is expected there, in the image's units, above 0. From a noise model it
        is ``np.sqrt(model.variance(fitted))``.
    ax : matplotlib Axes, optional
    title : str, optional

    Returns
    -------
    matplotlib Axes
        Its coordinates are pixels. The colours are centred on 0 (white), red where more was recorded than expected,
        and reach to the 99.7 % quantile, at least 3. The RMS stands in the corner.

    Raises
    ------
    ValueError
        If the shapes differ, or there are values that are not finite, or deviations that are not above 0.
    """
    import matplotlib.pyplot as plt

    recorded = measured_image(_one(image))
    residual = _residual(recorded.values, np.asarray(fitted), np.asarray(noise_std))
    limit = max(RESIDUAL_RANGE, float(np.quantile(np.abs(residual), 0.997)))
    ax = plt.gca() if ax is None else ax
    sizes = pixel_sizes(recorded) or (1.0, 1.0)
    drawn = ax.imshow(
        residual, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest", aspect=sizes[0] / sizes[1]
    )
    ax.set_xticks([])
    ax.set_yticks([])
    if title:
        ax.set_title(title)
    bar = plt.colorbar(drawn, ax=ax, extend="both", fraction=0.046, pad=0.03)
    bar.set_label("(recorded − model) / expected standard deviation")
    _draw_scale_bar(ax, recorded, colour="black", outline="white")
    rms = float(np.sqrt(np.mean(residual**2)))
    _draw_note(ax, 0.035, 0.97, f"RMS {rms:.3g}", ha="left", va="top", colour="black", outline="white")
    return ax


def compare(images: dict[str, xr.DataArray], table: pd.DataFrame | None = None) -> Figure:
    """Images side by side, and the columns over the last one."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(images), figsize=(5 * len(images), 5.2), layout="constrained", squeeze=False)
    for i, (title, image) in enumerate(images.items()):
        if table is not None and i == len(images) - 1:
            show_columns(image, table, axes[0, i], title)
        else:
            show_image(image, axes[0, i], title)
    return figure


def save_picture(image: Images, path: str | Path, *, overwrite: bool = False) -> Path:
    """Write an image as a PNG with a scale bar: a picture to look at, one screen pixel per image pixel.

    Its grey values are not the image's: 0.1 % at either end are clipped and the rest is stretched.
    """
    import matplotlib.pyplot as plt

    one = _one(image)
    n_y, n_x = one.shape
    dpi = 100
    zoom = max(1, int(np.ceil(256 / min(n_y, n_x))))
    figure = plt.figure(figsize=(zoom * n_x / dpi, zoom * n_y / dpi), dpi=dpi)
    try:
        show_image(one, figure.add_axes((0, 0, 1, 1)))
        made = {"stemkit": stemkit.__version__, "step": "picture"}
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
    """Write a figure whole or not at all, over another file only if asked to; ``text`` goes into its metadata."""
    path = Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True (--overwrite) to replace it")
    buffer = io.BytesIO()
    figure.savefig(
        buffer,
        format=path.suffix[1:] or "png",
        bbox_inches="tight" if tight else None,
        dpi=dpi or "figure",
        metadata=text,
    )
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_bytes(buffer.getvalue())
    temporary.replace(path)
    return path


def scale_bar_length(width: float) -> float:
    """A round length (nm) of about a fifth of a field of view (nm)."""
    exponent = np.floor(np.log10(width / 5))
    candidates = np.array((*ROUND_LENGTHS, 10.0)) * 10.0**exponent
    return float(candidates[np.argmin(np.abs(candidates - width / 5))])


def _places(image: xr.DataArray, table: pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Positions of columns in the image's pixels: from their nm where both know them."""
    sizes = pixel_sizes(image)
    in_nm = not np.array_equal(table["x"], table["x_px"])
    if sizes is None or not in_nm:
        return table["y_px"].to_numpy(), table["x_px"].to_numpy()
    y, x = ((table[d].to_numpy() - float(image.coords[d][0])) / s for d, s in zip(("y", "x"), sizes, strict=True))
    return y, x


def _draw_errors(ax: Axes, image: xr.DataArray, table: pd.DataFrame, scale: float, colour: str) -> None:
    from matplotlib.collections import EllipseCollection

    (y, x), (y_err, x_err) = _places(image, table), _position_errors(image, table)
    known = np.isfinite(y_err) & np.isfinite(x_err)
    ellipses = EllipseCollection(
        2 * scale * x_err[known],
        2 * scale * y_err[known],
        np.zeros(known.sum()),
        units="xy",
        offsets=np.column_stack([x[known], y[known]]),
        offset_transform=ax.transData,
        facecolors="none",
        edgecolors=colour,
        linewidths=0.8,
    )
    ax.add_collection(ellipses, autolim=False)
    ax.scatter(x[~known], y[~known], s=_marker_size(ax, table) / 4, c=colour, marker="x", linewidths=0.8)


def _position_errors(image: xr.DataArray, table: pd.DataFrame) -> tuple[NDArray, NDArray]:
    """Standard deviations of the positions in the image's pixels, with jitter."""
    sizes = pixel_sizes(image)
    in_nm = not np.array_equal(table["x"], table["x_px"])
    found = []
    for d, size in zip(("y", "x"), sizes or (1.0, 1.0), strict=True):
        error = table[f"{d}_err"].to_numpy(dtype=np.float64)
        # an image without pixel size, measured when it had one: the table itself knows how many px its errors are
        px = 1 / size if sizes is not None and in_nm else table[f"{d}_px_err"].to_numpy(dtype=np.float64) / error
        jitter = table[f"{d}_jitter"].to_numpy(dtype=np.float64) if f"{d}_jitter" in table else 0.0
        found.append(np.hypot(error, jitter) * px)
    return found[0], found[1]


def _residual(recorded: NDArray, fitted: NDArray, noise_std: NDArray) -> NDArray[np.float64]:
    if fitted.shape != recorded.shape:
        raise ValueError(f"fitted must have the image's shape, {recorded.shape}, but has {fitted.shape}")
    if noise_std.shape not in ((), recorded.shape):
        raise ValueError(
            f"noise_std must be a number or have the image's shape, {recorded.shape}, but has {noise_std.shape}"
        )
    if bad := int((~np.isfinite(fitted)).sum()):
        raise ValueError(f"fitted must be finite, but has {bad} NaN or infinite values: give a model of every pixel")
    if bad := int((~(np.isfinite(noise_std) & (noise_std > 0))).sum()):
        raise ValueError(f"noise_std must be finite and above 0, but is not in {bad} places: give it a floor")
    return (recorded.astype(np.float64) - fitted) / noise_std


def _one(image: Images) -> xr.DataArray:
    images = split(image, name="image")
    if len(images) != 1:
        raise ValueError(f"image must be a single image, but is a stack of {len(images)}: choose one with image[i]")
    return images[0]


def _display_range(values: NDArray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.001, 0.999])
    return float(low), float(high) if high > low else float(low) + 1.0


def _draw_scale_bar(ax: Axes, image: xr.DataArray, colour: str = "white", outline: str = "black") -> None:
    sizes = pixel_sizes(image)
    if sizes is None:
        return
    n_y, n_x = image.shape
    length = scale_bar_length(n_x * sizes[1])
    label = f"{length:g} nm" if length >= 1 else f"{length * 10:g} Å"
    width, thick = length / sizes[1], max(1.0, 0.014 * n_y)
    x, y = 0.035 * n_x, 0.955 * n_y
    ax.add_patch(_rectangle(x, y, width, thick, colour, outline))
    place = {"ha": "center", "va": "bottom", "colour": colour, "outline": outline}
    _draw_note(ax, x + width / 2, y - 0.008 * n_y, label, **place, in_pixels=True)


def _draw_note(
    ax: Axes,
    x: float,
    y: float,
    text: str,
    *,
    ha: str,
    va: str,
    colour: str = "white",
    outline: str = "black",
    in_pixels: bool = False,
) -> None:
    """Write over the image, at a place in its pixels or, from the lower left, in fractions of the axes."""
    from matplotlib.patheffects import withStroke

    size = float(np.clip(0.045 * _inches(ax)[1] * 72, 5, 24))
    transform = ax.transData if in_pixels else ax.transAxes
    note = ax.text(x, y, text, color=colour, ha=ha, va=va, fontsize=size, transform=transform, zorder=ON_TOP)
    # a thin outline keeps white readable on bright columns
    note.set_path_effects([withStroke(linewidth=size / 5, foreground=outline)])


def _rectangle(x: float, y: float, width: float, height: float, colour: str, outline: str) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor=colour, edgecolor=outline, linewidth=0.5, zorder=ON_TOP)


def _inches(ax: Axes) -> tuple[float, float]:
    """Width and height of the axes on paper."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches()
    return ax.get_position().width * width, ax.get_position().height * height


def _marker_size(ax: Axes, table: pd.DataFrame) -> float:
    """Area of the circles in points squared: they cover about a column's width."""
    from scipy.spatial import cKDTree

    positions = table[["y_px", "x_px"]].to_numpy()
    spacing = float(np.median(cKDTree(positions).query(positions, k=2)[0][:, 1])) if len(positions) > 1 else 20.0
    points = _inches(ax)[0] * 72 / max(np.diff(ax.get_xlim())[0], 1)
    return float(np.clip((0.55 * spacing * points) ** 2, 2, 400))
