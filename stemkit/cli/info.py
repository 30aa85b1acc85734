"""``stemkit info``: print the properties of an image and the datasets of its file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import add_image_arguments, load
from stemkit.cli.messages import first_use
from stemkit.tables import counted

if TYPE_CHECKING:
    import xarray as xr

#: Attributes of an image that are printed, with their units.
ATTRIBUTES = {"detector": "", "voltage": " kV", "dwell_time": "", "dataset": "", "title": ""}
#: Relative difference of height and width of a pixel below which it is square (chosen: files store single precision).
SQUARE = 1e-3


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "info",
        help="describe an image and its file",
        description="Print the size, pixel size, mode and range of intensities of an image or stack, and the datasets "
        "of its file; with --noise also the spacing of its columns and its noise, which takes longer.",
    )
    add_image_arguments(parser)
    parser.add_argument("--noise", action="store_true", help="also measure the spacing and the noise")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe each file."""

    def work(job: Job) -> None:
        image = load(job.path, arguments)
        properties = _properties(image)
        if arguments.noise:
            job.step("measuring spacing and noise" + first_use())
            properties += [_spacing(image), _noise(image)]
        if "dataset" in image.attrs:
            properties += _datasets(job)
        job.say("\n".join([str(job.path), *(f"  {label:<12}{text}" for label, text in properties)]))

    return for_each_file(arguments, work)


def _properties(image: xr.DataArray) -> list[tuple[str, str]]:
    """Names and values of the properties of an image, or of all images of a stack."""
    from stemkit.images import split

    low, high = float(image.min()), float(image.max())
    found = [
        ("size", _size(image)),
        ("pixel size", _pixel_size(image)),
        ("mode", _mode(split(image))),
        ("range", f"{low:.6g} to {high:.6g}"),
    ]
    known = [key for key in ATTRIBUTES if key in image.attrs]
    return found + [(key.replace("_", " "), _text(key, image.attrs[key]) + ATTRIBUTES[key]) for key in known]


def _size(image: xr.DataArray) -> str:
    stack = f"{counted(len(image), 'frame')} of " if image.ndim == 3 else ""
    return f"{stack}{image.sizes['y']} x {image.sizes['x']} px, {image.dtype}"


def _pixel_size(image: xr.DataArray) -> str:
    from stemkit.images.pixel_size import pixel_sizes

    sizes = pixel_sizes(image)
    if sizes is None:
        return "not known: give --pixel-size"
    y, x = sizes
    field = " x ".join(f"{image.sizes[d] * size:.4g}" for d, size in (("y", y), ("x", x)))
    square = abs(y / x - 1) < SQUARE
    return f"{x:.6g} nm ({field} nm)" if square else f"{y:.6g} nm (y) x {x:.6g} nm (x) ({field} nm)"


def _mode(images: Sequence[xr.DataArray]) -> str:
    """The mode of the images, and whether it was inferred; several where they differ."""
    from stemkit.images.mode import resolve_mode

    modes = [resolve_mode(image) for image in images]
    inferred = "" if "mode" in images[0].attrs else " (inferred)"
    if len(set(modes)) == 1:
        return modes[0] + inferred
    return ", ".join(f"{mode} in {counted(modes.count(mode), 'frame')}" for mode in sorted(set(modes))) + inferred


def _spacing(image: xr.DataArray) -> tuple[str, str]:
    """The spacing of the columns, or its range in a stack."""
    from stemkit.images import split
    from stemkit.images.pixel_size import pixel_sizes
    from stemkit.periodicity import find_periodicity

    images = split(image)
    spacings = [s for s in (find_periodicity(i.values).spacing for i in images) if s is not None]
    if not spacings:
        return "spacing", "none: the image is not periodic"
    sizes = pixel_sizes(image)
    text = f"{_range(spacings)} px"
    if sizes is not None:
        text += f", {_range([s * math.sqrt(sizes[0] * sizes[1]) for s in spacings])} nm"
    aperiodic = len(images) - len(spacings)
    return "spacing", text + (f" ({counted(aperiodic, 'frame')} not periodic)" if aperiodic else "")


def _noise(image: xr.DataArray) -> tuple[str, str]:
    """The noise in units of the contrast; that of a stack is common to its frames."""
    from stemkit import NoiseCalibrator

    model = NoiseCalibrator().fit(image).noise_model_
    at_columns = math.sqrt(max(model.pointwise.readout**2 + model.pointwise.gain, 0.0))
    streaks = math.hypot(model.scan.amplitude, model.scan.short_amplitude)
    return (
        "noise",
        f"{100 * model.pointwise.readout:.3g} % of the contrast at the background, {100 * at_columns:.3g} % at "
        f"columns, streaks {100 * streaks:.2g} %, rows displaced by {model.scan.displacement:.2g} px",
    )


def _datasets(job: Job) -> list[tuple[str, str]]:
    """The datasets of a file that contains several."""
    from stemkit import datasets

    found = datasets(job.path)
    if len(found) < 2:
        return []
    return [
        (
            f"dataset {d.index}",
            f"{d.name or 'unnamed'}: {' x '.join(map(str, d.shape)) or 'a number'}, {_data_type(d.dtype)}"
            f"{'' if d.is_image else ', no image'}",
        )
        for d in found
    ]


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.4g}", f"{max(values):.4g}"
    return low if low == high else f"{low} to {high}"


def _data_type(name: str) -> str:
    """Data type of a dataset; that of records, such as the complex values of Velox, lists its fields."""
    return "several fields" if name.startswith("[") else name


def _text(key: str, value: object) -> str:
    if key == "dwell_time" and isinstance(value, float):
        return f"{1e6 * value:.6g} µs"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
