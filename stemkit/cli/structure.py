"""``stemkit structure``: analyse the crystal in tables of columns."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.analyses import ANALYSES, Crystal
from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import (
    add_metadata_arguments,
    add_output_arguments,
    add_pixel_size_error_argument,
)
from stemkit.cli.figures import FORMATS, save_and_close
from stemkit.cli.lattices import lattice_words
from stemkit.cli.parsers import at_least, number, positive, three_integers, two_integers
from stemkit.tables import counted, unit_of_table

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "structure",
        help="analyse the crystal in a table of columns",
        description="Fit the lattice of a table of columns that stemkit detect has written, and analyse it: each "
        "analysis writes a table and a figure, NAME_ANALYSIS.csv and NAME_ANALYSIS.png, and prints a line.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="TABLE", help="tables of columns, CSV or Parquet")
    parser.set_defaults(recursive=False, dataset=None, region=None)
    group = parser.add_argument_group("analyses")
    for analysis in (a for a in ANALYSES.values() if a.name != "elements"):
        group.add_argument(f"--{analysis.name}", action="store_true", help=analysis.help)
    group.add_argument("--elements", type=Path, metavar="CIF", help="names of the columns from a crystal")
    _add_options(parser)
    add_output_arguments(parser)
    parser.add_argument("--figure-format", choices=FORMATS, default=FORMATS[0], help="default: png")
    parser.set_defaults(run=run)


def _add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("options of the analyses")
    group.add_argument(
        "--image",
        type=Path,
        metavar="FILE",
        help="the image of the table: figures show it, and sites without a column are measured in it",
    )
    add_metadata_arguments(group)
    group.add_argument("--number", type=at_least(0), metavar="N", help="image of a table of several, the first is 0")
    add_analysis_options(group)
    group.add_argument(
        "--along", type=two_integers, default=(1, 0), metavar="U,V", help="planes, for --profile (default: 1,0)"
    )
    group.add_argument(
        "--zone-axis", type=three_integers, default=(0, 0, 1), metavar="U,V,W", help="for --elements (default: 0,0,1)"
    )
    group.add_argument(
        "--false-discovery-rate", type=positive, default=0.05, metavar="RATE", help="of defects (default: 0.05)"
    )


def add_analysis_options(group: Any) -> None:
    """Add the options of the analyses that need no image."""
    group.add_argument(
        "--by", choices=("amplitude", "intensity"), help="brightness (default: intensity for --counts, else amplitude)"
    )
    group.add_argument(
        "--n-cage",
        type=at_least(2),
        metavar="N",
        help="columns of a cage, for --polarization (default: from their distances)",
    )
    group.add_argument(
        "--born-charge", type=number, metavar="Z", help="for --polarization in uC/cm2, with --cell-volume"
    )
    group.add_argument("--cell-volume", type=positive, metavar="NM3", help="volume of a unit cell, nm3")
    group.add_argument("--first", type=at_least(0), default=1, metavar="N", help="fewest atoms, for --counts")
    add_pixel_size_error_argument(group, "for the errors of lengths")


def run(arguments: argparse.Namespace) -> int:
    """Analyse each table."""
    chosen = [a for a in ANALYSES.values() if getattr(arguments, a.name)]
    _check(arguments)

    def work(job: Job) -> None:
        endings = [f"_{a.name}{suffix}" for a in chosen for suffix in (".csv", f".{arguments.figure_format}")]
        targets = job.outputs(*endings)
        crystal = _read(job)
        job.say(f"{job.path}: {lattice_words(crystal.lattice)}")
        failed = []
        for k, analysis in enumerate(chosen):
            job.step(analysis.step)
            try:
                result = analysis.run(crystal, arguments)
            except ValueError as error:
                # the others may not need what this one requires
                failed.append(f"--{analysis.name}: {error}")
                continue
            result.write(crystal, targets[2 * k])
            job.step("drawing")
            save_and_close(result.draw(), targets[2 * k + 1])
            job.say(f"{targets[2 * k]}: {result.line}")
        if failed:
            raise ValueError("; ".join(failed))

    def skipped(job: Job, targets: list[Path]) -> None:
        job.say_finished(targets[::2])

    return for_each_file(arguments, work, result="structure", skipped=skipped if chosen else None)


def check_analysis_options(arguments: argparse.Namespace) -> None:
    """Raise an error for options of :func:`add_analysis_options` that can't be used together."""
    if (arguments.born_charge is None) != (arguments.cell_volume is None):
        raise ValueError("--born-charge and --cell-volume must be given both, for a polarisation in uC/cm2, or neither")


def _check(arguments: argparse.Namespace) -> None:
    """Raise an error for options that can't be used together, before anything is computed."""
    check_analysis_options(arguments)
    if not arguments.false_discovery_rate < 1:
        raise ValueError(f"--false-discovery-rate must be between 0 and 1, but is {arguments.false_discovery_rate:g}")
    if arguments.elements is not None and not arguments.elements.is_file():
        raise FileNotFoundError(f"can't read {arguments.elements}: there is no such file")
    if folders := [path for path in arguments.paths if path.is_dir()]:
        raise ValueError(
            f"TABLE must be files, but {folders[0]} is a folder: name its tables, {folders[0]}/*_columns.csv"
        )
    if arguments.image is not None and len(arguments.paths) > 1:
        raise ValueError(f"--image is the image of one table, but {counted(len(arguments.paths), 'table')} are given")


def _read(job: Job) -> Crystal:
    """The table, its lattice and the image on which it is drawn."""
    from stemkit.detection.exports import read_columns
    from stemkit.structure import fit_lattice

    arguments = job.arguments
    table = _one_image(read_columns(job.path), arguments.number)
    job.step("fitting the lattice")
    lattice = fit_lattice(table, pixel_size_error=arguments.pixel_size_error)
    if arguments.image is None:
        return Crystal(table, lattice, _drawn(table), None)
    job.step("measuring the noise")
    return Crystal(table, lattice, *_measured(table, arguments))


def _one_image(table: pd.DataFrame, number: int | None) -> pd.DataFrame:
    """The columns of one image, numbered as the rows of the file."""
    from stemkit.tables import n_images

    attrs = dict(table.attrs)
    if "file" in table and table["file"].nunique() > 1:
        raise ValueError("the table contains the columns of several files: use the tables of the single files")
    if number is not None and "image" in table:
        chosen = table[table["image"] == number]
        if len(chosen) == 0:
            raise ValueError(f"--number {number}: the table has the images {sorted(set(table['image'].tolist()))}")
        table = chosen
    elif (n := n_images(table)) > 1:
        raise ValueError(f"the table contains the columns of {n} images: choose one with --number N")
    table.attrs = attrs
    return table


def _measured(table: pd.DataFrame, arguments: argparse.Namespace) -> tuple[xr.DataArray, Any]:
    """The recorded image with its noise, and a detector that measures in it."""
    import stemkit
    from stemkit import AtomDetector, NoiseCalibrator

    image = stemkit.read(arguments.image, pixel_size=arguments.pixel_size)
    if image.ndim == 3:
        image = image[int(table["image"].iloc[0])] if "image" in table else image[0]
    if arguments.mode is not None:
        image.attrs["mode"] = arguments.mode
    if (table[["y_px", "x_px"]].max() > [n + 1 for n in image.shape]).any():
        raise ValueError(
            f"--image must be the image of the table, but has {image.shape[0]} by {image.shape[1]} px, and columns are "
            f"at up to y {table['y_px'].max():.0f} and x {table['x_px'].max():.0f} px"
        )
    image = NoiseCalibrator().fit_transform(image)
    return image, AtomDetector().fit(image)


def _drawn(table: pd.DataFrame) -> xr.DataArray:
    """An image of the fitted columns, on which results are drawn without that of the microscope."""
    import numpy as np
    import xarray as xr

    from stemkit.detection import fitted_image

    n_y, n_x = (int(np.ceil(table[f"{d}_px"].max())) + 1 for d in ("y", "x"))
    blank = xr.DataArray(np.zeros((max(n_y, 1), max(n_x, 1))), dims=("y", "x"), attrs={"mode": "haadf"})
    if unit_of_table(table) == "nm" and len(table) > 1:
        for d, n in (("y", n_y), ("x", n_x)):
            slope, origin = np.polyfit(table[f"{d}_px"], table[d], 1)
            blank.coords[d] = (d, origin + slope * np.arange(n), {"units": "nm"})
    if {"amplitude", "sigma", "background", "y_err"} <= set(table):
        return fitted_image(table, blank, mode="haadf")
    return blank
