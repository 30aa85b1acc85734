"""``stemkit average``: align the frames of a series and average them."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit._version import __version__
from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import add_image_arguments, add_output_arguments, load
from stemkit.cli.figures import non_interactive_pyplot, save_and_close

if TYPE_CHECKING:
    import xarray as xr

    from stemkit.series import SeriesAligner

#: Choices of ``--format``.
FORMATS = ("nc", "tif", "hspy")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "average",
        help="align the frames of a series and average them",
        description="Align the frames of a series, whole and row by row, and average their recorded pixels. A figure "
        "shows the displacements; frames that do not match are left out and named.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="nc", help="default: nc, which keeps standard errors and noise"
    )
    parser.add_argument("--frames", action="store_true", help="also write the aligned frames")
    parser.add_argument(
        "--reject", type=frame_numbers, default=[], metavar="N,N,...", help="frames that are left out, the first is 0"
    )
    parser.add_argument("--whole", action="store_true", help="displacements of whole frames only, not of rows")
    parser.add_argument("--fast", action="store_true", help="align with a Gaussian filter instead of the network")
    parser.add_argument("--max-shift", type=float, metavar="PX", help="largest displacement from frame to frame")
    parser.add_argument(
        "--coverage",
        type=float,
        default=0.5,
        metavar="FRACTION",
        help="crop to where this fraction of the frames contributes (default: 0.5; 1: all)",
    )
    parser.set_defaults(run=run)


def frame_numbers(text: str) -> list[int]:
    """Parse ``--reject``: numbers of frames, separated by commas."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(f"must be numbers of frames such as 0,3,7, but is {text!r}")
    return numbers


def run(arguments: argparse.Namespace) -> int:
    """Average each file."""
    from stemkit import write
    from stemkit.series import SeriesAligner

    def work(job: Job) -> None:
        frames = _without(load(job.path, arguments), arguments.reject)
        endings = [f"_average.{arguments.format}", "_drift.png", *(["_aligned.nc"] if arguments.frames else [])]
        target, figure, *stack = job.outputs(*endings)
        aligner = SeriesAligner(
            rows=not arguments.whole,
            denoiser=None if arguments.fast else "auto",
            max_shift=arguments.max_shift,
            coverage=arguments.coverage,
        )
        job.step("aligning the frames")
        aligner.fit(frames)
        job.step("averaging")
        image = aligner.transform(frames)
        used = aligner.n_frames_ - len(aligner.rejected_)
        made: dict[str, str | float] = {"stemkit": __version__, "step": "average", "n_frames": used}
        job.step("writing")
        write(image, target, overwrite=True, provenance=made)
        if arguments.frames:
            write(_without_gaps(aligner.aligned(frames)), stack[0], overwrite=True, provenance=made)
        _save_figure(aligner, figure)
        scan = aligner.scan_noise_
        job.say(
            f"{target}: {used} of {aligner.n_frames_} frames, {image.shape[0]} by {image.shape[1]} px; rows displaced "
            f"by {scan.displacement:.2g} px along x and {scan.displacement_y:.2g} px along y (RMS)"
        )

    def skipped(job: Job, targets: list[Path]) -> None:
        job.say(f"{targets[0]}: finished before")

    return for_each_file(arguments, work, result="average", skipped=skipped)


def _without(frames: xr.DataArray, rejected: list[int]) -> xr.DataArray:
    import numpy as np

    if frames.ndim != 3:
        raise ValueError(
            f"a series of frames is needed, but the file holds one image of {frames.shape[0]} by {frames.shape[1]} px: "
            "give a file with several frames"
        )
    beyond = [i for i in rejected if i >= len(frames)]
    if beyond:
        raise ValueError(f"--reject names frame {beyond[0]}, but the series has the frames 0 to {len(frames) - 1}")
    return frames[np.setdiff1d(np.arange(len(frames)), rejected)]


def _without_gaps(frames: xr.DataArray) -> xr.DataArray:
    """Aligned frames with their median where they show nothing."""
    import numpy as np

    values = frames.values.copy()
    for one in values:
        one[~np.isfinite(one)] = np.nanmedian(one)
    return frames.copy(data=values).drop_vars("frame")


def _save_figure(aligner: SeriesAligner, path: Path) -> None:
    import numpy as np

    plt = non_interactive_pyplot()
    figure, (whole, *rows) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # frames that are left out have no mean
        mean = np.nanmean(aligner.displacements_, axis=1)
    whole.plot(mean[:, 1], mean[:, 0], "o-", color="#31688e", markersize=4, linewidth=0.8)
    for i, (y, x) in enumerate(mean):
        if np.isfinite(y):
            whole.annotate(str(i), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    whole.set(xlabel="x (px)", ylabel="y (px)")
    whole.set_title("displacements of the frames", fontsize=10)
    whole.invert_yaxis()
    for ax, axis, label in zip(rows, (1, 0), "xy", strict=True):
        for frame in aligner.displacements_:
            ax.plot(frame[:, axis] - frame[:, axis].mean(), linewidth=0.5, alpha=0.7)
        ax.set(xlabel="row", ylabel=f"displacement along {label} (px)")
        ax.set_title("displacements of the rows, less those of the frames", fontsize=10)
    save_and_close(figure, path)
