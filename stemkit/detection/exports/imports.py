"""Columns that other programs have fitted, as a table of columns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from stemkit.parameters import check_option, check_positive
from stemkit.tables import UNITS

__all__ = ["from_atomap", "from_hyperspy_markers", "from_statstem"]

#: nm per unit, by the names of units of HyperSpy signals.
NM = {"nm": 1.0, "Å": 0.1, "A": 0.1, "Angstrom": 0.1, "angstrom": 0.1, "pm": 1e-3, "um": 1e3, "µm": 1e3}
#: nm per angstrom.
ANGSTROM = 0.1


def from_atomap(fitted: Any) -> pd.DataFrame:
    """Convert columns that Atomap has fitted to a table for ``stemkit.structure``.

    Parameters
    ----------
    fitted : atomap Sublattice, Atom_Lattice, or sequence of Sublattice
        Sublattices of one image.

    Returns
    -------
    DataFrame
        ``y, x`` in nm if Atomap's image has a pixel size, otherwise in px; ``y_px, x_px``; ``sigma``, the geometric
        mean of Atomap's two widths; ``amplitude`` and ``intensity``, NaN for columns that were not fitted with
        Gaussians; and ``sublattice``, the number of the Sublattice. There are no errors, which Atomap does not
        determine, and no ``quality``.

    Raises
    ------
    TypeError
        If ``fitted`` is none of these.
    ValueError
        If the sublattices have different pixel sizes.

    See Also
    --------
    to_atomap : The reverse.
    """
    parts = _sublattices(fitted)
    sizes = {(float(part.pixel_size), str(part.units)) for part in parts}
    if len(sizes) != 1:
        raise ValueError(f"fitted must be sublattices of one image, but their pixel sizes are {sorted(sizes)}")
    size, name = sizes.pop()
    unit = "nm" if name in NM else "px"
    scale = size * NM[name] if unit == "nm" else 1.0
    tables = []
    for number, part in enumerate(parts):
        atoms = part.atom_list
        sigma = np.array([np.sqrt(abs(a.sigma_x * a.sigma_y)) for a in atoms], dtype=np.float64)
        # HyperSpy's Gaussian2D, which Atomap fits, has the integral as its amplitude
        integral = np.array([a.amplitude_gaussian for a in atoms], dtype=np.float64)
        fitted_columns = np.array([getattr(a, "_gaussian_fitted", True) for a in atoms], dtype=bool)
        amplitude = np.where(fitted_columns, integral / (2 * np.pi * sigma**2), np.nan)
        pixels = np.column_stack([part.y_position, part.x_position])
        tables.append(_table(pixels, scale, sigma * scale, amplitude).assign(sublattice=number))
    table = pd.concat(tables, ignore_index=True)
    table.attrs["unit"] = unit
    return table


def from_hyperspy_markers(markers: Any, signal: Any) -> pd.DataFrame:
    """Convert HyperSpy markers, such as positions that were corrected by hand, to a table of positions.

    Parameters
    ----------
    markers : hyperspy.api.plot.markers.Points
        Markers with one position each, such as ``signal.metadata.Markers.Points`` of a saved signal.
    signal : hyperspy Signal2D
        The image to which they belong; its axes, in any unit and with any offset, determine the pixels.

    Returns
    -------
    DataFrame
        ``y, x`` in nm if both axes of the signal are lengths, otherwise in px, from the centre of the first pixel;
        ``y_px, x_px``. The table has neither amplitudes nor errors: ``AtomDetector`` measures them.

    Raises
    ------
    TypeError
        If the markers have no positions.
    ValueError
        If the markers differ from image to image, or ``signal`` does not consist of images.

    See Also
    --------
    to_hyperspy_markers : The reverse.
    """
    offsets = getattr(markers, "kwargs", {}).get("offsets")
    if offsets is None:
        raise TypeError(f"markers must be HyperSpy markers with positions, but are {type(markers).__name__}")
    axes = signal.axes_manager.signal_axes
    if len(axes) != 2:
        raise ValueError(f"signal must consist of images (two signal axes), but has {len(axes)} signal axes")
    if np.asarray(offsets).dtype == object:
        raise ValueError("markers must be those of one image, but differ along the navigation axis: select an image")
    places = np.asarray(offsets, dtype=np.float64).reshape(-1, 2)
    pixels = ((places - [axis.offset for axis in axes]) / [axis.scale for axis in axes])[:, ::-1]
    nm = [NM.get(str(axis.units)) for axis in axes[::-1]]
    sizes = [abs(axis.scale) * factor for axis, factor in zip(axes[::-1], nm, strict=True) if factor]
    y, x = (pixels * (sizes if len(sizes) == 2 else 1.0)).T
    table = pd.DataFrame({"y": y, "x": x, "y_px": pixels[:, 0], "x_px": pixels[:, 1]})
    table.attrs["unit"] = "nm" if len(sizes) == 2 else "px"
    return table


def _sublattices(fitted: Any) -> list[Any]:
    parts = getattr(fitted, "sublattice_list", None)
    if parts is None:
        parts = list(fitted) if isinstance(fitted, list | tuple) else [fitted]
    if not parts or not all(hasattr(part, "atom_list") for part in parts):
        raise TypeError(
            "fitted must be a Sublattice or an Atom_Lattice of Atomap, or a list of Sublattice, but is "
            f"{type(fitted).__name__}"
        )
    return list(parts)


def from_statstem(
    coordinates: ArrayLike,
    heights: ArrayLike | None = None,
    widths: ArrayLike | None = None,
    *,
    pixel_size: float,
    unit: str = "nm",
) -> pd.DataFrame:
    """Convert columns that StatSTEM has fitted to a table for ``stemkit.structure``.

    Parameters
    ----------
    coordinates : array-like of shape (n, 2) or more columns
        ``output.coordinates`` of StatSTEM: x and y in angstrom, where the first pixel is at one pixel size, not at 0.
    heights : array-like of shape (n,), optional
        ``output.eta``: amplitudes, in the units of the image.
    widths : array-like of shape (n,) or float, optional
        ``output.rho``: column widths (sigma), angstrom.
    pixel_size : float
        ``input.dx`` in nm: a tenth of StatSTEM's number.
    unit : {"nm", "px"}, default="nm"
        Unit of ``y`` and ``x`` of the table.

    Returns
    -------
    DataFrame
        As of :func:`from_atomap`, without ``sublattice``. ``intensity`` is ``2 pi eta rho^2`` in nm2 (px2): StatSTEM's
        volumes divided by 100 for a table in nm. There are no errors.

    Raises
    ------
    ValueError
        If shapes do not agree, or the pixel size is not positive.

    Examples
    --------
    >>> from stemkit.detection.exports import from_statstem
    >>> float(from_statstem([[2.0, 1.0]], pixel_size=0.02)["y"].iloc[0])
    0.08
    """
    xy = np.asarray(coordinates, dtype=np.float64)
    if xy.ndim != 2 or xy.shape[1] < 2:
        raise ValueError(f"coordinates must have the shape (n, 2) or more columns, but have {xy.shape}")
    check_positive("pixel_size", pixel_size, unit="nm")
    check_option("unit", unit, UNITS)
    try:
        height, width = (
            np.broadcast_to(np.nan if v is None else np.asarray(v, dtype=np.float64).squeeze(), len(xy))
            for v in (heights, widths)
        )
    except ValueError as error:
        raise ValueError(f"heights and widths must have one number for each of {len(xy)} columns") from error
    pixels = xy[:, 1::-1] * ANGSTROM / pixel_size - 1
    scale = pixel_size if unit == "nm" else 1.0
    table = _table(pixels, scale, width * ANGSTROM / pixel_size * scale, height)
    table.attrs["unit"] = unit
    return table


def _table(pixels: NDArray, scale: float, sigma: NDArray, amplitude: NDArray) -> pd.DataFrame:
    """Table of columns at pixels ``(n, 2)``; ``scale`` is the size of a pixel, and ``sigma`` in the same unit."""
    y, x = (pixels * scale).T
    columns = {"y": y, "x": x, "y_px": pixels[:, 0], "x_px": pixels[:, 1], "amplitude": amplitude, "sigma": sigma}
    return pd.DataFrame(columns).assign(intensity=2 * np.pi * amplitude * sigma**2)
