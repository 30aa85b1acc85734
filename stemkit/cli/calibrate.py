"""``stemkit calibrate``: the noise of images as a table."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_image_arguments, for_each_file, load

if TYPE_CHECKING:
    from stemkit.noise import NoiseCalibrator

#: Key, unit, and what it is.
ROWS = (
    ("contrast", "image units", "amplitude of the brightest columns"),
    ("level", "image units", "background"),
    ("background.amplitude", "contrast", "smooth background"),
    ("background.length", "px", "its length"),
    ("scan.amplitude", "contrast", "streaks along the rows"),
    ("scan.length", "px", "their length"),
    ("scan.jitter", "px", "displacement of the beam"),
    ("pointwise.readout", "contrast", "pixel noise at the background"),
    ("pointwise.gain", "contrast^2", "growth of its variance with the signal"),
    ("pointwise.shape", "", "Tukey lambda (0.14 normal, smaller: heavier tails)"),
    ("pointwise.correlation_x", "", "correlation of neighbours in a row"),
)


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "calibrate", help="measure the noise", description="Measure the noise of images and print it as a table."
    )
    add_image_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, one line per file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the noise of each file."""
    from stemkit import NoiseCalibrator

    def work(path: Path, name: str) -> None:
        calibrator = NoiseCalibrator().fit(load(path, arguments))
        if arguments.json:
            print(json.dumps(_described(path, calibrator)))
        else:
            print(_table(path, calibrator))

    return for_each_file(arguments, work)


def _described(path: Path, calibrator: NoiseCalibrator) -> dict[str, Any]:
    # JSON has no NaN: an error that is not known is null
    errors = {k: v if math.isfinite(v) else None for k, v in calibrator.noise_model_std_.items()}
    return {
        "file": str(path),
        **calibrator.noise_model_.to_dict(),
        "std": errors,
        "has_columns": all(d["has_columns"] for d in calibrator.diagnostics_),
    }


def _table(path: Path, calibrator: NoiseCalibrator) -> str:
    model = calibrator.noise_model_
    lines = [f"{path} ({model.mode})"]
    if not all(d["has_columns"] for d in calibrator.diagnostics_):
        lines.append("  no lattice of columns was found: contrast is the image's range of intensities")
    for key, unit, meaning in ROWS:
        value: Any = model
        for part in key.split("."):
            value = getattr(value, part)
        error = calibrator.noise_model_std_.get(key)
        spread = f"± {error:.2g}" if error is not None and math.isfinite(error) else ""
        lines.append(f"  {key:<24}{value:>11.4g} {spread:<10} {unit:<12} {meaning}")
    return "\n".join(lines)
