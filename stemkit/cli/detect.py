"""``stemkit detect``: a table of columns and a figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import (
    add_image_arguments,
    add_network_arguments,
    add_output_arguments,
    for_each_file,
    load,
    network_options,
    outputs,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from stemkit import AtomDetector


#: A place of the lattice is vacant where this many standard deviations of its column's amplitude are missing.
VACANT = 3.0


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "detect",
        help="measure the atomic columns",
        description="Measure the atomic columns: NAME_columns.csv (nm where calibrated, else px) and a figure. The "
        "network finds the columns; positions and errors come from the recorded pixels. With --lattice also the "
        "lattices, and NAME_vacancies.csv: where they expect a column that the image does not show.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument("--measured", type=Path, metavar="FILE", help="the recorded image behind an enhanced one")
    parser.add_argument("--no-enhance", action="store_true", help="find columns in the recorded image, without network")
    parser.add_argument("--elliptical", action="store_true", help="fit elliptical columns: their axes and angle, too")
    parser.add_argument("--lattice", action="store_true", help="fit the lattices, and list their vacancies")
    parser.add_argument(
        "--pixel-size-error",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="relative error of the pixel size, such as 0.01, for the lengths of --lattice (default: 0, not known)",
    )
    parser.add_argument(
        "--format",
        choices=("csv", "parquet", "xyz"),
        default="csv",
        help="of the table; xyz is extended XYZ, for ASE and OVITO (default: csv)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the columns of each file."""
    import matplotlib as mpl

    mpl.use("agg")
    from stemkit.detection.exports import write_columns

    def work(path: Path, name: str) -> None:
        names = [f"{name}_columns.{arguments.format}", f"{name}_columns.png"]
        table_path, figure_path, *more = outputs(arguments, *names, *[f"{name}_vacancies.csv"] * arguments.lattice)
        image = _with_measured(load(path, arguments, cut=arguments.measured is not None), arguments)
        table, shown, detector = measure(image, arguments)
        write_columns(table, table_path, overwrite=arguments.overwrite, image=image)
        _save_figure(table, shown, figure_path, arguments.overwrite)
        print(f"{table_path}: {summary(table)}")
        for note in notes(table, detector, shown):
            print(note)
        for vacancies_path in more:
            print(_lattices(table, shown, detector, vacancies_path, arguments))

    return for_each_file(arguments, work)


def measure(image: xr.DataArray, arguments: argparse.Namespace) -> tuple[pd.DataFrame, xr.DataArray, AtomDetector]:
    """The columns' table, the image that they were found in, and what found them."""
    from sklearn.pipeline import Pipeline

    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

    steps: list[tuple[str, Any]] = []
    # an image that was enhanced before has its noise in the recorded pixels: the detector calibrates those
    if "measured" not in image.coords:
        steps.append(("noise", NoiseCalibrator()))
        if not arguments.no_enhance:
            steps.append(("denoise", SFINDenoiser(**network_options(arguments))))
    shown = Pipeline(steps).fit_transform(image) if steps else image
    detector = AtomDetector(elliptical=arguments.elliptical, device=arguments.device).fit(shown)
    return detector.transform(shown), shown, detector


def summary(table: pd.DataFrame) -> str:
    """How many columns, and how many carry which flag."""
    from stemkit.detection import good_columns
    from stemkit.detection.structure.tables import counted

    flags = {
        1: "near the border",
        2: "without a fit",
        4: "of odd shape",
        8: "too faint for a width of their own",
        16: "blended with a neighbour",
        32: "faint",
        64: "saturated",
        128: "on faulty pixels",
        256: "held near where the network shows them",
    }
    counts = {text: int((table["quality"] & bit > 0).sum()) for bit, text in flags.items()}
    found = ", ".join(f"{n} {text}" for text, n in counts.items() if n)
    good = f", {len(good_columns(table))} good" if len(table) else ""
    return counted(len(table), "column") + good + (f" ({found})" if found else "")


def notes(table: pd.DataFrame, detector: AtomDetector, shown: xr.DataArray) -> list[str]:
    """What a user should know of the image as a whole."""
    from stemkit.detection.table import ODD_RESIDUAL

    found = []
    unit = "nm" if detector.calibrated_ else "px"
    if len(table) == 0:
        spacing = f"{detector.spacing_:.3g} {unit}" if detector.spacing_ > 0 else "no known distance"
        found.append(
            f"note: no columns. Columns of sigma {detector.width_:.3g} {unit}, {spacing} apart, were searched for in "
            f"an image of {shown.shape[-2]} x {shown.shape[-1]} px: check the pixel size, give --pixel-size, or try "
            "AtomDetector(width=...) with the columns' sigma"
        )
    elif table.attrs["residual"] > ODD_RESIDUAL:
        found.append(
            f"note: the residuals are {table.attrs['residual']:.1f} times the noise: the columns of this image are not "
            "quite Gaussian, and the errors have been enlarged accordingly"
        )
    return found


def _with_measured(image: xr.DataArray, arguments: argparse.Namespace) -> xr.DataArray:
    """The image with its recorded pixels, where it is an enhanced one."""
    from stemkit.images import was_enhanced

    if arguments.measured is None:
        if was_enhanced(image) and "measured" not in image.coords:
            raise ValueError(
                "this image was enhanced by stemkit: its noise is gone, and errors fitted to it would be wrong. Give "
                "the recorded image, or name it with --measured FILE"
            )
        return image
    from stemkit import read
    from stemkit.images import pixel_sizes

    recorded = read(arguments.measured, dataset=arguments.dataset, pixel_size=arguments.pixel_size)
    if was_enhanced(recorded):
        raise ValueError(f"--measured must be a recorded image, but {arguments.measured} was enhanced by stemkit")
    if arguments.region is not None and recorded.shape != image.shape:
        recorded = recorded.isel(y=arguments.region[0], x=arguments.region[1])
    if recorded.shape != image.shape:
        raise ValueError(f"--measured must have the image's shape, {image.shape}, but has {recorded.shape}")
    if pixel_sizes(image) is None and pixel_sizes(recorded) is not None:
        image = image.assign_coords({d: recorded.coords[d] for d in ("y", "x")})
    return image.assign_coords(measured=(image.dims, recorded.values))


def _lattices(
    table: pd.DataFrame, shown: xr.DataArray, detector: AtomDetector, path: Path, arguments: argparse.Namespace
) -> str:
    """Write the vacancies of each image's lattices; the lattices in words."""
    import pandas as pd

    from stemkit.detection.exports import write_columns
    from stemkit.detection.structure import find_vacancies, fit_lattices, missing_sites
    from stemkit.detection.structure.tables import counted
    from stemkit.images import split

    words, found = [], []
    for i, image in enumerate(split(shown)):
        part = table[table["image"] == i]
        lattices = fit_lattices(part, pixel_size_error=arguments.pixel_size_error).lattices
        if not lattices:
            words.append(_without_lattice(part, path))
        for number, lattice in enumerate(lattices):
            missing = missing_sites(part, lattice)
            measured = detector.measure(image, missing, beside=part, hold=True)
            vacancies = find_vacancies(missing, measured)
            vacancies = vacancies[vacancies["significance"] > VACANT]
            found.append(vacancies.assign(image=i, lattice=number))
            words.append(f"{lattice}\n{path}: {counted(len(vacancies), 'vacancy', 'vacancies')}")
    if found:
        write_columns(pd.concat(found), path, overwrite=arguments.overwrite, unit=table.attrs["unit"])
    return "\n".join(words)


def _without_lattice(part: pd.DataFrame, path: Path) -> str:
    """Why the columns of an image are on no lattice."""
    from stemkit.detection.structure import fit_lattice

    try:
        reason = f"{fit_lattice(part)} holds too few columns"
    except ValueError as error:
        reason = str(error)
    return f"note: no lattice, and no {path.name}: {reason}"


def _save_figure(table: pd.DataFrame, shown: xr.DataArray, path: Path, overwrite: bool) -> None:
    import matplotlib.pyplot as plt

    from stemkit.plotting import compare, save_figure

    frame = shown if shown.ndim == 2 else shown[0]
    panels = {"recorded": frame.stem.measured}
    if "measured" in frame.coords:
        panels["enhanced"] = frame
    panels["columns on the recorded image"] = frame.stem.measured
    figure = compare(panels, table[table["image"] == 0])
    try:
        save_figure(figure, path, overwrite=overwrite, dpi=160)
    finally:
        plt.close(figure)
