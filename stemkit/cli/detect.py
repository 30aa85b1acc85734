"""``stemkit detect``: measure the atomic columns, write their table and a figure."""

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
    non_interactive_pyplot,
    outputs,
    save_and_close,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from stemkit import AtomDetector

#: Members of :class:`stemkit.detection.Quality` in words, for the summary.
FLAGS = {
    "EDGE": "near the border",
    "FAILED": "with a failed fit",
    "ODD_SHAPE": "of unusual shape",
    "WIDTH_HELD": "with a fixed width",
    "BLENDED": "blended with a neighbour",
    "FAINT": "faint",
    "SATURATED": "saturated",
    "FAULTY_PIXELS": "on faulty pixels",
    "GUIDED": "with a constrained position",
}


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "detect",
        help="measure the atomic columns",
        description="Measure the atomic columns and write NAME_columns.csv (in nm if the image is calibrated, else in "
        "px) and a figure. Columns are found in the image that the network enhances; positions and errors are fitted "
        "to the recorded image. With --lattice, lattices are fitted, and their vacancies, the sites without a column, "
        "are written to NAME_vacancies.csv.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument("--recorded", type=Path, metavar="FILE", help="recorded image of an enhanced PATH")
    parser.add_argument(
        "--no-enhance", action="store_true", help="find columns in the recorded image, without the network"
    )
    parser.add_argument("--elliptical", action="store_true", help="fit elliptical columns, with their axes and angle")
    parser.add_argument("--lattice", action="store_true", help="fit lattices and write their vacancies")
    parser.add_argument(
        "--pixel-size-error",
        type=float,
        default=0.0,
        metavar="FRACTION",
        help="relative error of the pixel size, such as 0.01, for the errors of --lattice (default: 0)",
    )
    parser.add_argument(
        "--format",
        choices=("csv", "parquet", "xyz"),
        default="csv",
        help="format of the table; xyz is extended XYZ, for ASE and OVITO (default: csv)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the columns of each file."""
    from stemkit.detection.exports import write_columns

    non_interactive_pyplot()

    def work(path: Path, name: str) -> None:
        names = [f"{name}_columns.{arguments.format}", f"{name}_columns.png"]
        table_path, figure_path, *more = outputs(arguments, *names, *[f"{name}_vacancies.csv"] * arguments.lattice)
        image = _with_recorded(load(path, arguments, cut=arguments.recorded is not None), arguments)
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
    """Measure the columns: their table, the image in which they were found, and the fitted detector."""
    from sklearn.pipeline import Pipeline

    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

    steps: list[tuple[str, Any]] = []
    # the noise of an enhanced image is that of its recorded pixels, which the detector calibrates
    if "recorded" not in image.coords:
        steps.append(("noise", NoiseCalibrator()))
        if not arguments.no_enhance:
            steps.append(("denoise", SFINDenoiser(**network_options(arguments))))
    shown = Pipeline(steps).fit_transform(image) if steps else image
    detector = AtomDetector(elliptical=arguments.elliptical, device=arguments.device).fit(shown)
    return detector.transform(shown), shown, detector


def summary(table: pd.DataFrame) -> str:
    """Number of columns, and of those with each quality flag."""
    from stemkit.detection import Quality, good_columns
    from stemkit.structure.tables import counted

    counts = {text: int((table["quality"] & Quality[name] > 0).sum()) for name, text in FLAGS.items()}
    found = ", ".join(f"{n} {text}" for text, n in counts.items() if n)
    good = f", {len(good_columns(table))} good" if len(table) else ""
    return counted(len(table), "column") + good + (f" ({found})" if found else "")


def notes(table: pd.DataFrame, detector: AtomDetector, shown: xr.DataArray) -> list[str]:
    """Notes about an image without columns, and about residuals well above the noise."""
    from stemkit.detection.table import ODD_RESIDUAL

    found = []
    unit = "nm" if detector.calibrated_ else "px"
    if len(table) == 0:
        spacing = f"{detector.spacing_:.3g} {unit}" if detector.spacing_ > 0 else "unknown"
        found.append(
            f"note: no columns were found. The search was for columns of sigma {detector.width_:.3g} {unit} (spacing: "
            f"{spacing}) in an image of {shown.shape[-2]} x {shown.shape[-1]} px: check the pixel size, give "
            "--pixel-size, or use AtomDetector(width=...) with the sigma of the columns"
        )
    elif table.attrs["residual"] > ODD_RESIDUAL:
        found.append(
            f"note: the residuals are {table.attrs['residual']:.1f} times the noise: the columns of this image are not "
            "exactly Gaussian, and the errors were increased accordingly"
        )
    return found


def _with_recorded(image: xr.DataArray, arguments: argparse.Namespace) -> xr.DataArray:
    """Add the recorded pixels to an enhanced image."""
    from stemkit.images import was_enhanced

    if arguments.recorded is None:
        if was_enhanced(image) and "recorded" not in image.coords:
            raise ValueError(
                "the image was enhanced by stemkit, so that errors can't be determined from its noise: give the "
                "recorded image, alone or with --recorded FILE"
            )
        return image
    from stemkit import read
    from stemkit.images import pixel_sizes

    recorded = read(arguments.recorded, dataset=arguments.dataset, pixel_size=arguments.pixel_size)
    if was_enhanced(recorded):
        raise ValueError(f"--recorded must be a recorded image, but {arguments.recorded} was enhanced by stemkit")
    if arguments.region is not None and recorded.shape != image.shape:
        recorded = recorded.isel(y=arguments.region[0], x=arguments.region[1])
    if recorded.shape != image.shape:
        raise ValueError(f"--recorded must have the image's shape, {image.shape}, but has shape {recorded.shape}")
    if pixel_sizes(image) is None and pixel_sizes(recorded) is not None:
        image = image.assign_coords({d: recorded.coords[d] for d in ("y", "x")})
    return image.assign_coords(recorded=(image.dims, recorded.values))


def _lattices(
    table: pd.DataFrame, shown: xr.DataArray, detector: AtomDetector, path: Path, arguments: argparse.Namespace
) -> str:
    """Fit the lattices of each image, write their vacancies, and return a description."""
    import pandas as pd

    from stemkit.detection.exports import write_columns
    from stemkit.images import split
    from stemkit.structure import find_vacancies, fit_lattices
    from stemkit.structure.tables import counted

    lines, found = [], []
    for i, image in enumerate(split(shown)):
        part = table[table["image"] == i]
        lattices = fit_lattices(part, pixel_size_error=arguments.pixel_size_error).lattices
        if not lattices:
            lines.append(_without_lattice(part, path))
        for number, lattice in enumerate(lattices):
            vacancies = find_vacancies(part, lattice, image, detector)
            vacancies = vacancies[vacancies["vacant"]].drop(columns="vacant")
            found.append(vacancies.assign(image=i, lattice=number))
            lines.append(f"{lattice}\n{path}: {counted(len(vacancies), 'vacancy', 'vacancies')}")
    if found:
        write_columns(pd.concat(found), path, overwrite=arguments.overwrite, unit=table.attrs["unit"])
    return "\n".join(lines)


def _without_lattice(part: pd.DataFrame, path: Path) -> str:
    """Reason why no lattice was fitted to the columns of an image."""
    from stemkit.structure import fit_lattice

    try:
        reason = f"{fit_lattice(part)} contains too few columns"
    except ValueError as error:
        reason = str(error)
    return f"note: no lattice was fitted, and {path.name} was not written: {reason}"


def _save_figure(table: pd.DataFrame, shown: xr.DataArray, path: Path, overwrite: bool) -> None:
    from stemkit.plotting import compare

    frame = shown if shown.ndim == 2 else shown[0]
    panels = {"recorded": frame.stem.recorded}
    if "recorded" in frame.coords:
        panels["enhanced"] = frame
    panels["columns on the recorded image"] = frame.stem.recorded
    save_and_close(compare(panels, table[table["image"] == 0]), path, overwrite)
