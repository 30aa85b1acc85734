"""``stemkit report``: one HTML page per image with everything that was found, and an index of the pages."""

from __future__ import annotations

import argparse
import importlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.analyses import ANALYSES, Crystal
from stemkit.cli.average import described_displacements, series_figure
from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import (
    add_image_arguments,
    add_network_arguments,
    add_output_arguments,
    check_network,
    image_endings,
    load,
)
from stemkit.cli.detect import add_search_arguments, averaged, measure, with_recorded
from stemkit.cli.figures import non_interactive_pyplot
from stemkit.cli.lattices import FoundLattices, ImageLattice, fit_image_lattices
from stemkit.cli.messages import first_use, with_error
from stemkit.cli.structure import add_analysis_options, check_analysis_options
from stemkit.cli.suspicion import column_summary, notes

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from stemkit.cli.analyses import Analysis
    from stemkit.report import Section
    from stemkit.trust import Assessment

#: Arguments that are no options of a page, or do not change it.
OMITTED = ("help", "paths", "output", "overwrite", "recursive")
#: Analyses of ``stemkit structure`` that need nothing but columns, with the titles of their sections.
STRUCTURE = {
    "polarization": "Polarisation",
    "counts": "Numbers of atoms",
    "grains": "Grains",
    "strain": "Strain",
    "rings": "Rings",
    "dumbbells": "Dumbbells",
}


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "report",
        help="write a page about each image",
        description="Enhance and measure images and write NAME_report.html, a page that opens in a browser without a "
        "network: recorded and enhanced image, columns, noise, spectra, lattices, what is suspicious, and the analyses "
        "that are requested. index.html lists the pages of the folder.",
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the verb."""
    add_image_arguments(parser)
    add_output_arguments(parser)
    add_search_arguments(parser)
    add_network_arguments(parser)
    group = parser.add_argument_group("analyses", "sections with the results of stemkit structure")
    for name in STRUCTURE:
        group.add_argument(f"--{name}", action="store_true", help=ANALYSES[name].help)
    add_analysis_options(parser.add_argument_group("options of the analyses"))


def run(arguments: argparse.Namespace) -> int:
    """Write a page about each image, and the index."""
    write_index = _report_module().write_index
    written = list[Path]()

    def prepare() -> None:
        check_analysis_options(arguments)
        check_network(arguments)

    def work(job: Job) -> None:
        written.extend(_report_on(job))

    def skipped(job: Job, targets: list[Path]) -> None:
        written.extend(targets)
        job.say_finished(targets)

    code = for_each_file(arguments, work, result="report", skipped=skipped, prepare=prepare)
    if written:
        print(write_index(arguments.output))
    return code


def _report_module() -> Any:
    """The module of the pages; an error names the missing package."""
    try:
        return importlib.import_module("stemkit.report")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("bokeh", "jinja2"):
            raise
        raise ModuleNotFoundError(
            f'stemkit report needs {missing}, which is not installed: pip install "stemkit[report]"', name=missing
        ) from error


def _report_on(job: Job) -> list[Path]:
    """Process one file and write its pages: of a series, one about the average of its frames."""
    from stemkit import NoiseCalibrator
    from stemkit.images import recorded_image

    image = with_recorded(load(job.path, job.arguments, cropped=job.arguments.recorded is not None), job.arguments)
    is_series = image.dims[0] == "frame" and len(image) > 1
    targets = job.outputs(*(f"_report{ending}.html" for ending in ([""] if is_series else image_endings(image))))
    sections = []
    if is_series:
        image, section = _series(image, job)
        sections.append(section)
    job.step("measuring the noise" + first_use())
    calibrator = NoiseCalibrator().fit(recorded_image(image))
    calibrated: Any = calibrator.transform(image)
    measured = measure(calibrated, job.arguments, job)
    table, shown = measured.table, measured.shown
    job.step("fitting lattices")
    lattices = fit_image_lattices(table, shown, measured.detector, pixel_size_error=job.arguments.pixel_size_error)
    remarks = [note.removeprefix("note: ") for note in notes(table, measured.detector, shown, job.path)]
    plt = non_interactive_pyplot()
    for i, target in enumerate(targets):
        one = shown if shown.ndim == 2 else shown[i]
        columns = table[table["image"] == i]
        job.step("assessing")
        assessment = _assessment(one, columns)
        job.step("drawing and writing")
        noise_figure = calibrator.plot(i)
        shown_sections = [*sections, _lattices(lattices, i, one, columns), *_structure(one, columns, job)]
        try:
            _report_module().write_report(
                target,
                one,
                columns,
                title=job.name if len(targets) == 1 else f"{job.name}, image {i}",
                noise_figure=noise_figure,
                assessment=assessment,
                faults=[*calibrator.diagnostics_[i]["faults"].values(), *remarks],
                sections=shown_sections,
                command=_command(job),
                overwrite=True,
            )
        finally:
            plt.close("all")
    line = f"{', '.join(map(str, targets))}: {column_summary(table)}"
    job.say("\n  ".join([line, *(f"note: {remark}" for remark in remarks)]))
    return targets


def _series(images: xr.DataArray, job: Job) -> tuple[xr.DataArray, Section]:
    """The average of the frames of a series, and the section about their alignment."""
    average, aligner = averaged(images, job)
    used = aligner.n_frames_ - len(aligner.rejected_)
    lines = [
        f"{used} of {aligner.n_frames_} frames are averaged.",
        *(one.strip() for one in described_displacements(aligner)),
    ]
    lines += [f"Frame {number} is left out: {reason}." for number, reason in aligner.rejected_.items()]
    words = "The average, the number of frames in it, and the displacements of the frames and of their rows"
    return average, _report_module().Section("Series", lines, {words: series_figure(aligner, average)})


def _assessment(image: xr.DataArray, columns: pd.DataFrame) -> Assessment | None:
    """The assessment of an enhanced image, if there is anything to assess."""
    import numpy as np

    from stemkit.images.provenance import recorded_image, was_enhanced
    from stemkit.trust.assessment import MIN_SIZE, assess

    recorded = recorded_image(image)
    removed = recorded.values - image.values
    if not was_enhanced(image) or min(image.shape) < MIN_SIZE or not (np.ptp(removed) and np.ptp(image.values)):
        return None
    return assess(recorded, image, columns if len(columns) else None)


def _lattices(lattices: FoundLattices, index: int, image: xr.DataArray, columns: pd.DataFrame) -> Section:
    """The section about the lattices of an image, with the figure of ``stemkit detect``."""
    from stemkit.cli.overlay import detection_figure

    found = lattices.of_image(index)
    lines = [] if found else [f"No lattice was fitted: {reason}." for reason in lattices.reasons[:1]]
    words = "Columns by quality flag, and an enlarged part of the recorded and of the enhanced image"
    figures = {words + (" with lattices and vacancies" * bool(found)): detection_figure(image, columns, found)}
    return _report_module().Section("Lattices", lines, figures, _lattice_table(found))


def _lattice_table(found: list[ImageLattice]) -> dict[str, pd.DataFrame]:
    """Vectors, cells and vacancies of lattices, with their errors, by the caption of the table."""
    import pandas as pd

    if not found:
        return {}
    caption = "Lattices, with statistical errors"
    if scale := found[0].lattice.pixel_size_error:
        caption += f"; the pixel size adds {100 * scale:.2g} % to those of both lengths"
    return {caption: pd.DataFrame([_lattice_row(one) for one in found])}


def _lattice_row(found: ImageLattice) -> dict[str, str]:
    lattice = found.lattice
    (a, b), errors = lattice.lengths, lattice.lengths_err
    return {
        f"a ({lattice.unit})": with_error(a, errors[0]),
        f"b ({lattice.unit})": with_error(b, errors[1]),
        "angle γ (°)": with_error(lattice.angle, lattice.angle_err),
        "b / a": with_error(lattice.ratio, lattice.ratio_err),
        "sites of the cell": str(len(lattice.sites)),
        "columns on it": f"{int((lattice.site >= 0).sum())} of {len(lattice.site)}",
        "sites without a column": str(len(found.vacancies)),
    }


def _structure(image: xr.DataArray, columns: pd.DataFrame, job: Job) -> list[Section]:
    """The sections of the analyses, with the figures and lines of ``stemkit structure``."""
    from stemkit.images import recorded_image
    from stemkit.structure import fit_lattice

    chosen = [name for name in STRUCTURE if getattr(job.arguments, name)]
    if not chosen:
        return []
    section = _report_module().Section
    columns = columns.reset_index(drop=True)
    try:
        lattice = fit_lattice(columns, pixel_size_error=job.arguments.pixel_size_error)
    except ValueError as error:
        return [section(STRUCTURE[name], [f"Not determined: {error}."]) for name in chosen]
    crystal = Crystal(columns, lattice, recorded_image(image), None)
    return [_analysed(ANALYSES[name], crystal, job, section) for name in chosen]


def _analysed(analysis: Analysis, crystal: Crystal, job: Job, section: Any) -> Section:
    title = STRUCTURE[analysis.name]
    job.step(analysis.step)
    try:
        result = analysis.run(crystal, job.arguments)
        figure = result.draw()
    except ValueError as error:
        # the other sections may not need what this one requires
        return section(title, [f"Not determined: {error}."])
    lines = [line.strip() for line in result.line.splitlines()]
    sentences = [f"{line[0].upper()}{line[1:]}." for line in lines]
    table = f"stemkit structure {job.name}_columns.csv --{analysis.name}"
    sentences.append(f"{table} writes the table of these results, from the columns that stemkit detect has written.")
    return section(title, sentences, {f"{title}: {analysis.help}": figure})


def _command(job: Job) -> str:
    """The command that makes the page again: options that differ from their defaults, and the file."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    words = ["stemkit", "report", str(job.path)]
    for action in parser._actions:
        value = getattr(job.arguments, action.dest, action.default)
        if action.dest in OMITTED or value == action.default:
            continue
        words += [action.option_strings[-1], *([] if action.nargs == 0 else [_as_typed(action.dest, value)])]
    return shlex.join([*words, "-o", str(job.arguments.output)])


def _as_typed(name: str, value: Any) -> str:
    """The text of an option."""
    if name == "region":
        return ",".join(f"{part.start}:{part.stop}" for part in value)
    return str(value)
