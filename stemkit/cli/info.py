"""``stemkit info``: print the properties of an image and the datasets of its file."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_image_arguments, for_each_file, load

if TYPE_CHECKING:
    import xarray as xr


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "info",
        help="describe an image and its file",
        description="Print the size, pixel size, mode, noise and spacing of an image, and the datasets of its file.",
    )
    add_image_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Describe each file."""
    from stemkit import datasets

    def work(path: Path, name: str) -> None:
        image = load(path, arguments)
        print(path)
        for label, text in _properties(image):
            print(f"  {label:<12}{text}")
        found = datasets(path)
        if len(found) > 1:
            for d in found:
                shape = " x ".join(map(str, d.shape))
                print(f"  {'dataset ' + str(d.index):<12}{d.name or 'unnamed'}: {shape}, {d.dtype}")

    return for_each_file(arguments, work)


def _properties(image: xr.DataArray) -> list[tuple[str, str]]:
    """Names and values of the properties of an image, or of the first image of a stack."""
    from stemkit import NoiseCalibrator
    from stemkit.images import pixel_sizes, resolve_mode
    from stemkit.periodicity import find_periodicity

    first = image if image.ndim == 2 else image[0]
    sizes = pixel_sizes(first)
    size = " x ".join(str(n) for n in image.shape)
    properties = [("size", f"{size} px, {image.dtype}")]
    if sizes is None:
        properties.append(("pixel size", "not known: give --pixel-size"))
    elif abs(sizes[0] / sizes[1] - 1) < 1e-3:
        field = " x ".join(f"{n * s:.4g}" for n, s in zip(first.shape, sizes, strict=True))
        properties.append(("pixel size", f"{sizes[1]:.6g} nm ({field} nm)"))
    else:
        properties.append(("pixel size", f"{sizes[0]:.6g} nm (y) x {sizes[1]:.6g} nm (x)"))
    source = "" if "mode" in image.attrs else " (inferred)"
    properties.append(("mode", resolve_mode(first) + source))
    spacing = find_periodicity(first.values).spacing
    if spacing is None:
        properties.append(("spacing", "none: the image is not periodic"))
    else:
        in_nm = "" if sizes is None else f", {spacing * (sizes[0] * sizes[1]) ** 0.5:.4g} nm"
        properties.append(("spacing", f"{spacing:.4g} px{in_nm}"))
    model = NoiseCalibrator().fit(first).noise_model_
    bright = max(model.pointwise.readout**2 + model.pointwise.gain, 0.0) ** 0.5
    properties.append(
        (
            "noise",
            f"{100 * model.pointwise.readout:.3g} % of the contrast at the background, {100 * bright:.3g} % at "
            f"columns, streaks {100 * math.hypot(model.scan.amplitude, model.scan.short_amplitude):.2g} %, rows "
            f"displaced by {model.scan.displacement:.2g} px",
        )
    )
    known = ("detector", "voltage", "dwell_time", "dataset", "title")
    units = {"voltage": " kV", "dwell_time": " s"}
    properties += [(k.replace("_", " "), f"{image.attrs[k]}{units.get(k, '')}") for k in known if k in image.attrs]
    return properties
