"""Tables of columns to files and to other programs: pandas, ASE, OVITO, Atomap, HyperSpy, napari.

None of those is needed by stemkit: each is imported where its function is called. Positions go out in the other
program's own convention, which every function states.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from stemkit.columns import nearest_distances
from stemkit.images import Images, pixel_sizes, split
from stemkit.io.atomic import whole_file
from stemkit.io.attributes import pack, unpack
from stemkit.plotting import COLUMN_COLOUR, FLAGGED_COLOUR

__all__ = [
    "READABLE_TABLES",
    "WRITABLE_TABLES",
    "read_columns",
    "to_ase",
    "to_atomap",
    "to_hyperspy_markers",
    "to_napari",
    "write_columns",
]

Species: TypeAlias = "str | Sequence[str] | pd.Series"

#: Suffixes that :func:`write_columns` knows.
WRITABLE_TABLES = (".csv", ".parquet", ".xyz")
#: Suffixes that :func:`read_columns` knows.
READABLE_TABLES = (".csv", ".parquet")

UNITS = ("nm", "px")
POSITIONS = ("y", "x", "y_px", "x_px")
WHOLE_NUMBERS = ("image", "quality")
#: Columns of the table that are lengths in its unit, beside the positions.
LENGTHS = ("sigma", "sigma_err", "y_err", "x_err", "y_jitter", "x_jitter")
ANGSTROM = 10.0
#: Around the columns, where neither the image nor a neighbour tells more, nm.
MARGIN = 0.1
#: The key of a Parquet file's metadata that says what wrote it.
METADATA = b"stemkit"
#: A marker's diameter as a fraction of the columns' spacing.
MARKER = 0.55
#: The column that carries symbols along while a table is taken apart.
SYMBOLS = " species"


@dataclass(frozen=True)
class _Structure:
    """One image's columns as atoms, in Angstrom, y upwards."""

    symbols: list[str]
    positions: NDArray[np.float64]
    cell: NDArray[np.float64]
    properties: dict[str, NDArray]
    info: dict[str, Any]


def write_columns(
    table: pd.DataFrame,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    unit: str | None = None,
    species: Species = "X",
    image: Images | None = None,
    thickness: float = 1.0,
) -> Path:
    """Write a table of columns, whole or not at all.

    Parameters
    ----------
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave, with any columns added to it.
    path : path-like
        Where to. The suffix says the format:

        - ``.csv``: all digits, and a column ``unit``, ``"nm"`` or ``"px"``.
        - ``.parquet``: the same, for large tables, with ``table.attrs``; needs ``pip install pyarrow``.
        - ``.xyz``: extended XYZ for ASE, OVITO and their like: one frame per image, each as :func:`to_ase` gives it.
    overwrite : bool
        Replace an existing file.
    unit : {"nm", "px"}, optional
        Unit of ``x`` and ``y``. None takes ``table.attrs["unit"]`` or the column ``unit``, and where there is neither,
        px if x and y equal x_px and y_px, else nm.
    species, image, thickness
        As in :func:`to_ase`, for ``.xyz`` alone.

    Returns
    -------
    Path
        Where the file is.

    Raises
    ------
    FileExistsError
        If there is a file and `overwrite` is False.
    FileNotFoundError
        If there is no such folder.
    ImportError
        If the format needs a package that is not installed.
    ValueError, TypeError
        If the suffix is not known, or `table` is no table of columns; for ``.xyz`` also if it is in px.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import pandas as pd
    >>> from stemkit.detection.exports import read_columns, write_columns
    >>> table = pd.DataFrame({"y": [0.1], "x": [0.2], "y_px": [10.0], "x_px": [20.0], "quality": [0]})
    >>> path = write_columns(table, pathlib.Path(tempfile.mkdtemp()) / "columns.csv")
    >>> read_columns(path).attrs["unit"]
    'nm'
    """
    path = Path(path)
    suffix = _known_suffix(path, "write", WRITABLE_TABLES)
    _check_place(path, overwrite)
    table, unit = _checked(table, unit)
    with whole_file(path) as temporary:
        if suffix == ".csv":
            table.assign(unit=unit).to_csv(temporary, index=False)
        elif suffix == ".parquet":
            _save_parquet(table, unit, temporary)
        else:
            frames = _structures(table, unit, species, image, thickness)
            temporary.write_text("".join(line + "\n" for frame in frames for line in _xyz(frame)), encoding="utf-8")
    return path


def read_columns(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table that :func:`write_columns` wrote as CSV or Parquet, or ``stemkit detect`` as CSV.

    Returns
    -------
    DataFrame
        The same numbers, rows numbered from 0, and the unit of x and y in ``attrs["unit"]``. A CSV without rows
        does not know its unit.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ImportError
        If the format needs a package that is not installed.
    ValueError
        If the suffix is not known, or the file holds no table of columns.
    """
    path = Path(path)
    suffix = _known_suffix(path, "read", READABLE_TABLES)
    if not path.is_file():
        raise FileNotFoundError(f"can't read {path}: there is no such file")
    try:
        table = _load_csv(path) if suffix == ".csv" else _load_parquet(path)
    except ValueError as error:  # pandas' and pyarrow's own are all of this kind
        raise ValueError(f"can't read {path} as {suffix[1:].upper()}: {str(error).strip()}") from error
    if lacking := [name for name in POSITIONS if name not in table]:
        raise ValueError(f"{path} holds no table of columns: it has no {', '.join(lacking)}")
    return _with_unit(table, path)


def to_ase(
    table: pd.DataFrame,
    *,
    species: Species = "X",
    image: Images | None = None,
    thickness: float = 1.0,
    unit: str | None = None,
) -> Any:
    """The columns of one image as ``ase.Atoms``, one atom per column; needs ``pip install ase``.

    Positions are in Angstrom with x to the right, **y upwards** and the beam along -z: seen from +z the atoms stand as
    in the image, whose own y grows downwards. The origin is the lower left corner of the image (of the outermost
    pixel), or without `image` of a box half a spacing wider than the columns; z is 0. An atom's place in the image is
    ``x = info["x0_nm"] + X / 10``, ``y = info["y0_nm"] - Y / 10`` nm.

    Parameters
    ----------
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave for one calibrated image.
    species : str, or sequence or Series of str
        Chemical symbol of all columns or of each, ``"X"`` where unknown. A Series is matched by the table's index.
    image : DataArray, optional
        The measured image, or the stack that ``table["image"]`` counts in, for the cell. None takes the columns' box.
    thickness : float, default=1.0
        Height of the cell, nm.
    unit : {"nm", "px"}, optional
        As in :func:`write_columns`.

    Returns
    -------
    ase.Atoms
        Not periodic. All numbers of the table but ``y, x`` and ``image`` are its arrays under their own names, those
        of AtomDetector that are lengths (``sigma``, ``x_err`` and so on) in Angstrom, those in px as they are.

    Raises
    ------
    ImportError
        If ASE is not installed.
    ValueError
        If the table is in px or holds several images, or `species` does not fit.
    """
    ase = _optional("ase", "to_ase")
    table, unit = _checked(table, unit)
    _check_single(table, "to_ase")
    (structure,) = _structures(table, unit, species, image, thickness)
    atoms = ase.Atoms(
        structure.symbols, positions=structure.positions, cell=structure.cell, pbc=False, info=structure.info
    )
    for name, values in structure.properties.items():
        atoms.set_array(name, values)
    return atoms


def to_atomap(table: pd.DataFrame) -> NDArray[np.float64]:
    """Positions as ``atomap.api.Sublattice(positions, image)`` takes them.

    Parameters
    ----------
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave for one image.

    Returns
    -------
    ndarray of shape (n_columns, 2)
        ``(x, y)`` in px: the centre of the first pixel is (0, 0), y grows downwards. Pixel size and units come from
        the image that Atomap is given.

    Raises
    ------
    ValueError
        If the table holds several images.
    """
    table, _ = _checked(table, None)
    _check_single(table, "to_atomap")
    return table[["x_px", "y_px"]].to_numpy(dtype=np.float64)


def to_hyperspy_markers(table: pd.DataFrame, signal: Any, *, size: float = 10.0) -> Any:
    """Circles for ``signal.add_marker``, flagged columns in yellow; needs ``pip install hyperspy``.

    Parameters
    ----------
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave for one image.
    signal : hyperspy Signal2D
        Where the circles will go: its own axes place the columns, whatever their unit and offset. Its pixels are those
        that were measured.
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
        If the table holds several images, or `signal` is not made of images.

    Examples
    --------
    With a HyperSpy signal ``s`` of the image: ``s.add_marker(to_hyperspy_markers(table, s), permanent=True)``.
    """
    table, _ = _checked(table, None)
    _check_single(table, "to_hyperspy_markers")
    offsets = _on_axes(table, signal)
    hyperspy = _optional("hyperspy.api", "to_hyperspy_markers")
    return hyperspy.plot.markers.Points(
        offsets=offsets, sizes=size, facecolors="none", edgecolors=_colours(table), linewidths=1.0
    )


def to_napari(
    table: pd.DataFrame, *, image: Images | None = None, name: str = "columns"
) -> tuple[NDArray[np.float64], dict[str, Any], str]:
    """A layer of points for napari (0.5 or newer), as its plugins hand them over; napari itself is not needed.

    Parameters
    ----------
    table : DataFrame
        What :class:`stemkit.AtomDetector` gave.
    image : DataArray, optional
        The measured image or stack. Where it is calibrated the layer stands in nm, like an image layer with the
        image's pixel size as its ``scale`` and its first coordinates as ``translate``. None leaves it in px.
    name : str
        The layer's name.

    Returns
    -------
    data : ndarray of shape (n_columns, 2) or (n_columns, 3)
        ``(y, x)`` in px, after the index of the image where the table holds several or `image` is a stack.
    kwargs : dict
        Keywords of ``napari.layers.Points``: rings, flagged columns in yellow, and the table as ``features``, which
        napari shows as the layer's properties.
    kind : str
        ``"points"``.

    Examples
    --------
    ``viewer.add_layer(napari.layers.Layer.create(*to_napari(table)))``
    """
    table, _ = _checked(table, None)
    stacked = _n_images(table) > 1 or isinstance(image, list | tuple) or (image is not None and np.ndim(image) == 3)
    names = ["image", "y_px", "x_px"] if stacked else ["y_px", "x_px"]
    kwargs: dict[str, Any] = {
        "name": name,
        "features": table.reset_index(drop=True),
        "symbol": "ring",
        "size": MARKER * _spacing(table, ("y_px", "x_px"), default=10.0),
        "face_color": _colours(table),
        "border_width": 0.0,
    }
    # an array without columns says how many dimensions it has, an empty list of colours does not
    if len(table) == 0:
        del kwargs["face_color"]
    kwargs.update(_placed(image, stacked))
    return table[names].to_numpy(dtype=np.float64), kwargs, "points"


# --- the table -----------------------------------------------------------------------------------------------------


def _checked(table: pd.DataFrame, unit: str | None) -> tuple[pd.DataFrame, str]:
    """The table without a column ``unit``, and the unit."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"table must be the DataFrame that AtomDetector gives, but is a {type(table).__name__}")
    if lacking := [name for name in POSITIONS if name not in table]:
        raise ValueError(
            f"table must have the columns {', '.join(POSITIONS)} of AtomDetector's, but lacks {', '.join(lacking)}"
        )
    unit = _unit(table, unit)
    return table.drop(columns="unit", errors="ignore"), unit


def _unit(table: pd.DataFrame, unit: str | None) -> str:
    if unit is None:
        unit = table.attrs.get("unit")
    if unit is None and "unit" in table and len(table):
        units = table["unit"].unique()
        unit = units[0] if len(units) == 1 else " and ".join(map(str, units))
    if unit is None:
        same = np.array_equal(table["x"], table["x_px"]) and np.array_equal(table["y"], table["y_px"])
        unit = "px" if same else "nm"
    if unit not in UNITS:
        raise ValueError(f"unit must be 'nm' or 'px' for the whole table, but is {unit!r}")
    return unit


def _n_images(table: pd.DataFrame) -> int:
    return int(table["image"].nunique()) if "image" in table else 1


def _check_single(table: pd.DataFrame, function: str) -> None:
    if (n := _n_images(table)) > 1:
        raise ValueError(
            f"{function} takes the columns of one image, but table holds {n} images: choose one with "
            "table[table['image'] == 0]"
        )


def _check_nm(table: pd.DataFrame, unit: str) -> None:
    if unit != "nm" and len(table):
        raise ValueError(
            "atoms have positions in Angstrom, but table is in px: measure an image with a pixel size "
            "(stemkit.calibrated(image, pixel_size=...) in nm), or pass unit='nm' if x and y are nm after all"
        )


def _spacing(table: pd.DataFrame, names: Sequence[str], default: float) -> float:
    """Median distance of nearest columns within an image."""
    distances = [nearest_distances(part[list(names)].to_numpy(dtype=np.float64)) for _, part in _by_image(table)]
    known = np.concatenate(distances)
    return float(np.median(known)) if len(known) else default


def _by_image(table: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    """Index and rows of each image; one without rows for an empty table."""
    if "image" not in table or len(table) == 0:
        yield 0, table
        return
    for index, part in table.groupby("image", sort=True):
        yield int(str(index)), part


def _colours(table: pd.DataFrame) -> list[str]:
    """Hexadecimal colours as in figures: flagged columns are yellow."""
    flagged = table["quality"].to_numpy() != 0 if "quality" in table else np.zeros(len(table), dtype=bool)
    return [FLAGGED_COLOUR if f else COLUMN_COLOUR for f in flagged]


# --- files ---------------------------------------------------------------------------------------------------------


def _known_suffix(path: Path, verb: str, known: Sequence[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise ValueError(f"can't {verb} {path}: the suffix {path.suffix!r} is not known, use one of {', '.join(known)}")
    return suffix


def _check_place(path: Path, overwrite: bool) -> None:
    if path.is_dir():
        raise IsADirectoryError(f"can't write {path}: it is a folder, give a file name")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"can't write {path}: there is no folder {path.parent}")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: pass overwrite=True (--overwrite on the command line) to replace it")


def _load_csv(path: Path) -> pd.DataFrame:
    # before 3.1, pandas' default parser is a digit off at times
    old = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
    table = pd.read_csv(path, float_precision="round_trip") if old else pd.read_csv(path)
    if len(table) == 0:
        table = table.astype({name: np.int64 if name in WHOLE_NUMBERS else np.float64 for name in table})
    return table


def _save_parquet(table: pd.DataFrame, unit: str, path: Path) -> None:
    from stemkit import __version__

    pyarrow = _optional("pyarrow", "a Parquet file")
    parquet = importlib.import_module("pyarrow.parquet")
    made = pack({"stemkit": __version__, "attrs": {**_plain_attrs(table), "unit": unit}})
    bare = table.assign(unit=unit)
    bare.attrs = {}
    arrow = pyarrow.Table.from_pandas(bare, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), METADATA: made.encode()})
    parquet.write_table(arrow, path)


def _load_parquet(path: Path) -> pd.DataFrame:
    _optional("pyarrow", "a Parquet file")
    parquet = importlib.import_module("pyarrow.parquet")
    with parquet.ParquetFile(path) as file:
        arrow = file.read()
    table: pd.DataFrame = arrow.to_pandas()
    made = unpack((arrow.schema.metadata or {}).get(METADATA))
    table.attrs = made.get("attrs", {}) if isinstance(made, dict) else {}
    return table


def _plain_attrs(table: pd.DataFrame) -> dict[str, Any]:
    """The attributes that JSON has room for."""
    kept = {}
    for key, value in table.attrs.items():
        try:
            kept[str(key)] = json.loads(pack(value))
        except TypeError:
            continue
    return kept


def _with_unit(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with its unit in ``attrs`` rather than in a column."""
    if len(table) or "unit" in table.attrs:
        try:
            unit = _unit(table, None)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        table.attrs = {**table.attrs, "unit": unit}
    return table.drop(columns="unit", errors="ignore")


# --- atoms ---------------------------------------------------------------------------------------------------------


def _structures(
    table: pd.DataFrame, unit: str, species: Species, image: Images | None, thickness: float
) -> list[_Structure]:
    """One per image."""
    _check_nm(table, unit)
    if not (isinstance(thickness, int | float | np.number) and np.isfinite(thickness) and thickness > 0):
        raise ValueError(f"thickness must be a positive number of nm, but is {thickness!r}")
    numbered = table.assign(**{SYMBOLS: _symbols(species, table)})
    images = None if image is None else split(image, name="image")
    return [_structure(part, _image_of(index, images), index, thickness) for index, part in _by_image(numbered)]


def _structure(part: pd.DataFrame, image: xr.DataArray | None, index: int, thickness: float) -> _Structure:
    from stemkit import __version__

    left, bottom, width, height = _box(part) if image is None else _field(image)
    x, y = part["x"].to_numpy(dtype=np.float64), part["y"].to_numpy(dtype=np.float64)
    return _Structure(
        symbols=list(part[SYMBOLS]),
        positions=ANGSTROM * np.column_stack([x - left, bottom - y, np.zeros(len(part))]),
        cell=ANGSTROM * np.array([width, height, thickness]),
        properties=_properties(part),
        info={"image": index, "x0_nm": left, "y0_nm": bottom, "stemkit": __version__},
    )


def _properties(part: pd.DataFrame) -> dict[str, NDArray]:
    """Numbers and truth values of the table; lengths in Angstrom. Names are those that a comment line can hold."""
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
            raise ValueError(f"species must be chemical symbols such as 'Sr', or 'X' where unknown, but has {symbol!r}")
    return symbols


def _image_of(index: int, images: list[xr.DataArray] | None) -> xr.DataArray | None:
    if images is None or len(images) == 1:
        return images[0] if images else None
    if index >= len(images):
        raise ValueError(f"image must be the stack that table counts in, but has {len(images)} images, table {index}")
    return images[index]


def _field(image: xr.DataArray) -> tuple[float, float, float, float]:
    """Left and lower edge, width and height of an image, nm."""
    size_y, size_x = image.stem.pixel_sizes
    y0, x0 = (float(image.coords[d][0]) if d in image.coords else 0.0 for d in ("y", "x"))
    n_y, n_x = image.shape
    return x0 - size_x / 2, y0 + (n_y - 0.5) * size_y, n_x * size_x, n_y * size_y


def _box(part: pd.DataFrame) -> tuple[float, float, float, float]:
    """Left and lower edge, width and height of a box half a spacing wider than the columns, nm."""
    margin = _spacing(part, ("y", "x"), default=2 * MARGIN) / 2
    if len(part) == 0:
        return -margin, margin, 2 * margin, 2 * margin
    left, right = float(part["x"].min()) - margin, float(part["x"].max()) + margin
    top, bottom = float(part["y"].min()) - margin, float(part["y"].max()) + margin
    return left, bottom, right - left, bottom - top


def _xyz(structure: _Structure) -> Iterator[str]:
    """Lines of one frame of an extended XYZ file."""
    letters = {"b": "L", "i": "I", "u": "I", "f": "R"}
    kinds = [f"{name}:{letters[values.dtype.kind]}:1" for name, values in structure.properties.items()]
    lattice = " ".join(f"{v:.10g}" for v in np.diag(structure.cell).ravel())
    info = " ".join(
        f"{key}={value:.10g}" if isinstance(value, float) else f"{key}={value}" for key, value in structure.info.items()
    )
    yield str(len(structure.symbols))
    yield f'Lattice="{lattice}" Properties={":".join(["species:S:1", "pos:R:3", *kinds])} pbc="F F F" {info}'
    columns = [*structure.positions.T, *structure.properties.values()]
    for symbol, row in zip(structure.symbols, zip(*map(_words, columns), strict=True), strict=True):
        yield " ".join((symbol, *row))


def _words(values: NDArray) -> list[str]:
    if values.dtype.kind == "b":
        return ["T" if v else "F" for v in values]
    return [f"{v:.10g}" if values.dtype.kind == "f" else str(v) for v in values.tolist()]


# --- viewers -------------------------------------------------------------------------------------------------------


def _on_axes(table: pd.DataFrame, signal: Any) -> NDArray[np.float64]:
    """Positions (x, y) on the axes of a HyperSpy signal."""
    axes = signal.axes_manager.signal_axes
    if len(axes) != 2:
        raise ValueError(f"signal must be made of images (two signal axes), but has {len(axes)} signal axes")
    pixels = table[["x_px", "y_px"]].to_numpy(dtype=np.float64)
    return pixels * [axis.scale for axis in axes] + [axis.offset for axis in axes]


def _placed(image: Images | None, stacked: bool) -> dict[str, Any]:
    """A layer's scale and translation in nm."""
    if image is None:
        return {}
    first = split(image, name="image")[0]
    sizes = pixel_sizes(first)
    if sizes is None:
        return {}
    origin = [float(first.coords[d][0]) if d in first.coords else 0.0 for d in ("y", "x")]
    return {"scale": (1.0,) * stacked + sizes, "translate": (0.0,) * stacked + tuple(origin)}


def _optional(module: str, what: str) -> Any:
    """A package that stemkit does without, or an ImportError that says how to get it."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{what} needs {package}: pip install {package}") from error
