"""``stemkit detect``: measure the atomic columns and write their table, lattices and a figure."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import (
    add_image_arguments,
    add_network_arguments,
    add_output_arguments,
    add_pixel_size_error_argument,
    check_network,
    detector_options,
    image_endings,
    load,
    network_options,
    read_when_needed,
)
from stemkit.cli.figures import add_figure_arguments, figure_suffix, save_and_close
from stemkit.cli.lattices import FoundLattices, fit_image_lattices
from stemkit.cli.merging import MERGED, check_merged, write_merged
from stemkit.cli.messages import first_use
from stemkit.cli.parsers import positive
from stemkit.cli.stacks import detect_stack, stacked_along
from stemkit.cli.suspicion import column_summary, notes
from stemkit.cli.workers import add_worker_arguments
from stemkit.tables import counted

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from stemkit import AtomDetector, SeriesAligner


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "detect",
        help="measure the atomic columns",
        description="Measure the atomic columns and write NAME_columns.csv, in nm if the image is calibrated, else in "
        "px. Columns are found in the image that the network enhances; positions and errors are fitted "
        "to the recorded image. The frames of a series are aligned and averaged first. With --lattice, lattices are "
        "fitted, and their vacancies, the sites without a column, are written to NAME_vacancies.csv.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    _add_series_arguments(parser)
    add_search_arguments(parser)
    _add_result_arguments(parser)
    add_network_arguments(parser)
    add_worker_arguments(parser)
    parser.set_defaults(run=run)


def _add_series_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("series of frames")
    group.add_argument(
        "--series",
        action="store_true",
        help="the images of PATH, or the files of a folder, are frames of one area (default: if the file says so)",
    )
    choice = group.add_mutually_exclusive_group()
    choice.add_argument(
        "--all-frames",
        action="store_true",
        help="measure the columns of the average in the recorded pixels of all frames together",
    )
    choice.add_argument(
        "--per-frame", action="store_true", help="measure each frame alone; the column image is its number"
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the search and of the fits."""
    group = parser.add_argument_group("search and fit")
    group.add_argument(
        "--significance",
        type=positive,
        default=2.5,
        metavar="N",
        help="least amplitude of a column in its standard deviations: larger for fewer false columns (default: 2.5)",
    )
    estimated = "nm if the image is calibrated, else px (default: estimated from the image)"
    group.add_argument(
        "--spacing", type=positive, metavar="LENGTH", help=f"distance of neighbouring columns, {estimated}"
    )
    group.add_argument("--width", type=positive, metavar="LENGTH", help=f"sigma of the columns, {estimated}")
    group.add_argument("--elliptical", action="store_true", help="fit elliptical columns, with their axes and angle")
    group.add_argument("--recorded", type=Path, metavar="FILE", help="recorded image of an enhanced PATH")
    group.add_argument(
        "--no-enhance", action="store_true", help="find columns in the recorded image, without the network"
    )


def _add_result_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("results")
    group.add_argument("--lattice", action="store_true", help="fit lattices and write their vacancies")
    add_pixel_size_error_argument(group, "for the errors of --lattice")
    group.add_argument(
        "--format",
        choices=("csv", "parquet", "xyz"),
        default="csv",
        help="format of the table; xyz is extended XYZ, for ASE and OVITO (default: csv)",
    )
    group.add_argument(
        "--merge",
        action="store_true",
        help=f"also write {MERGED}, one table of the columns of all files, in which the column file names them",
    )
    add_figure_arguments(parser, "the image, an enlarged part of it, their columns, flags, lattices and vacancies")


def run(arguments: argparse.Namespace) -> int:
    """Measure the columns of each file."""
    if arguments.output.suffix.lower() == ".parquet":
        arguments.format = "parquet"
    merged = check_merged(arguments) if arguments.merge else None
    tables = dict[Path, Path]()

    def prepare() -> None:
        check_network(arguments)

    def skipped(job: Job, targets: list[Path]) -> None:
        tables[job.path] = targets[0]
        job.say_finished(targets[:1])

    code = for_each_file(
        arguments, _measure_file, result="columns", skipped=skipped, prepare=prepare, done=tables.__setitem__
    )
    if merged is not None and tables:
        print(write_merged(tables, *merged))
    return code


def _measure_file(job: Job) -> Path:
    """Measure the columns of one file, write and print the results, and return the path of the table."""
    from stemkit.detection.exports import write_columns

    arguments = job.arguments
    if _by_image(job):
        (target,) = job.outputs("_columns.parquet")
        job.say(f"{target}: {counted(detect_stack(job, target), 'column')}")
        return target
    image = with_recorded(_loaded(job), arguments)
    is_series = image.dims[0] == "frame" and not arguments.per_frame
    suffix = figure_suffix(arguments)
    endings = [""] if is_series else image_endings(image)
    figures = [f"_columns{ending}{suffix}" for ending in endings] if suffix else []
    table_path, *others = job.outputs(f"_columns.{arguments.format}", *["_vacancies.csv"] * arguments.lattice, *figures)
    measured = _measure_series(image, job) if is_series else measure(image, arguments, job)
    table, shown = measured.table, measured.shown
    write_columns(table, table_path, overwrite=True, image=shown)
    job.say("\n  ".join([f"{table_path}: {column_summary(table)}", *notes(table, measured.detector, shown, job.path)]))
    found = None
    if arguments.lattice:
        job.step("fitting lattices")
        found = fit_image_lattices(table, shown, measured.detector, arguments.pixel_size_error)
        job.say(found.write(others.pop(0), table.attrs["unit"]))
    if others:
        job.step("drawing")
        _draw(table, shown, found, others)
    return table_path


def _by_image(job: Job) -> bool:
    """Whether a stack is measured image by image, so that it need not fit into the memory."""
    arguments = job.arguments
    whole = arguments.lattice or figure_suffix(arguments) or arguments.recorded is not None
    if arguments.format != "parquet" or whole or arguments.series or arguments.all_frames:
        return False
    # the frames of a series are averaged, unless each is to be measured
    return stacked_along(job.path, arguments) in ("image", "frame" if arguments.per_frame else "image")


def _loaded(job: Job) -> xr.DataArray:
    """The image or the frames of a file or folder; frames that are averaged are read one by one if they are many."""
    arguments = job.arguments
    image = load(job.path, arguments, cropped=arguments.recorded is not None, lazy=read_when_needed(job.path))
    if arguments.series and image.ndim == 3:
        image = image.rename({image.dims[0]: "frame"})
    if (arguments.series or arguments.all_frames) and image.dims[0] != "frame":
        given = "--series" if arguments.series else "--all-frames"
        raise ValueError(
            f"{given} needs the frames of a series, but {job.path} holds {_size(image)}: give a file with several "
            "frames, with --series if it does not say that they are frames, or a folder with --series"
        )
    is_averaged = image.dims[0] == "frame" and not arguments.per_frame and arguments.recorded is None
    return image if is_averaged else image.compute()


def _size(image: xr.DataArray) -> str:
    count = "one image" if image.ndim == 2 else f"{len(image)} images"
    return f"{count} of {image.sizes['y']} by {image.sizes['x']} px"


def _measure_series(images: xr.DataArray, job: Job) -> Measured:
    """Align and average the frames and measure the columns: as :func:`measure`, of the average."""
    from stemkit.series import measure_series

    average, aligner = averaged(images, job)
    measured = measure(average, job.arguments, job)
    if job.arguments.all_frames:
        job.step("measuring the columns in all frames")
        measured = replace(measured, table=measure_series(images, measured.table, aligner))
    used = aligner.n_frames_ - len(aligner.rejected_)
    job.say(f"{job.path}: {used} of {aligner.n_frames_} frames aligned")
    return measured


def averaged(images: xr.DataArray, job: Job) -> tuple[xr.DataArray, SeriesAligner]:
    """The average of the frames of a series, and the aligner."""
    from stemkit import SeriesAligner, SFINDenoiser

    job.step("aligning the frames")
    denoiser = None if job.arguments.no_enhance else SFINDenoiser(**network_options(job.arguments))
    aligner = SeriesAligner(denoiser=denoiser).fit(images)
    return aligner.transform(images), aligner


@dataclass(frozen=True)
class Measured:
    """The columns of an image: their table, the image in which they were found, and the fitted detector."""

    table: pd.DataFrame
    shown: xr.DataArray
    detector: AtomDetector


def measure(image: xr.DataArray, arguments: argparse.Namespace, job: Job) -> Measured:
    """Measure the columns of an image or a stack."""
    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

    shown = image
    # the noise of an enhanced image is that of its recorded pixels, which the detector calibrates
    if "recorded" not in image.coords:
        if "noise" not in image.attrs:
            job.step("measuring the noise" + first_use())
            shown = NoiseCalibrator().fit_transform(image)
        if not arguments.no_enhance:
            job.step("enhancing")
            shown = SFINDenoiser(**network_options(arguments)).fit_transform(shown)
    job.step("measuring the columns")
    detector = AtomDetector(**detector_options(arguments))
    return Measured(detector.fit_transform(shown), shown, detector)


def with_recorded(image: xr.DataArray, arguments: argparse.Namespace) -> xr.DataArray:
    """Add the recorded pixels to an enhanced image."""
    from stemkit.images.provenance import was_enhanced

    if arguments.recorded is None:
        if was_enhanced(image) and "recorded" not in image.coords:
            raise ValueError(
                "the image was enhanced by stemkit, so that errors can't be determined from its noise: give the "
                "recorded image, alone or with --recorded FILE"
            )
        return image
    from stemkit import read
    from stemkit.images.pixel_size import pixel_sizes

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


def _draw(table: pd.DataFrame, shown: xr.DataArray, found: FoundLattices | None, paths: list[Path]) -> None:
    """Draw a figure of each image."""
    from stemkit.cli.overlay import detection_figure

    for i, path in enumerate(paths):
        frame = shown if shown.ndim == 2 else shown[i]
        lattices = found.of_image(i) if found is not None else []
        save_and_close(detection_figure(frame, table[table["image"] == i], lattices), path)
