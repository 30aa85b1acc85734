"""``stemkit enhance``: enhanced images in their own units."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from stemkit.cli.common import (
    add_image_arguments,
    add_network_arguments,
    add_output_arguments,
    for_each_file,
    load,
    outputs,
)

FORMATS = ("tif", "hspy", "nc", "png")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser("enhance", help="enhance images", description="Enhance images; pixel size is kept.")
    add_image_arguments(parser)
    add_output_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="tif", help="png is a picture with a scale bar (default: tif)"
    )
    parser.add_argument("--flips", action="store_true", help="average over mirror images: slower, slightly better")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Enhance each file."""
    from stemkit import SFINDenoiser

    denoiser = SFINDenoiser(weights=arguments.weights, device=arguments.device, average_flips=arguments.flips)

    def work(path: Path, name: str) -> None:
        (target,) = outputs(arguments, f"{name}_enhanced.{arguments.format}")
        enhanced = denoiser.fit_transform(load(path, arguments))
        _write(enhanced, target, arguments)
        print(target)

    return for_each_file(arguments, work)


def _write(image: Any, target: Path, arguments: argparse.Namespace) -> None:
    if arguments.format != "png":
        from stemkit import write

        write(image, target, overwrite=arguments.overwrite)
        return
    import matplotlib as mpl

    from stemkit.plotting import save_picture

    mpl.use("agg")
    frames = [image] if image.ndim == 2 else list(image)
    for i, frame in enumerate(frames):
        path = target if len(frames) == 1 else target.with_name(f"{target.stem}_{i:03d}.png")
        save_picture(frame, path, overwrite=arguments.overwrite)
