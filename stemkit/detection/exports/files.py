"""Tables of columns to files and back."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stemkit.atomic import check_place, whole_file
from stemkit.detection.exports.atoms import Species, atom_frames, xyz_lines
from stemkit.detection.exports.checks import POSITIONS, checked_table, optional
from stemkit.images.containers import Images
from stemkit.io.attributes import pack, unpack
from stemkit.tables import unit_of_table

__all__ = ["READABLE_TABLES", "WRITABLE_TABLES", "read_columns", "write_columns"]

#: Suffixes that :func:`write_columns` accepts.
WRITABLE_TABLES = (".csv", ".parquet", ".xyz")
#: Suffixes that :func:`read_columns` accepts.
READABLE_TABLES = (".csv", ".parquet")
#: Columns of integers, also in a table without rows.
INTEGERS = ("image", "quality")
#: Key of the metadata of a Parquet file that contains the attributes of the table.
METADATA = b"stemkit"


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
    """Write a table of columns completely or not at all.

    Parameters
    ----------
    table : DataFrame
        Result of :class:`stemkit.AtomDetector`, to which columns may have been added.
    path : path-like
        The suffix determines the format:

        - ``.csv``: all digits, and a column ``unit``, ``"nm"`` or ``"px"``.
        - ``.parquet``: the same, for large tables, with ``table.attrs``; requires ``pip install pyarrow``.
        - ``.xyz``: extended XYZ, for ASE, OVITO and others: one frame per image, as of :func:`to_ase`.
    overwrite : bool
        Replace an existing file.
    unit : {"nm", "px"}, optional
        Unit of ``x`` and ``y``. By default ``table.attrs["unit"]`` or the column ``unit``; without either, px if x and
        y equal x_px and y_px, and nm otherwise.
    species, image, thickness
        As in :func:`to_ase`, for ``.xyz`` only.

    Returns
    -------
    Path
        Path of the file.

    Raises
    ------
    FileExistsError
        If the file exists and ``overwrite`` is False.
    FileNotFoundError
        If the folder does not exist.
    ImportError
        If the format needs a package that is not installed.
    ValueError, TypeError
        If the suffix is not known, or ``table`` is not a table of columns; for ``.xyz`` also if it is in px.

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
    check_place(path, overwrite)
    table, unit = checked_table(table, unit)
    with whole_file(path) as temporary:
        if suffix == ".csv":
            table.assign(unit=unit).to_csv(temporary, index=False)
        elif suffix == ".parquet":
            _save_parquet(table, unit, temporary)
        else:
            frames = atom_frames(table, unit, species, image, thickness)
            temporary.write_text(
                "".join(line + "\n" for frame in frames for line in xyz_lines(frame)), encoding="utf-8"
            )
    return path


def read_columns(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Read a table that :func:`write_columns` wrote as CSV or Parquet, or ``stemkit detect`` as CSV.

    Returns
    -------
    DataFrame
        The same numbers, rows numbered from 0, and the unit of x and y in ``attrs["unit"]``, which a CSV file without
        rows does not contain.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ImportError
        If the format needs a package that is not installed.
    ValueError
        If the suffix is not known, or the file does not contain a table of columns.
    """
    path = Path(path)
    suffix = _known_suffix(path, "read", READABLE_TABLES)
    if path.is_dir() and suffix == ".parquet":
        return _read_parts(path)
    if not path.is_file():
        raise FileNotFoundError(f"can't read {path}: there is no such file")
    try:
        table = _load_csv(path) if suffix == ".csv" else _load_parquet(path)
    except ValueError as error:  # the errors of pandas and pyarrow are derived from it
        raise ValueError(f"can't read {path} as {suffix[1:].upper()}: {str(error).strip()}") from error
    if lacking := [name for name in POSITIONS if name not in table]:
        raise ValueError(f"{path} does not contain a table of columns: it has no {', '.join(lacking)}")
    return _with_unit(table, path)


def _read_parts(folder: Path) -> pd.DataFrame:
    """The tables of a stack's images, which ``stemkit detect`` writes to a folder, as one."""
    parts = [read_columns(path) for path in sorted(folder.glob("*.parquet"))]
    if not parts:
        raise ValueError(f"can't read {folder}: it contains no Parquet file")
    filled = [part for part in parts if len(part)]
    table = pd.concat(filled, ignore_index=True) if filled else parts[0]
    table.attrs = {"unit": parts[0].attrs["unit"]} if "unit" in parts[0].attrs else {}
    return table


def _known_suffix(path: Path, verb: str, known: Sequence[str]) -> str:
    suffix = path.suffix.lower()
    if suffix not in known:
        raise ValueError(f"can't {verb} {path}: the suffix {path.suffix!r} is not known, use one of {', '.join(known)}")
    return suffix


def _load_csv(path: Path) -> pd.DataFrame:
    # before 3.1, the last digit of the default parser of pandas is sometimes wrong
    old = tuple(int(part) for part in pd.__version__.split(".")[:2]) < (3, 1)
    table = pd.read_csv(path, float_precision="round_trip") if old else pd.read_csv(path)
    if len(table) == 0:
        table = table.astype({name: np.int64 if name in INTEGERS else np.float64 for name in table})
    return table


def _save_parquet(table: pd.DataFrame, unit: str, path: Path) -> None:
    from stemkit._version import __version__

    pyarrow = optional("pyarrow", "a Parquet file")
    parquet = importlib.import_module("pyarrow.parquet")
    made = pack({"stemkit": __version__, "attrs": {**_plain_attrs(table), "unit": unit}})
    bare = table.assign(unit=unit)
    bare.attrs = {}
    arrow = pyarrow.Table.from_pandas(bare, preserve_index=False)
    arrow = arrow.replace_schema_metadata({**(arrow.schema.metadata or {}), METADATA: made.encode()})
    parquet.write_table(arrow, path)


def _load_parquet(path: Path) -> pd.DataFrame:
    optional("pyarrow", "a Parquet file")
    parquet = importlib.import_module("pyarrow.parquet")
    with parquet.ParquetFile(path) as file:
        arrow = file.read()
    table: pd.DataFrame = arrow.to_pandas()
    made = unpack((arrow.schema.metadata or {}).get(METADATA))
    table.attrs = made.get("attrs", {}) if isinstance(made, dict) else {}
    return table


def _plain_attrs(table: pd.DataFrame) -> dict[str, Any]:
    """The attributes that JSON can represent."""
    kept = {}
    for key, value in table.attrs.items():
        try:
            kept[str(key)] = json.loads(pack(value))
        except TypeError:
            continue
    return kept


def _with_unit(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    """The table with its unit in ``attrs`` instead of a column."""
    if len(table) or "unit" in table.attrs:
        try:
            unit = unit_of_table(table)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        table.attrs = {**table.attrs, "unit": unit}
    return table.drop(columns="unit", errors="ignore")
