"""One table of the columns of several files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from stemkit.atomic import check_place, whole_file
from stemkit.cli.files import select_files
from stemkit.cli.records import Record
from stemkit.tables import counted, unit_of_table

__all__ = ["MERGED", "check_merged", "write_merged"]

#: Name of the merged table; its suffix is that of the single tables.
MERGED = "columns.csv"


def check_merged(arguments: argparse.Namespace) -> tuple[Path, Record]:
    """Path of the merged table and its record; errors are raised before any computation.

    Raises
    ------
    ValueError
        If the format of the tables can't be merged.
    FileExistsError
        If there is a table that the same command has not written for the same files, and ``--overwrite`` is not given.
    """
    if arguments.format == "xyz":
        raise ValueError("--merge needs a table as CSV or Parquet, but --format is xyz: use --format csv")
    path: Path = (arguments.output / MERGED).with_suffix(f".{arguments.format}")
    files = select_files(arguments.paths, arguments.recursive, arguments.series).files
    record = Record(arguments.output, "merged", files, arguments)
    if arguments.output.is_dir():
        check_place(path, arguments.overwrite or record.may_replace(path))
    return path, record


def write_merged(tables: Mapping[Path, Path], path: Path, record: Record) -> str:
    """Write the columns of all files as one table and return its description.

    Parameters
    ----------
    tables : mapping of Path to Path
        Input files and their tables. The merged table has the column ``file`` before those of the tables, and ``unit``
        as the last one: images with and without a pixel size can be merged.
    path : Path
    record : Record
    """
    import pandas as pd

    from stemkit.detection.exports import read_columns

    parts = []
    for source, table_path in tables.items():
        table = read_columns(table_path)
        unit = unit_of_table(table)
        table.attrs = {}
        table.insert(0, "file", str(source).encode(errors="backslashreplace").decode())
        parts.append(table.assign(unit=unit))
    # tables without rows have no types, which would change those of the others
    merged = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    record.begin([path])
    with whole_file(path) as temporary:
        if path.suffix == ".csv":
            merged.to_csv(temporary, index=False)
        else:
            merged.to_parquet(temporary, index=False)
    record.finish()
    return f"{path}: {counted(len(merged), 'column')} of {counted(len(parts), 'file')}"
