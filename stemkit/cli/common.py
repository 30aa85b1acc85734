"""What the verbs share: arguments, reading, and going on after a bad file."""

from __future__ import annotations

import argparse
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "add_image_arguments",
    "add_network_arguments",
    "add_output_arguments",
    "for_each_file",
    "frames",
    "load",
    "network_options",
    "outputs",
]

REGION = re.compile(r"^(\d+):(\d+),(\d+):(\d+)$")


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Which images, and what their files do not say."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    parser.add_argument("--pixel-size", type=float, metavar="NM", help="edge of a pixel in nm, instead of the file's")
    parser.add_argument("--region", type=region, metavar="Y0:Y1,X0:X1", help="use this part of the image alone, px")
    parser.add_argument("--dataset", metavar="NAME", help="name or index of the dataset, in a file with several")
    parser.add_argument("--mode", choices=("haadf", "bf"), help="bright or dark columns (default: ask the image)")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Where results go."""
    parser.add_argument("-o", "--output", type=Path, default=Path("."), metavar="FOLDER", help="default: here")
    parser.add_argument("--overwrite", action="store_true", help="replace files that exist")


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Which network, where it runs, on which grid and in which precision."""
    parser.add_argument("--weights", default="auto", metavar="NAME", help="shipped weights or a file (default: auto)")
    parser.add_argument(
        "--sampling",
        type=sampling,
        default="auto",
        metavar="FRACTION",
        help="apply the network to the image at this sampling, in (0, 1]; 1 is its own (default: auto)",
    )
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="of the network (default: auto)"
    )
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", ... (default: auto)')


def network_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The denoiser's parameters that the arguments give."""
    return {name: getattr(arguments, name) for name in ("weights", "device", "sampling", "precision")}


def sampling(text: str) -> float | str:
    """``"auto"``, or a number in (0, 1]."""
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
    """The slices that ``y0:y1,x0:x1`` says."""
    match = REGION.match(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"must be y0:y1,x0:x1 in px, such as 0:512,100:612, but is {text!r}")
    y0, y1, x0, x1 = map(int, match.groups())
    if y0 >= y1 or x0 >= x1:
        raise argparse.ArgumentTypeError(f"must go up, y0 < y1 and x0 < x1, but is {text!r}")
    return slice(y0, y1), slice(x0, x1)


def load(path: Path, arguments: argparse.Namespace, cut: bool = False) -> xr.DataArray:
    """Read the image that the arguments ask for; one that may be ``cut`` already can have the region's size."""
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
            f"--region must lie within the image, {n_y} by {n_x} px, but asks for rows up to {rows.stop} and columns "
            f"up to {columns.stop}"
        )
    return image.isel(y=rows, x=columns)


def frames(image: xr.DataArray) -> list[str]:
    """What the names of results of one image each end in: nothing for an image, a number per frame of a stack."""
    return [""] if image.ndim == 2 else [f"_{i:03d}" for i in range(len(image))]


def for_each_file(arguments: argparse.Namespace, work: Callable[[Path, str], None]) -> int:
    """Do the work on each file, with its name for results; report those that fail, and say so in the exit code."""
    from tqdm.auto import tqdm

    files, failed = named_files(arguments.paths)
    for path, name in tqdm(files, desc="files", unit="file", disable=len(files) < 2 or not sys.stderr.isatty()):
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always", UserWarning)
            try:
                work(path, name)
            except Exception as error:  # whatever is wrong with one file, the others run
                failed += 1
                tqdm.write(f"stemkit: {_about(path, error)}", file=sys.stderr)
        for note in dict.fromkeys(_about(path, n.message) for n in notes if issubclass(n.category, UserWarning)):
            tqdm.write(f"stemkit: note: {note}", file=sys.stderr)
    if failed:
        print(f"stemkit: {failed} of {len(files) + failed_folders(arguments.paths)} failed", file=sys.stderr)
    return 1 if failed else 0


def _about(path: Path, message: object) -> str:
    """What was said of a file, with its name and the command's own words for parameters."""
    text = re.sub(
        r"\b(pixel_size|mode|dataset|overwrite)=(True)?", lambda m: f"--{m[1].replace('_', '-')}", str(message)
    )
    return text if str(path) in text else f"{path}: {text}"


def failed_folders(paths: list[Path]) -> int:
    """Folders without a readable image."""
    return sum(path.is_dir() and not _readable_in(path) for path in paths)


def named_files(paths: list[Path]) -> tuple[list[tuple[Path, str]], int]:
    """Files, those of folders included, each with a name for its results; and how many folders held none."""
    files, empty = [], 0
    for path in paths:
        if path.is_dir():
            found = _readable_in(path)
            if not found:
                empty += 1
                print(f"stemkit: {path}: holds no image file that stemkit reads", file=sys.stderr)
            files += found
        else:
            files.append(path)
    stems, names = Counter(path.stem for path in files), Counter(path.name for path in files)

    def result_name(path: Path) -> str:
        # a.dm4 beside a.tif: the suffix tells their results apart; x/a.tif beside y/a.tif: the folder does
        name = path.stem if stems[path.stem] == 1 else path.name.replace(".", "_")
        return name if names[path.name] == 1 else f"{path.resolve().parent.name}_{name}"

    return [(path, result_name(path)) for path in files], empty


def outputs(arguments: argparse.Namespace, *names: str) -> list[Path]:
    """Paths of results, after making their folder; refuses files that exist before any work is done."""
    if arguments.output.exists() and not arguments.output.is_dir():
        raise NotADirectoryError(f"-o must name a folder, but {arguments.output} is a file")
    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = [arguments.output / name for name in names]
    for path in paths:
        if path.exists() and not arguments.overwrite:
            raise FileExistsError(f"{path} exists: pass --overwrite to replace it")
    return paths


def _readable_in(folder: Path) -> list[Path]:
    from stemkit.io import READABLE

    return sorted(
        p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in READABLE and not p.name.startswith(".")
    )
