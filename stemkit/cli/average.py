"""``stemkit average``: align the frames of a series and average them."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit._version import __version__
from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import add_image_arguments, add_output_arguments, load, read_when_needed
from stemkit.cli.figures import non_interactive_pyplot, save_and_close
from stemkit.cli.files import select_files
from stemkit.cli.parsers import frame_numbers, scan_angles

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from stemkit.series import SeriesAligner

#: Choices of ``--format``.
FORMATS = ("nc", "tif", "hspy")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "average",
        help="align the frames of a series and average them",
        description="Align the frames of a series, whole and row by row, and average their recorded pixels. A figure "
        "shows the displacements; frames that do not match are left out and named. A folder of files with one image "
        "each is a series in the natural order of their names; a file with several frames is a series by itself.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument(
        "--format", choices=FORMATS, default="nc", help="default: nc, which keeps standard errors and noise"
    )
    parser.add_argument(
        "--frames", action="store_true", help="also write the aligned frames, those of a large series as a Zarr folder"
    )
    parser.add_argument(
        "--reject", type=frame_numbers, default=[], metavar="N,N,...", help="frames that are left out, the first is 0"
    )
    parser.add_argument("--whole", action="store_true", help="displacements of whole frames only, not of rows")
    parser.add_argument("--fast", action="store_true", help="align with a Gaussian filter instead of the network")
    parser.add_argument(
        "--scan-angles",
        type=scan_angles,
        metavar="DEG,DEG,...",
        help="angles of the scans, for each frame or repeatedly: multiples of 90 (default: all the same)",
    )
    parser.add_argument("--max-shift", type=float, metavar="PX", help="largest displacement from frame to frame")
    parser.add_argument(
        "--coverage",
        type=float,
        default=0.5,
        metavar="FRACTION",
        help="crop to where this fraction of the frames contributes (default: 0.5; 1: all)",
    )
    parser.set_defaults(run=run, series=True)


def run(arguments: argparse.Namespace) -> int:
    """Average each series."""
    from stemkit import write
    from stemkit.series import SeriesAligner

    arguments.paths = [part for path in arguments.paths for part in _series_in(path, arguments)]

    def work(job: Job) -> None:
        series = _loaded(job.path, arguments)
        frames = _without(series, arguments.reject)
        aligned = ["_aligned.zarr" if _one_by_one(series) else "_aligned.nc"] if arguments.frames else []
        endings = [f"_average.{arguments.format}", "_drift.png", *aligned]
        target, figure, *stack = job.outputs(*endings)
        aligner = SeriesAligner(
            rows=not arguments.whole,
            denoiser=None if arguments.fast else "auto",
            max_shift=arguments.max_shift,
            coverage=arguments.coverage,
            scan_angles=_angles(arguments.scan_angles, len(series), arguments.reject),
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
        save_and_close(series_figure(aligner, image), figure)
        job.say(f"{target}: {used} of {aligner.n_frames_} frames, {image.shape[0]} by {image.shape[1]} px")
        for line in described_displacements(aligner):
            job.say(f"  {line}")

    def skipped(job: Job, targets: list[Path]) -> None:
        job.say_finished(targets[:1])

    return for_each_file(arguments, work, result="average", skipped=skipped)


def described_displacements(aligner: SeriesAligner) -> list[str]:
    """Lines with all parts of the displacements: between frames, slow and fast ones of the rows, and hum."""
    import numpy as np

    moved = aligner.displacements_[np.isfinite(aligner.displacements_[:, 0, 0])]
    whole, scan = moved.mean(axis=1), aligner.scan_noise_
    steps = np.diff(whole, axis=0)
    slow = _slow(moved)
    total = [float(np.sqrt(np.mean((moved - whole[:, None])[..., axis] ** 2))) for axis in (1, 0)]
    names = ("x", "y")

    def along(values: Sequence[float], unit: str = "px") -> str:
        return " and ".join(f"{value:.2f} {unit} along {name}" for value, name in zip(values, names, strict=True))

    return [
        f"between frames: up to {np.hypot(*(whole - whole[0]).T).max():.1f} px in all, "
        f"{along([float(np.median(np.abs(steps[:, axis]))) for axis in (1, 0)])} from one to the next (median)",
        f"within frames: {along(total)} (RMS)",
        f"  linear and quadratic drift: {along(slow)} (RMS)",
        f"  drift over {scan.drift_rows:.0f} rows: {along([scan.drift, scan.drift_y])} (RMS)",
        f"  jitter, independent from row to row: {along([scan.jitter, scan.jitter_y])} (RMS)",
        f"  hum with a period of {scan.hum_period:.1f} rows: {along([scan.hum, scan.hum_y])} (amplitude)"
        if scan.hum or scan.hum_y
        else "  hum: none",
    ]


def _slow(moved: NDArray) -> list[float]:
    """RMS along x and y of the parabolas that fit the displacements ``(n_frames, n_rows, 2)`` best, px."""
    import numpy as np

    t = np.linspace(-1, 1, moved.shape[1])
    design = np.stack([np.ones_like(t), t, t**2], axis=1)
    out = []
    for axis in (1, 0):
        fitted = design @ np.linalg.lstsq(design, moved[..., axis].T, rcond=None)[0]
        out.append(float(np.sqrt(np.mean((fitted - fitted.mean(axis=0)) ** 2))))
    return out


def _series_in(path: Path, arguments: argparse.Namespace) -> list[Path]:
    """A file, a folder of files with one image each, or the files of a folder if the first one holds several."""
    files = _frame_files(path)
    if not files:
        return [path]
    with contextlib.suppress(Exception), warnings.catch_warnings():  # errors are reported when the series is read
        warnings.simplefilter("ignore")
        if load(files[0], arguments).ndim == 3:
            return list(select_files([path], arguments.recursive).files)
    return [path]


def _frame_files(path: Path) -> list[Path]:
    """Image files of a folder but for results of this command; none of a file."""
    own = tuple(f"{path.resolve().name}_{ending}" for ending in ("average", "aligned", "drift"))
    found = select_files([path]).files if path.is_dir() else ()
    return [file for file in found if file != path and not file.name.startswith(own)]


def _loaded(path: Path, arguments: argparse.Namespace) -> xr.DataArray:
    """The frames of a file, or of the files of a folder; large ones are read when they are needed, with dask."""
    return load(_frame_files(path) or path, arguments, lazy=read_when_needed(path))


def _angles(given: list[float] | None, n_frames: int, rejected: list[int]) -> list[float] | None:
    if given is None:
        return None
    if n_frames % len(given):
        raise ValueError(
            f"--scan-angles has {len(given)} angle(s), but the series has {n_frames} frames: give one for each, or a "
            "sequence that is repeated a whole number of times"
        )
    angles = given * (n_frames // len(given))
    return [angle for i, angle in enumerate(angles) if i not in rejected]


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


def _one_by_one(series: xr.DataArray) -> bool:
    """Whether aligned frames are written one by one, which Zarr allows for."""
    from stemkit.images.lazy import is_lazy

    return is_lazy(series) and find_spec("zarr") is not None


def _without_gaps(frames: xr.DataArray) -> xr.DataArray:
    """Aligned frames whose pixels without a measurement are replaced by the median of the frame."""
    from stemkit.images.lazy import is_lazy

    pixels = frames.data.map_blocks(_filled) if is_lazy(frames) else _filled(frames.values)
    return frames.copy(data=pixels).drop_vars("frame")


def _filled(frames: NDArray) -> NDArray:
    """Fill the gaps of frames in place, since frames may need much memory."""
    import numpy as np

    for one in frames:
        one[~np.isfinite(one)] = np.nanmedian(one)
    return frames


def series_figure(aligner: SeriesAligner, image: xr.DataArray) -> Figure:
    """The average, the number of frames in it, and the displacements of the frames and of their rows."""
    import numpy as np

    plt = non_interactive_pyplot()
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.6), layout="constrained")
    low, high = np.nanquantile(image.values, (0.005, 0.998))
    count = image["n_frames"].values
    panels = (
        (axes[0, 0], image.values, {"cmap": "gray", "vmin": low, "vmax": high}, "average", "intensity"),
        (axes[0, 1], count, {"vmin": 0, "vmax": count.max()}, "frames that contribute", "number of frames"),
    )
    for ax, values, options, title, label in panels:
        figure.colorbar(ax.imshow(values, **options), ax=ax, label=label)
        ax.set(xlabel="x (px)", ylabel="y (px)")
        ax.set_title(title, fontsize=10)
    colors = plt.colormaps["viridis"](np.linspace(0, 0.9, len(aligner.displacements_)))
    _draw_path(axes[0, 2], aligner.displacements_, colors)
    for ax, axis, name in ((axes[1, 0], 1, "x"), (axes[1, 1], 0, "y")):
        for frame, color in zip(aligner.displacements_, colors, strict=True):
            ax.plot(frame[:, axis] - frame[:, axis].mean(), linewidth=0.5, alpha=0.8, color=color)
        ax.set(xlabel="row", ylabel=f"displacement along {name} (px)")
        ax.set_title("displacements of the rows, less those of the frames", fontsize=10)
    axes[1, 2].axis("off")
    text = "\n".join(described_displacements(aligner))
    axes[1, 2].text(0, 1, text, va="top", fontsize=9, wrap=True, transform=axes[1, 2].transAxes)
    return figure


def _draw_path(ax: Axes, displacements: NDArray, colors: NDArray) -> None:
    """Displacements of whole frames, with their numbers."""
    import numpy as np

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # frames that are left out have no mean
        mean = np.nanmean(displacements, axis=1)
    mean = mean - np.nanmean(mean, axis=0)
    ax.plot(mean[:, 1], mean[:, 0], "-", color="0.6", linewidth=0.8)
    for i, (y, x) in enumerate(mean):
        if np.isfinite(y):
            ax.plot(x, y, "o", color=colors[i], markersize=4)
            ax.annotate(str(i), (x, y), xytext=(4, 3), textcoords="offset points", fontsize=8)
    ax.set(xlabel="x (px)", ylabel="y (px)")
    ax.set_title("displacements of the frames, by number and colour", fontsize=10)
    ax.invert_yaxis()
