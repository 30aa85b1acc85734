"""Arguments that several commands have, and the reading of images."""

from __future__ import annotations

import argparse
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.parsers import not_negative, positive, region, sampling

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "add_device_argument",
    "add_image_arguments",
    "add_metadata_arguments",
    "add_network_arguments",
    "add_output_arguments",
    "add_pixel_size_error_argument",
    "check_device",
    "check_network",
    "detector_options",
    "image_endings",
    "load",
    "network_options",
    "read_when_needed",
]

#: Size of a file or folder, bytes, above which the frames of a series are not held in memory together (chosen).
MAX_BYTES_IN_MEMORY = 2**28


def add_image_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the images and for metadata that their files lack."""
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="image files, or folders of them")
    parser.add_argument("-r", "--recursive", action="store_true", help="also search the sub-folders of folders")
    add_metadata_arguments(parser)
    parser.add_argument("--region", type=region, metavar="Y0:Y1,X0:X1", help="crop to these rows and columns, px")
    parser.add_argument("--dataset", metavar="NAME", help="name or index in a file with several (default: first image)")


def add_metadata_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the arguments for the pixel size and the mode."""
    parser.add_argument(
        "--pixel-size", type=positive, metavar="NM", help="edge of a pixel, nm (default: from the file)"
    )
    parser.add_argument("--mode", choices=("haadf", "bf"), help="bright or dark columns (default: from the file)")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the folder of results."""
    parser.add_argument("-o", "--output", type=Path, default=Path("."), metavar="FOLDER", help="default: this folder")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace existing files that other parameters, another version or another program have made; results of "
        "the same command are skipped",
    )


def add_network_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the network, its device, sampling and precision."""
    parser.add_argument("--weights", default="auto", metavar="NAME", help="name or file of weights (default: auto)")
    parser.add_argument(
        "--sampling",
        type=sampling,
        default="auto",
        metavar="FRACTION",
        help="pixels of the network's grid per pixel of the image along each axis, in (0, 1] (default: auto)",
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="default: auto")
    add_device_argument(parser)


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the device of the network."""
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER (default: auto, a GPU if available)"
    )


def network_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Parameters of the denoiser from the arguments."""
    return {name: getattr(arguments, name) for name in ("weights", "device", "sampling", "precision")}


def detector_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Parameters of the detector from the arguments."""
    names = ("significance", "spacing", "width", "elliptical", "device")
    return {name: getattr(arguments, name) for name in names}


def add_pixel_size_error_argument(group: argparse._ArgumentGroup, purpose: str) -> None:
    """Add the argument for the error of the pixel size, with the purpose in its help."""
    group.add_argument(
        "--pixel-size-error",
        type=not_negative,
        default=0.0,
        metavar="FRACTION",
        help=f"relative error of the pixel size, such as 0.01, {purpose} (default: 0)",
    )


def check_network(arguments: argparse.Namespace) -> None:
    """Raise a ValueError unless the device, and without ``--no-enhance`` the weights, of the arguments can be used."""
    check_device(arguments.device)
    if not getattr(arguments, "no_enhance", False):
        _check_weights(arguments.weights)


def check_device(name: str) -> None:
    """Raise a ValueError unless stemkit can use the device of this name."""
    import torch

    from stemkit.compute import resolve_device

    device = resolve_device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"--device must be auto, cpu, cuda or cuda:NUMBER, but is {name!r}: stemkit's networks and fits use "
            f"operations that torch does not have for {device.type}"
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"--device is {name!r}, but torch finds {torch.cuda.device_count()} CUDA device(s)")


def _check_weights(name: str) -> None:
    """Raise a ValueError unless the file of weights can be loaded."""
    from stemkit.denoising.weights import load_weights

    try:
        load_weights(name)
    except (OSError, ValueError):
        raise
    except Exception as error:  # a file may contain anything
        raise ValueError(
            f"--weights {name} can't be used, the file contains no network or is damaged ({type(error).__name__}: "
            f"{error}): give weights that stemkit has written"
        ) from error


def load(
    path: Path | list[Path], arguments: argparse.Namespace, cropped: bool = False, lazy: bool = False
) -> xr.DataArray:
    """Read an image and crop it to the region; with ``cropped``, an image of the region's size is not cropped again."""
    import stemkit

    image = _ascending(stemkit.read(path, dataset=arguments.dataset, pixel_size=arguments.pixel_size, lazy=lazy))
    if arguments.mode is not None:
        image.attrs["mode"] = arguments.mode
    if arguments.region is None:
        return image
    rows, columns = arguments.region
    n_y, n_x = image.sizes["y"], image.sizes["x"]
    if cropped and (n_y, n_x) == (rows.stop - rows.start, columns.stop - columns.start):
        return image
    if rows.stop > n_y or columns.stop > n_x:
        raise ValueError(
            f"--region must lie within the image, {n_y} by {n_x} px, but ends at row {rows.stop} and column "
            f"{columns.stop}"
        )
    return image.isel(y=rows, x=columns)


def read_when_needed(path: Path) -> bool:
    """Whether the frames of a series in a file or folder are not to be in memory together, for which dask is needed."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files) > MAX_BYTES_IN_MEMORY and find_spec("dask") is not None


def _ascending(image: xr.DataArray) -> xr.DataArray:
    """The image with increasing coordinates, which the estimators require; a warning names those that were reversed."""
    import numpy as np

    for dim, lines in (("y", "rows"), ("x", "columns of pixels")):
        steps = np.diff(image[dim].values) if dim in image.coords else np.zeros(1)
        if steps.size and (steps < 0).all():
            image = image.isel({dim: slice(None, None, -1)})
            warnings.warn(f"{dim} decreases in the file: its {lines} are processed in reverse order", stacklevel=2)
    return image


def image_endings(image: xr.DataArray) -> list[str]:
    """Endings of the names of results: one empty ending for an image, numbers for the frames of a stack."""
    return [""] if image.ndim == 2 else [f"_{i:03d}" for i in range(len(image))]
