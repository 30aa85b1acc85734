"""``stemkit straighten``: correct the jitter of the rows of images of crystals."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit._version import __version__
from stemkit.cli.batch import Job, for_each_file
from stemkit.cli.common import add_image_arguments, add_output_arguments, image_endings, load
from stemkit.cli.figures import add_figure_arguments, figure_suffix, non_interactive_pyplot, save_and_close

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

#: Choices of ``--format``.
FORMATS = ("tif", "hspy", "nc")
#: Edge of the crop of the image in the figure, px (chosen).
CROP_SIZE = 112


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "straighten",
        help="correct the jitter of the rows",
        description="Correct the jitter of the rows in images of crystals: each row is shifted along x by the "
        "displacement that is measured from the lattice. Shear is not changed, nor is strain that exceeds the jitter.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, default="tif", help="default: tif")
    add_figure_arguments(parser, "the image before and after, and the displacements of the rows")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Correct the jitter of the rows in each file."""
    import numpy as np

    from stemkit import RowAligner, write

    def work(job: Job) -> None:
        image = load(job.path, arguments)
        _check_not_enhanced(image)
        suffix = figure_suffix(arguments)
        figures = [f"_straightened{ending}{suffix}" for ending in image_endings(image)] if suffix else []
        target, *figure_paths = job.outputs(f"_straightened.{arguments.format}", *figures)
        job.step("measuring the displacements of the rows")
        aligner = RowAligner()
        with warnings.catch_warnings():
            if image.ndim == 2:
                # an unchanged image must not be written as straightened
                warnings.filterwarnings("error", message="no lattice of columns", category=UserWarning)
            straight = aligner.fit_transform(image)
        rms = float(np.sqrt(np.mean(np.concatenate(aligner.shifts_) ** 2)))
        made: dict[str, str | float] = {"stemkit": __version__, "step": "straighten", "rms_shift_px": round(rms, 4)}
        job.step("writing")
        if straight.attrs.get("stemkit") != image.attrs.get("stemkit"):
            # write() adds the record of this step, with the displacement
            straight.attrs["stemkit"] = image.attrs.get("stemkit")
        write(straight, target, overwrite=True, provenance=made)
        for i, path in enumerate(figure_paths):
            before, after = (image, straight) if image.ndim == 2 else (image[i], straight[i])
            _save_figure(before, after, aligner.shifts_[i], path)
        job.say(f"{target}: rows were moved by {_length(rms, image)} (RMS)")

    def skipped(job: Job, targets: list[Path]) -> None:
        job.say_finished(targets[:1])

    return for_each_file(arguments, work, result="straightened", skipped=skipped)


def _check_not_enhanced(image: xr.DataArray) -> None:
    from stemkit.images.provenance import was_enhanced

    if was_enhanced(image) or "recorded" in image.coords:
        raise ValueError("the image was enhanced by stemkit: straighten the recorded one, then enhance the result")


def _length(px: float, image: xr.DataArray) -> str:
    """A length along x in px, and in pm or nm if the image is calibrated."""
    from stemkit.images.pixel_size import pixel_sizes

    sizes = pixel_sizes(image)
    if sizes is None:
        return f"{px:.3g} px"
    nm = px * sizes[1]
    return f"{px:.3g} px, {nm:.3g} nm" if nm >= 1 else f"{px:.3g} px, {1e3 * nm:.3g} pm"


def _save_figure(before: xr.DataArray, after: xr.DataArray, shifts: NDArray, path: Path) -> None:
    import numpy as np

    from stemkit.plotting import show_image

    plt = non_interactive_pyplot()
    rows, columns = _most_varying_crop(before.values)
    figure, axes = plt.subplots(1, 3, figsize=(13, 5), layout="constrained", width_ratios=(1, 1, 0.55))
    for ax, (title, image) in zip(axes, {"recorded": before, "straightened": after}.items(), strict=False):
        show_image(image.isel(y=rows, x=columns), ax, title)
    axes[2].plot(shifts, np.arange(len(shifts)), color="#31688e", linewidth=0.7)
    axes[2].axhspan(rows.start, rows.stop, color="0.93", zorder=0)
    axes[2].set(xlabel="displacement along x (px)", ylabel="row", ylim=(len(shifts), 0))
    axes[2].set_title("displacements of the rows (grey: rows of the crop)", fontsize=10)
    axes[2].spines[["top", "right"]].set_visible(False)
    save_and_close(figure, path)


def _most_varying_crop(values: NDArray) -> tuple[slice, slice]:
    """Rows and columns of the crop with the largest variance without noise: columns, not vacuum."""
    import numpy as np
    from scipy import ndimage

    shape = [min(n, CROP_SIZE) for n in values.shape]
    smooth = ndimage.gaussian_filter(values.astype(np.float64), 1.5)
    cumulated = np.pad(np.cumsum(np.cumsum((smooth - smooth.mean()) ** 2, axis=0), axis=1), ((1, 0), (1, 0)))
    n_y, n_x = shape
    total = cumulated[n_y:, n_x:] - cumulated[:-n_y, n_x:] - cumulated[n_y:, :-n_x] + cumulated[:-n_y, :-n_x]
    top, left = np.unravel_index(int(np.argmax(total)), total.shape)
    return slice(int(top), int(top) + n_y), slice(int(left), int(left) + n_x)
