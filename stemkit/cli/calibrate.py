"""``stemkit calibrate``: the noise of images as a table."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_image_arguments, add_output_arguments, for_each_file, frames, load, outputs

if TYPE_CHECKING:
    import xarray as xr

    from stemkit.noise import NoiseCalibrator, NoiseModel

#: Key, unit, and what it is.
ROWS = (
    ("contrast", "image units", "amplitude of the brightest columns"),
    ("level", "image units", "background"),
    ("background.amplitude", "contrast", "smooth background"),
    ("background.length", "px", "its length"),
    ("scan.amplitude", "contrast", "streaks along the rows"),
    ("scan.length", "px", "their length (inf: whole rows)"),
    ("scan.short_amplitude", "contrast", "streaks of a second kind"),
    ("scan.short_length", "px", "their length"),
    ("scan.jitter", "px", "displacement of the beam along x, independent between rows"),
    ("scan.jitter_y", "px", "the same along y, across the rows"),
    ("scan.jitter_length", "px", "their length along the row (inf: rows move as a whole)"),
    ("scan.drift", "px", "slow displacement along x, RMS"),
    ("scan.drift_y", "px", "the same along y"),
    ("scan.drift_rows", "rows", "their correlation length"),
    ("scan.hum", "px", "periodic displacement along x, amplitude"),
    ("scan.hum_y", "px", "the same along y"),
    ("scan.hum_period", "rows", "their period"),
    ("pointwise.readout", "contrast", "pixel noise at the background"),
    ("pointwise.gain", "contrast^2", "growth of its variance with the signal"),
    ("pointwise.shape", "", "Tukey lambda (0.14 normal, smaller: heavier tails)"),
    ("pointwise.correlation_x", "", "correlation of neighbours in a row"),
    ("pointwise.kind", "", "tukey: a symmetric law; poisson: counted electrons"),
    ("detector.low", "image units", "lower end of the detector's range"),
    ("detector.high", "image units", "upper end"),
    ("detector.step", "image units", "distance of its digital levels"),
)

#: Units of the dose in the table, and what JSON calls them.
DOSES = {"e/px": "electrons_per_pixel", "e/Å^2": "electrons_per_square_angstrom"}


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure the noise",
        description="Measure the noise of images and print it as a table, with whatever else is wrong with the scan.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one line per file")
    parser.add_argument("--figure", action="store_true", help="also draw the curves behind the numbers: NAME_noise.png")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the noise of each file."""
    from stemkit import NoiseCalibrator

    def work(path: Path, name: str) -> None:
        image = load(path, arguments)
        endings = frames(image) if arguments.figure else []
        figures = outputs(arguments, *(f"{name}_noise{ending}.png" for ending in endings)) if endings else []
        calibrator = NoiseCalibrator().fit(image)
        for i, figure in enumerate(figures):
            _save_figure(calibrator, i, figure, arguments.overwrite)
        if arguments.json:
            print(json.dumps(_described(path, calibrator, image), allow_nan=False))
        else:
            print(_table(path, calibrator, image))

    return for_each_file(arguments, work)


def _described(path: Path, calibrator: NoiseCalibrator, image: xr.DataArray) -> dict[str, Any]:
    # JSON has no NaN: an error that is not known is null
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
    model = calibrator.noise_model_
    lines = [f"{path} ({model.mode})"]
    if not all(d["has_columns"] for d in calibrator.diagnostics_):
        lines.append("  no lattice of columns was found: contrast is the image's range of intensities")
    for key, unit, meaning in ROWS:
        value: Any = model
        for part in key.split("."):
            value = getattr(value, part)
        if value is not None and _is_meant(model, key):
            lines.append(_line(key, value, calibrator.noise_model_std_.get(key), unit, meaning))
    lines += [
        _line("dose", value, error, unit, "of the brightest columns, above the background")
        for unit, value, error in _dose(calibrator, image)
    ]
    for i, diagnostics in enumerate(calibrator.diagnostics_):
        where = f"image {i}: " if image.ndim == 3 else ""
        lines += [f"  ! {where}{sentence}" for sentence in diagnostics["faults"].values()]
    return "\n".join(lines)


def _is_meant(model: NoiseModel, key: str) -> bool:
    """Whether a number describes anything: a length or a period without an amplitude does not."""
    from stemkit.noise.calibration import BELONGING

    amplitudes = BELONGING.get(key.split(".")[-1], ())
    return not amplitudes or any(getattr(model.scan, name) for name in amplitudes)


def _line(key: str, value: float | str, error: float | None, unit: str, meaning: str) -> str:
    number = value if isinstance(value, str) else f"{value:.4g}"
    spread = f"± {error:.2g}" if error is not None and math.isfinite(error) else ""
    return f"  {key:<24}{number:>11} {spread:<10} {unit:<12} {meaning}"


def _dose(calibrator: NoiseCalibrator, image: xr.DataArray) -> list[tuple[str, float, float | None]]:
    """Unit, dose and its error, where electrons were counted: elsewhere the gain is the amplifier's, too."""
    from stemkit.images import pixel_sizes

    model = calibrator.noise_model_
    if model.pointwise.kind != "poisson":
        return []
    relative = calibrator.noise_model_std_["pointwise.gain"] / abs(model.pointwise.gain)
    doses = [("e/px", model.dose)]
    if (sizes := pixel_sizes(image)) is not None:
        doses.append(("e/Å^2", model.dose_per_area(math.sqrt(sizes[0] * sizes[1]))))
    return [(unit, dose, dose * relative if math.isfinite(relative) else None) for unit, dose in doses]


def _save_figure(calibrator: NoiseCalibrator, image: int, path: Path, overwrite: bool) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    from stemkit.plotting import save_figure

    figure = calibrator.plot(image)
    try:
        save_figure(figure, path, overwrite=overwrite, dpi=160)
    finally:
        plt.close(figure)
