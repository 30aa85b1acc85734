"""Common to the verbs: arguments, reading, names of results, figures, and the handling of failures of single files."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.atomic import check_place

if TYPE_CHECKING:
    from types import ModuleType

    import xarray as xr
    from matplotlib.figure import Figure

__all__ = [
    "add_device_argument",
    "add_image_arguments",
    "add_metadata_arguments",
    "add_network_arguments",
    "add_output_arguments",
    "for_each_file",
    "frames",
    "load",
    "network_options",
    "non_interactive_pyplot",
    "outputs",
    "save_and_close",
    "with_option_names",
]

#: Form of ``--region``.
REGION = re.compile(r"^(\d+):(\d+),(\d+):(\d+)$")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the images and for metadata that their files lack."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    add_metadata_arguments(parser)
    parser.add_argument("--region", type=region, metavar="Y0:Y1,X0:X1", help="crop to these rows and columns, px")
    parser.add_argument("--dataset", metavar="NAME", help="name or index in a file with several (default: first image)")


def add_metadata_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the arguments for the pixel size and the mode."""
    parser.add_argument("--pixel-size", type=float, metavar="NM", help="edge of a pixel, nm (default: from the file)")
    parser.add_argument("--mode", choices=("haadf", "bf"), help="bright or dark columns (default: from the file)")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the folder of results."""
    parser.add_argument("-o", "--output", type=Path, default=Path("."), metavar="FOLDER", help="default: this folder")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the network, its device, sampling and precision."""
    parser.add_argument("--weights", default="auto", metavar="NAME", help="name or file of weights (default: auto)")
    parser.add_argument(
        "--sampling",
        type=sampling,
        default="auto",
        metavar="FRACTION",
        help="sampling of the image for the network, fraction of its own in (0, 1] (default: auto)",
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="default: auto")
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the device of the network."""
    parser.add_argument("--device", default="auto", help='"cpu", "cuda", ... (default: auto, a GPU if available)')


def network_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Parameters of the denoiser from the arguments."""
    return {name: getattr(arguments, name) for name in ("weights", "device", "sampling", "precision")}


def sampling(text: str) -> float | str:
    """Parse ``--sampling``: ``"auto"``, or a number in (0, 1]."""
    if text == "auto":
        return text
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"must be auto or a number in (0, 1], but is {text!r}")
    return number


def region(text: str) -> tuple[slice, slice]:
    """Parse ``--region``: slices of rows and columns from ``y0:y1,x0:x1``."""
    match = REGION.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(
            f"must have the form y0:y1,x0:x1 in px, such as 0:512,100:612, but is {text!r}"
        )
    y0, y1, x0, x1 = map(int, match.groups())
    if y0 >= y1 or x0 >= x1:
        raise argparse.ArgumentTypeError(f"must have y0 < y1 and x0 < x1, but is {text!r}")
    return slice(y0, y1), slice(x0, x1)


def load(path: Path, arguments: argparse.Namespace, cut: bool = False) -> xr.DataArray:
    """Read an image and crop it to the region; with ``cut`` an image of the region's size is taken as cropped."""
    import stemkit

    image = stemkit.read(path, dataset=arguments.dataset, pixel_size=arguments.pixel_size)
    if arguments.mode is not None:
        image.attrs["mode"] = arguments.mode
    if arguments.region is None:
        return image
    rows, columns = arguments.region
    n_y, n_x = image.sizes["y"], image.sizes["x"]
    if cut and (n_y, n_x) == (rows.stop - rows.start, columns.stop - columns.start):
        return image
    if rows.stop > n_y or columns.stop > n_x:
        raise ValueError(
            f"--region must lie within the image, {n_y} by {n_x} px, but ends at row {rows.stop} and column "
            f"{columns.stop}"
        )
    return image.isel(y=rows, x=columns)


def frames(image: xr.DataArray) -> list[str]:
    """Endings of the names of results: one empty ending for an image, numbers for the frames of a stack."""
    return [""] if image.ndim == 2 else [f"_{i:03d}" for i in range(len(image))]


def for_each_file(arguments: argparse.Namespace, work: Callable[[Path, str], None]) -> int:
    """Call ``work(path, name of results)`` for each file; report failures and return the exit code."""
    from tqdm.auto import tqdm

    files, failed = named_files(arguments.paths)
    for path, name in tqdm(files, desc="files", unit="file", disable=len(files) < 2 or not sys.stderr.isatty()):
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            try:
                work(path, name)
            except Exception as error:  # a failure of one file must not stop the others
                failed += 1
                tqdm.write(f"stemkit: {_about(path, error)}", file=sys.stderr)
        for note in dict.fromkeys(_about(path, n.message) for n in notes if issubclass(n.category, UserWarning)):
            tqdm.write(f"stemkit: note: {note}", file=sys.stderr)
    if failed:
        print(f"stemkit: {failed} of {len(files) + failed_folders(arguments.paths)} failed", file=sys.stderr)
    return 1 if failed else 0


def _about(path: Path, message: object) -> str:
    """A message about a file, with its name and the names of the command's options."""
    text = with_option_names(message)
    return text if str(path) in text else f"{path}: {text}"


def with_option_names(message: object) -> str:
    """A message in which the names of parameters are replaced with those of the command's options."""
    return re.sub(
        r"\b(pixel_size|mode|dataset|overwrite)=(True)?", lambda m: f"--{m[1].replace('_', '-')}", str(message)
    )


def failed_folders(paths: list[Path]) -> int:
    """Number of folders without a file that stemkit can read."""
    return sum(path.is_dir() and not _readable_in(path) for path in paths)


def named_files(paths: list[Path]) -> tuple[list[tuple[Path, str]], int]:
    """Files, including those in folders, each with the name of its results; and the number of folders without files."""
    files, empty = [], 0
    for path in paths:
        if path.is_dir():
            found = _readable_in(path)
            if not found:
                empty += 1
                print(f"stemkit: {path}: the folder contains no image file that stemkit can read", file=sys.stderr)
            files += found
        else:
            files.append(path)
    stems, names = Counter(path.stem for path in files), Counter(path.name for path in files)

    def result_name(path: Path) -> str:
        # the results of a.dm4 and a.tif are distinguished by the suffix, those of x/a.tif and y/a.tif by the folder
        name = path.stem if stems[path.stem] == 1 else path.name.replace(".", "_")
        return name if names[path.name] == 1 else f"{path.resolve().parent.name}_{name}"

    return [(path, result_name(path)) for path in files], empty


def outputs(arguments: argparse.Namespace, *names: str) -> list[Path]:
    """Create the folder of results and return their paths; existing files raise an error before the computation."""
    if arguments.output.exists() and not arguments.output.is_dir():
        raise NotADirectoryError(f"-o must name a folder, but {arguments.output} is a file: give another path")
    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = [arguments.output / name for name in names]
    for path in paths:
        check_place(path, arguments.overwrite)
    return paths


def non_interactive_pyplot() -> ModuleType:
    """Import matplotlib.pyplot with a backend that needs no display."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def save_and_close(figure: Figure, path: Path, overwrite: bool, dpi: float = 160) -> None:
    """Write a figure and release its memory."""
    import matplotlib.pyplot as plt

    from stemkit.plotting import save_figure

    try:
        save_figure(figure, path, overwrite=overwrite, dpi=dpi)
    finally:
        plt.close(figure)


def _readable_in(folder: Path) -> list[Path]:
    from stemkit.io import READABLE

    return sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in READABLE and not p.name.startswith(".")
    )
