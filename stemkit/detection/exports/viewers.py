"""Columns for Atomap, HyperSpy and napari."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stemkit.detection.exports.checks import check_single, checked_table, optional, spacing_of
from stemkit.images.containers import Images, split
from stemkit.images.pixel_size import pixel_sizes
from stemkit.plotting.columns import COLUMN_COLOR, FLAGGED_COLOR
from stemkit.tables import n_images

__all__ = ["to_atomap", "to_hyperspy_markers", "to_napari"]

#: Diameter of a marker, spacings of the columns (chosen).
MARKER = 0.55


def to_atomap(table: pd.DataFrame) -> NDArray[np.float64]:
    """Convert positions to those of ``atomap.api.Sublattice(positions, image)``.

    Parameters
    ----------
    table : DataFrame
        Result of :class:`stemkit.AtomDetector` for one image.

    Returns
    -------
    ndarray of shape (n_columns, 2)
        ``(x, y)`` in px: the centre of the first pixel is (0, 0), y increases downwards. Pixel size and units are those
        of the image that Atomap is given.

    Raises
    ------
    ValueError
        If the table contains several images.
    """
    table, _ = checked_table(table, None)
    check_single(table, "to_atomap")
    return table[["x_px", "y_px"]].to_numpy(dtype=np.float64)


def to_hyperspy_markers(table: pd.DataFrame, signal: Any, *, size: float = 10.0) -> Any:
    """Create circles for ``signal.add_marker``, flagged columns in yellow; requires ``pip install hyperspy``.

    Parameters
    ----------
    table : DataFrame
        Result of :class:`stemkit.AtomDetector` for one image.
    signal : hyperspy Signal2D
        Signal to which the circles will be added, of the measured image; its axes, in any unit and with any offset,
        determine the positions.
    size : float, default=10.0
        Diameter of the circles on the screen, points (1/72 inch).

    Returns
    -------
    hyperspy.api.plot.markers.Points

    Raises
    ------
    ImportError
        If HyperSpy is not installed.
    ValueError
        If the table contains several images, or ``signal`` does not consist of images.

    Examples
    --------
    With a HyperSpy signal ``s`` of the image: ``s.add_marker(to_hyperspy_markers(table, s), permanent=True)``.
    """
    table, _ = checked_table(table, None)
    check_single(table, "to_hyperspy_markers")
    offsets = _on_axes(table, signal)
    hyperspy = optional("hyperspy.api", "to_hyperspy_markers")
    return hyperspy.plot.markers.Points(
        offsets=offsets, sizes=size, facecolors="none", edgecolors=colors(table), linewidths=1.0
    )


def to_napari(
    table: pd.DataFrame, *, image: Images | None = None, name: str = "columns"
) -> tuple[NDArray[np.float64], dict[str, Any], str]:
    """Create a layer of points for napari (0.5 or newer), as its plugins do; napari itself is not required.

    Parameters
    ----------
    table : DataFrame
        Result of :class:`stemkit.AtomDetector`.
    image : DataArray, optional
        The measured image or stack. If it is calibrated, the layer is in nm, like an image layer with the pixel size of
        the image as its ``scale`` and its first coordinates as ``translate``. By default the layer is in px.
    name : str
        Name of the layer.

    Returns
    -------
    data : ndarray of shape (n_columns, 2) or (n_columns, 3)
        ``(y, x)`` in px, preceded by the index of the image if the table contains several or ``image`` is a stack.
    kwargs : dict
        Keywords of ``napari.layers.Points``: rings, flagged columns in yellow, and the table as ``features``, which
        napari displays as properties of the layer.
    kind : str
        ``"points"``.

    Examples
    --------
    ``viewer.add_layer(napari.layers.Layer.create(*to_napari(table)))``
    """
    table, _ = checked_table(table, None)
    stacked = n_images(table) > 1 or isinstance(image, list | tuple) or (image is not None and np.ndim(image) == 3)
    names = ["image", "y_px", "x_px"] if stacked else ["y_px", "x_px"]
    kwargs: dict[str, Any] = {
        "name": name,
        "features": table.reset_index(drop=True),
        "symbol": "ring",
        "size": MARKER * spacing_of(table, ("y_px", "x_px"), default=10.0),
        "face_color": colors(table),
        "border_width": 0.0,
    }
    # napari cannot determine the number of dimensions from an empty list of colours
    if len(table) == 0:
        del kwargs["face_color"]
    kwargs.update(_placed(image, stacked))
    return table[names].to_numpy(dtype=np.float64), kwargs, "points"


def _on_axes(table: pd.DataFrame, signal: Any) -> NDArray[np.float64]:
    """Positions (x, y) on the axes of a HyperSpy signal."""
    axes = signal.axes_manager.signal_axes
    if len(axes) != 2:
        raise ValueError(f"signal must consist of images (two signal axes), but has {len(axes)} signal axes")
    pixels = table[["x_px", "y_px"]].to_numpy(dtype=np.float64)
    return pixels * [axis.scale for axis in axes] + [axis.offset for axis in axes]


def _placed(image: Images | None, stacked: bool) -> dict[str, Any]:
    """Scale and translation of a layer, nm."""
    if image is None:
        return {}
    first = split(image, name="image")[0]
    sizes = pixel_sizes(first)
    if sizes is None:
        return {}
    origin = [float(first.coords[d][0]) if d in first.coords else 0.0 for d in ("y", "x")]
    return {"scale": (1.0,) * stacked + sizes, "translate": (0.0,) * stacked + tuple(origin)}


def colors(table: pd.DataFrame) -> list[str]:
    """Hexadecimal colours as in figures: flagged columns are yellow."""
    flagged = table["quality"].to_numpy() != 0 if "quality" in table else np.zeros(len(table), dtype=bool)
    return [FLAGGED_COLOR if f else COLUMN_COLOR for f in flagged]
