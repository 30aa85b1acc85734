"""``stemkit calibrate``: measure the noise of images and print it as a table."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import add_image_arguments, add_output_arguments, image_endings, load
from stemkit.cli.figures import add_figure_arguments, figure_suffix, non_interactive_pyplot, save_and_close
from stemkit.cli.messages import first_use

if TYPE_CHECKING:
    import xarray as xr

    from stemkit.noise import NoiseCalibrator

#: Rows of the table: parameter of the noise model, unit, description.
ROWS = (
    ("contrast", "image units", "amplitude of the brightest columns"),
    ("level", "image units", "background"),
    ("background.amplitude", "contrast", "standard deviation of the smooth background"),
    ("background.length", "px", "correlation length of the background"),
    ("scan.amplitude", "contrast", "standard deviation of the streaks along the rows"),
    ("scan.length", "px", "correlation length of the streaks (inf: whole rows)"),
    ("scan.short_amplitude", "contrast", "standard deviation of the short streaks"),
    ("scan.short_length", "px", "correlation length of the short streaks"),
    ("scan.jitter", "px", "RMS displacement of the probe along x, independent between rows"),
    ("scan.jitter_y", "px", "RMS displacement of the probe along y, independent between rows"),
    ("scan.jitter_length", "px", "correlation length of the jitter along the row (inf: rows move as a whole)"),
    ("scan.drift", "px", "RMS slow displacement of the probe along x"),
    ("scan.drift_y", "px", "RMS slow displacement of the probe along y"),
    ("scan.drift_rows", "rows", "correlation length of the slow displacements"),
    ("scan.hum", "px", "amplitude of the periodic displacement along x"),
    ("scan.hum_y", "px", "amplitude of the periodic displacement along y"),
    ("scan.hum_period", "rows", "period of the periodic displacements"),
    ("pointwise.readout", "contrast", "standard deviation of the pointwise noise at the background"),
    ("pointwise.gain", "contrast^2", "increase of the variance of the pointwise noise with the signal"),
    ("pointwise.shape", "", "Tukey lambda (0.14: normal, smaller: heavier tails)"),
    ("pointwise.correlation_x", "", "correlation of neighbouring pixels in a row"),
    ("pointwise.kind", "", "tukey: a symmetric distribution; poisson: counted electrons"),
    ("digitization.low", "image units", "lower end of the detector's range"),
    ("digitization.high", "image units", "upper end of the detector's range"),
    ("digitization.step", "image units", "distance of the detector's digital levels"),
)

#: Units of the dose in the table and their keys in JSON.
DOSES = {"e/px": "electrons_per_pixel", "e/Å^2": "electrons_per_square_angstrom"}


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure the noise",
        description="Measure the noise of images and print it as a table, with faults of scan and detector.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one line per file")
    add_figure_arguments(parser, "the measured curves and their fits, NAME_noise.png")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the noise of each file."""
    from stemkit import NoiseCalibrator

    def work(job: Job) -> None:
        image = load(job.path, arguments)
        suffix = figure_suffix(arguments)
        figures = job.outputs(*(f"_noise{ending}{suffix}" for ending in image_endings(image))) if suffix else []
        job.step("measuring the noise" + first_use())
        calibrator = NoiseCalibrator().fit(image)
        if arguments.json:
            job.say(json.dumps(_described(job.path, calibrator, image), allow_nan=False))
        else:
            job.say(_table(job.path, calibrator, image))
        # the figures come last: the numbers are printed even if one can't be drawn
        for i, path in enumerate(figures):
            job.step("drawing" if len(figures) == 1 else f"drawing image {i}")
            _draw(calibrator, i, path)

    return for_each_file(arguments, work, result="noise")


def _draw(calibrator: NoiseCalibrator, index: int, path: Path) -> None:
    non_interactive_pyplot()
    save_and_close(calibrator.plot(index), path)


def _described(path: Path, calibrator: NoiseCalibrator, image: xr.DataArray) -> dict[str, Any]:
    # an unknown error is null, since JSON has no NaN
    errors = {k: v if math.isfinite(v) else None for k, v in calibrator.noise_model_std_.items()}
    return {
        "file": str(path),
        **calibrator.noise_model_.to_dict(),
        "std": errors,
        "dose": {DOSES[unit]: {"value": value, "std": error} for unit, value, error in _dose(calibrator, image)},
        "has_columns": all(d["has_columns"] for d in calibrator.diagnostics_),
        "faults": [d["faults"] for d in calibrator.diagnostics_],
    }


def _table(path: Path, calibrator: NoiseCalibrator, image: xr.DataArray) -> str:
    from stemkit.noise.calibration import describes_noise

    model = calibrator.noise_model_
    lines = [f"{path} ({model.mode})"]
    if not all(d["has_columns"] for d in calibrator.diagnostics_):
        lines.append("  no lattice of columns was found: the contrast is the range of intensities of the image")
    for key, unit, meaning in ROWS:
        value: Any = model
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and describes_noise(model, key):
            lines.append(_line(key, value, calibrator.noise_model_std_.get(key), unit, meaning))
    lines += [
        _line("dose", value, error, unit, "dose at the brightest columns, above the background")
        for unit, value, error in _dose(calibrator, image)
    ]
    for i, diagnostics in enumerate(calibrator.diagnostics_):
        where = f"image {i}: " if image.ndim == 3 else ""
        lines += [f"  ! {where}{sentence}" for sentence in diagnostics["faults"].values()]
    return "\n".join(lines)


def _line(key: str, value: float | str, error: float | None, unit: str, meaning: str) -> str:
    number = value if isinstance(value, str) else _rounded(value, 4)
    known = error is not None and math.isfinite(error) and (isinstance(value, str) or math.isfinite(value))
    spread = f"± {_rounded(error, 2)}" if error is not None and known else ""
    return f"  {key:<24}{number:>11} {spread:<10} {unit:<12} {meaning}"


def _rounded(value: float, digits: int) -> str:
    """A number with the given significant digits, without an exponent up to a million."""
    return f"{float(f'{value:.{digits}g}'):.7g}"


def _dose(calibrator: NoiseCalibrator, image: xr.DataArray) -> list[tuple[str, float, float | None]]:
    """Unit, dose and its error for counted electrons; otherwise the gain also contains that of the amplifier."""
    from stemkit.images.pixel_size import pixel_sizes

    model = calibrator.noise_model_
    if model.pointwise.kind != "poisson":
        return []
    relative = calibrator.noise_model_std_["pointwise.gain"] / abs(model.pointwise.gain)
    doses = [("e/px", model.dose)]
    if (sizes := pixel_sizes(image)) is not None:
        doses.append(("e/Å^2", model.dose_per_area(math.sqrt(sizes[0] * sizes[1]))))
    return [(unit, dose, dose * relative if math.isfinite(relative) else None) for unit, dose in doses]
