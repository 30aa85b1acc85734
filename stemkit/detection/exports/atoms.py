"""Columns as atoms: ASE and extended XYZ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.detection.exports.checks import by_image, check_nm, check_single, checked_table, optional, spacing_of
from stemkit.images.containers import Images, split
from stemkit.parameters import check_positive

__all__ = ["Species", "atom_frames", "to_ase", "xyz_lines"]

Species: TypeAlias = "str | Sequence[str] | pd.Series"
#: Columns of the table that are lengths in its unit, in addition to the positions.
LENGTHS = ("sigma", "sigma_err", "y_err", "x_err", "y_jitter", "x_jitter")
#: Angstrom per nm.
ANGSTROM = 10.0
#: Margin around a single column without an image, nm (chosen).
MARGIN = 0.1
#: Temporary column of chemical symbols.
SYMBOLS = " species"


@dataclass(frozen=True)
class AtomFrame:
    """One image's columns as atoms, in Angstrom, y upwards."""

    symbols: list[str]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    properties: dict[str, NDArray]
    info: dict[str, Any]


def to_ase(
    table: pd.DataFrame,
    *,
    species: Species = "X",
    image: Images | None = None,
    thickness: float = 1.0,
    unit: str | None = None,
) -> Any:
    """Convert the columns of one image to ``ase.Atoms``, one atom per column; requires ``pip install ase``.

    Positions are in Angstrom with x to the right, **y upwards** and the beam along -z: seen from +z, the atoms are
    arranged as in the image, whose own y increases downwards. The origin is the lower left corner of the image (of the
    outermost pixel), or without ``image`` of a box half a spacing wider than the columns; z is 0. The position of an
    atom in the image is ``x = info["x0_nm"] + X / 10``, ``y = info["y0_nm"] - Y / 10`` nm.

    Parameters
    ----------
    table : DataFrame
        Result of :class:`stemkit.AtomDetector` for one calibrated image.
    species : str, or sequence or Series of str
        Chemical symbol of all columns or of each, ``"X"`` if unknown. A Series is matched by the table's index.
    image : DataArray, optional
        The measured image, or the stack to which ``table["image"]`` refers, which determines the cell. By default it is
        the box of the columns.
    thickness : float, default=1.0
        Height of the cell, nm.
    unit : {"nm", "px"}, optional
        As in :func:`write_columns`.

    Returns
    -------
    ase.Atoms
        Not periodic. All numbers of the table except ``y``, ``x`` and ``image`` are its arrays, with the same names.
        Lengths of AtomDetector (``sigma``, ``x_err`` and so on) are in Angstrom, those in px remain.

    Raises
    ------
    ImportError
        If ASE is not installed.
    ValueError
        If the table is in px or contains several images, or ``species`` does not match it.
    """
    ase = optional("ase", "to_ase")
    table, unit = checked_table(table, unit)
    check_single(table, "to_ase")
    (frame,) = atom_frames(table, unit, species, image, thickness)
    atoms = ase.Atoms(frame.symbols, positions=frame.positions, cell=frame.cell, pbc=False, info=frame.info)
    for name, values in frame.properties.items():
        atoms.set_array(name, values)
    return atoms


def atom_frames(
    table: pd.DataFrame, unit: str, species: Species, image: Images | None, thickness: float
) -> list[AtomFrame]:
    """Columns of each image as atoms."""
    check_nm(table, unit)
    check_positive("thickness", thickness, unit="nm")
    numbered = table.assign(**{SYMBOLS: _symbols(species, table)})
    images = None if image is None else split(image, name="image")
    return [_frame(part, _image_of(index, images), index, thickness) for index, part in by_image(numbered)]


def _frame(part: pd.DataFrame, image: xr.DataArray | None, index: int, thickness: float) -> AtomFrame:
    from stemkit._version import __version__

    box = _box_of_columns(part) if image is None else _box_of_image(image)
    x, y = part["x"].to_numpy(dtype=np.float64), part["y"].to_numpy(dtype=np.float64)
    return AtomFrame(
        symbols=list(part[SYMBOLS]),
        positions=ANGSTROM * np.column_stack([x - box.left, box.bottom - y, np.zeros(len(part))]),
        cell=ANGSTROM * np.array([box.width, box.height, thickness]),
        properties=_properties(part),
        info={"image": index, "x0_nm": box.left, "y0_nm": box.bottom, "stemkit": __version__},
    )


def _properties(part: pd.DataFrame) -> dict[str, NDArray]:
    """Numbers and booleans of the table, lengths in Angstrom, whose names are valid in a comment line."""
    columns = {str(name): part[name].to_numpy() for name in part if name not in ("image", "y", "x")}
    return {
        name: values * ANGSTROM if name in LENGTHS else values
        for name, values in columns.items()
        if values.dtype.kind in "biuf" and re.fullmatch(r"[A-Za-z]\w*", name, flags=re.ASCII)
    }


def _symbols(species: Species, table: pd.DataFrame) -> list[str]:
    if isinstance(species, pd.Series) and not species.index.equals(table.index):
        species = species.reindex(table.index)
    symbols = [species] * len(table) if isinstance(species, str) else list(species)
    if len(symbols) != len(table):
        raise ValueError(
            f"species must be one symbol or one per column, but there are {len(symbols)} for {len(table)} columns"
        )
    for symbol in dict.fromkeys([species] if isinstance(species, str) else symbols):
        if not (isinstance(symbol, str) and re.fullmatch("[A-Z][a-z]?", symbol)):
            raise ValueError(
                f"species must be chemical symbols such as 'Sr', or 'X' if unknown, but contains {symbol!r}"
            )
    return symbols


def _image_of(index: int, images: list[xr.DataArray] | None) -> xr.DataArray | None:
    if images is None or len(images) == 1:
        return images[0] if images else None
    if index >= len(images):
        raise ValueError(
            f"image must be the measured stack, but it has {len(images)} images, and table contains image {index}"
        )
    return images[index]


class _Box(NamedTuple):
    """Left and lower edge, width and height of a rectangle, nm; y points downwards."""

    left: float
    bottom: float
    width: float
    height: float


def _box_of_image(image: xr.DataArray) -> _Box:
    size_y, size_x = image.stem.pixel_sizes
    y0, x0 = (float(image.coords[d][0]) if d in image.coords else 0.0 for d in ("y", "x"))
    n_y, n_x = image.shape
    return _Box(x0 - size_x / 2, y0 + (n_y - 0.5) * size_y, n_x * size_x, n_y * size_y)


def _box_of_columns(part: pd.DataFrame) -> _Box:
    """The box of the columns, extended by half a spacing on each side."""
    margin = spacing_of(part, ("y", "x"), default=2 * MARGIN) / 2
    if len(part) == 0:
        return _Box(-margin, margin, 2 * margin, 2 * margin)
    left, right = float(part["x"].min()) - margin, float(part["x"].max()) + margin
    top, bottom = float(part["y"].min()) - margin, float(part["y"].max()) + margin
    return _Box(left, bottom, right - left, bottom - top)


def xyz_lines(frame: AtomFrame) -> Iterator[str]:
    """Lines of one frame of an extended XYZ file."""
    letters = {"b": "L", "i": "I", "u": "I", "f": "R"}
    kinds = [f"{name}:{letters[values.dtype.kind]}:1" for name, values in frame.properties.items()]
    lattice = " ".join(f"{v:.10g}" for v in np.diag(frame.cell).ravel())
    info = " ".join(
        f"{key}={value:.10g}" if isinstance(value, float) else f"{key}={value}" for key, value in frame.info.items()
    )
    yield str(len(frame.symbols))
    yield f'Lattice="{lattice}" Properties={":".join(["species:S:1", "pos:R:3", *kinds])} pbc="F F F" {info}'
    columns = [*frame.positions.T, *frame.properties.values()]
    for symbol, row in zip(frame.symbols, zip(*map(_words, columns), strict=True), strict=True):
        yield " ".join((symbol, *row))


def _words(values: NDArray) -> list[str]:
    if values.dtype.kind == "b":
        return ["T" if v else "F" for v in values]
    return [f"{v:.10g}" if values.dtype.kind == "f" else str(v) for v in values.tolist()]
