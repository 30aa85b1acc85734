"""``stemkit straighten``: images whose rows are back in their places."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_image_arguments, add_output_arguments, for_each_file, frames, load, outputs

if TYPE_CHECKING:
    import xarray as xr
    from numpy.typing import NDArray

FORMATS = ("tif", "hspy", "nc")
#: Edge of the part of an image that the figure shows, px.
SHOWN = 112


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "straighten",
        help="put the rows back in their places",
        description="Take the beam's jitter out of images of crystals: each row moves back, along x, to where the "
        "lattice says it was. Shear stays, and strain as far as it exceeds the jitter.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    parser.add_argument("--format", choices=FORMATS, default="tif", help="default: tif")
    parser.add_argument("--figure", action="store_true", help="also draw before, after, and how far each row was off")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Straighten each file."""
    import numpy as np

    import stemkit
    from stemkit import RowAligner

    def work(path: Path, name: str) -> None:
        image = load(path, arguments)
        _refuse_enhanced(image)
        stem = f"{name}_straightened"
        pictures = [f"{stem}{ending}.png" for ending in frames(image)] if arguments.figure else []
        target, *figures = outputs(arguments, f"{stem}.{arguments.format}", *pictures)
        aligner = RowAligner()
        with warnings.catch_warnings():
            if image.ndim == 2:
                # a copy of the image that says it was straightened would be a lie
                warnings.filterwarnings("error", message="no lattice of columns", category=UserWarning)
            straight = aligner.fit_transform(image)
        shifts = np.concatenate(aligner.shifts_)
        moved = float(np.sqrt(np.mean(shifts**2)))
        made: dict[str, str | float] = {
            "stemkit": stemkit.__version__,
            "step": "straighten",
            "rms_shift_px": round(moved, 4),
        }
        stemkit.write(straight, target, overwrite=arguments.overwrite, provenance=made)
        for i, figure in enumerate(figures):
            before, after = (image, straight) if image.ndim == 2 else (image[i], straight[i])
            _save_figure(before, after, aligner.shifts_[i], figure, arguments.overwrite)
        print(f"{target}: rows were displaced by {_length(moved, image)} (RMS)")

    return for_each_file(arguments, work)


def _refuse_enhanced(image: xr.DataArray) -> None:
    from stemkit.images import was_enhanced

    if was_enhanced(image) or "measured" in image.coords:
        raise ValueError("this image was enhanced by stemkit: straighten the recorded one, then enhance that")


def _length(px: float, image: xr.DataArray) -> str:
    """A length along x in px, and in pm or nm where the image knows its pixels."""
    from stemkit.images import pixel_sizes

    sizes = pixel_sizes(image)
    if sizes is None:
        return f"{px:.3g} px"
    nm = px * sizes[1]
    return f"{px:.3g} px, {nm:.3g} nm" if nm >= 1 else f"{px:.3g} px, {1e3 * nm:.3g} pm"


def _save_figure(before: xr.DataArray, after: xr.DataArray, shifts: NDArray, path: Path, overwrite: bool) -> None:
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt
    import numpy as np

    from stemkit.plotting import save_figure, show_image

    rows, columns = _busiest(before.values)
    figure, axes = plt.subplots(1, 3, figsize=(13, 5), layout="constrained", width_ratios=(1, 1, 0.55))
    for ax, (title, image) in zip(axes, {"recorded": before, "straightened": after}.items(), strict=False):
        show_image(image.isel(y=rows, x=columns), ax, title)
    axes[2].plot(shifts, np.arange(len(shifts)), color="#31688e", linewidth=0.7)
    axes[2].axhspan(rows.start, rows.stop, color="0.93", zorder=0)
    axes[2].set(xlabel="displacement along x (px)", ylabel="row", ylim=(len(shifts), 0))
    axes[2].set_title("how far rows were off (grey: those shown)", fontsize=10)
    axes[2].spines[["top", "right"]].set_visible(False)
    try:
        save_figure(figure, path, overwrite=overwrite, dpi=160)
    finally:
        plt.close(figure)


def _busiest(values: NDArray) -> tuple[slice, slice]:
    """The part where most varies beyond the noise: columns, and not the vacuum beside them."""
    import numpy as np
    from scipy import ndimage

    shape = [min(n, SHOWN) for n in values.shape]
    smooth = ndimage.gaussian_filter(values.astype(np.float64), 1.5)
    varies = np.pad(np.cumsum(np.cumsum((smooth - smooth.mean()) ** 2, axis=0), axis=1), ((1, 0), (1, 0)))
    n_y, n_x = shape
    total = varies[n_y:, n_x:] - varies[:-n_y, n_x:] - varies[n_y:, :-n_x] + varies[:-n_y, :-n_x]
    top, left = np.unravel_index(int(np.argmax(total)), total.shape)
    return slice(int(top), int(top) + n_y), slice(int(left), int(left) + n_x)
