"""``stemkit enhance``: enhance images, in the units of the recorded ones."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.assessing import assess_frames, uncertainty_of
from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import (
    add_image_arguments,
    add_network_arguments,
    add_output_arguments,
    check_network,
    image_endings,
    load,
    network_options,
)
from stemkit.cli.figures import non_interactive_pyplot
from stemkit.cli.stacks import enhance_stack
from stemkit.cli.workers import add_worker_arguments

if TYPE_CHECKING:
    import xarray as xr

#: Choices of ``--format``.
FORMATS = ("tif", "hspy", "nc", "zarr", "png")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "enhance",
        help="enhance images",
        description="Enhance images with a network. Units and pixel size are those of the recorded image.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="zarr is written image by image, for stacks that exceed the memory; png is a picture with a scale bar "
        "(default: that of -o NAME.zarr, else tif)",
    )
    parser.add_argument(
        "--flips", action="store_true", help="average the results of mirror images: slower, slightly more accurate"
    )
    parser.add_argument(
        "--uncertainty",
        action="store_true",
        help="measure the uncertainty of each pixel, at about seven times the time: a map in .nc files, else a second "
        "file NAME_uncertainty",
    )
    add_worker_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Enhance each file."""
    from stemkit import SFINDenoiser

    denoiser = SFINDenoiser(**network_options(arguments), average_flips=arguments.flips)
    arguments.format = arguments.format or (arguments.output.suffix.lower() == ".zarr" and "zarr") or "tif"

    if arguments.uncertainty and arguments.format == "zarr":
        raise ValueError(
            "--uncertainty is not available with --format zarr: use nc, or tif, which writes a second file"
        )
    # only NetCDF stores maps with the image
    separate = arguments.uncertainty and arguments.format != "nc"

    def prepare() -> None:
        check_network(arguments)

    def work(job: Job) -> None:
        if arguments.format == "zarr":
            (target,) = job.outputs("_enhanced.zarr")
            enhance_stack(job, denoiser, target)
            job.say(str(target))
            return
        image = load(job.path, arguments)
        # a picture contains one image, the other formats contain stacks
        endings = image_endings(image) if arguments.format == "png" else [""]
        names = ["enhanced", "uncertainty"] if separate else ["enhanced"]
        targets = job.outputs(*(f"_{name}{ending}.{arguments.format}" for name in names for ending in endings))
        job.step("enhancing")
        enhanced = denoiser.fit_transform(image)
        job.step("assessing")
        assess_frames(job, image, enhanced)
        maps = [enhanced]
        if arguments.uncertainty:
            job.step("measuring the uncertainty")
            uncertainty = uncertainty_of(image, denoiser)
            maps = [enhanced, uncertainty] if separate else [enhanced.assign_coords(uncertainty=uncertainty.variable)]
        job.step("writing")
        for one, paths in zip(
            maps, [targets[i : i + len(endings)] for i in range(0, len(targets), len(endings))], strict=True
        ):
            _write(one, paths)
        job.say("\n".join(map(str, targets)))

    return for_each_file(arguments, work, result="enhanced", skipped=Job.say_finished, prepare=prepare)


def _write(image: xr.DataArray, targets: list[Path]) -> None:
    if targets[0].suffix != ".png":
        from stemkit import write

        write(image, targets[0], overwrite=True)
        return
    from stemkit.plotting import save_picture

    non_interactive_pyplot()
    for frame, path in zip([image] if image.ndim == 2 else list(image), targets, strict=True):
        save_picture(frame, path, overwrite=True)
