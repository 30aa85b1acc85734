"""Figures: images with a scale bar, columns over them, and pictures for people rather than programs."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

import stemkit
from stemkit.images import Images, pixel_sizes, split

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

__all__ = ["compare", "save_figure", "save_picture", "scale_bar_length", "show_columns", "show_image"]

#: A scale bar has one of these lengths, times a power of ten, nm.
ROUND_LENGTHS = (1.0, 2.0, 5.0)
COLUMN_COLOUR = "#e8543f"
FLAGGED_COLOUR = "#f2b134"


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


def show_columns(image: Images, table: pd.DataFrame, ax: Axes | None = None, title: str | None = None) -> Axes:
    """Draw an image with its measured columns; those with a quality flag are yellow.

    Parameters
    ----------
    image : DataArray or ndarray of shape (n_y, n_x)
        A calibrated one can be a part of the image that was measured: columns stand at their place in nm.
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave for this image.
    """
    ax = show_image(image, ax, title)
    good = table["quality"].to_numpy() == 0
    y, x = _places(_one(image), table)
    size = _marker_size(ax, table)
    for which, colour in ((good, COLUMN_COLOUR), (~good, FLAGGED_COLOUR)):
        ax.scatter(x[which], y[which], s=size, facecolors="none", edgecolors=colour, linewidths=0.8)
    n_y, n_x = _one(image).shape
    ax.set_xlim(-0.5, n_x - 0.5)
    ax.set_ylim(n_y - 0.5, -0.5)
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


def _one(image: Images) -> xr.DataArray:
    images = split(image, name="image")
    if len(images) != 1:
        raise ValueError(f"image must be a single image, but is a stack of {len(images)}: choose one with image[i]")
    return images[0]


def _display_range(values: NDArray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.001, 0.999])
    return float(low), float(high) if high > low else float(low) + 1.0


def _draw_scale_bar(ax: Axes, image: xr.DataArray) -> None:
    from matplotlib.patheffects import withStroke

    sizes = pixel_sizes(image)
    if sizes is None:
        return
    n_y, n_x = image.shape
    length = scale_bar_length(n_x * sizes[1])
    label = f"{length:g} nm" if length >= 1 else f"{length * 10:g} Å"
    width, thick = length / sizes[1], max(1.0, 0.014 * n_y)
    x, y = 0.035 * n_x, 0.955 * n_y
    # a thin dark outline keeps white readable on bright columns
    ax.add_patch(_rectangle(x, y, width, thick))
    points = _inches(ax)[1] * 72
    size = float(np.clip(0.045 * points, 5, 24))
    text = ax.text(x + width / 2, y - 0.008 * n_y, label, color="white", ha="center", va="bottom", fontsize=size)
    text.set_path_effects([withStroke(linewidth=size / 7, foreground="black")])


def _rectangle(x: float, y: float, width: float, height: float) -> Rectangle:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, facecolor="white", edgecolor="black", linewidth=0.5)


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
