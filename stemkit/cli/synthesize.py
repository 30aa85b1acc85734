"""``stemkit synthesize``: synthesise pairs of noisy and true images with their true columns."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit._version import __version__
from stemkit.cli.figures import add_figure_arguments, figure_suffix, non_interactive_pyplot, save_and_close
from stemkit.cli.parsers import at_least, positive
from stemkit.cli.progress import Progress
from stemkit.tables import counted

if TYPE_CHECKING:
    import xarray as xr

    from stemkit import STEMSynthesizer

#: Largest number of pairs in the figure (chosen).
N_IN_FIGURE = 6
#: Memory of a pair, bytes per pixel of the noisy image (measured: peak memory of the command for 64 pairs of 256 px and
#: for one of 2000 px).
BYTES_PER_PIXEL = 36
#: Memory of the synthesis of a pair in addition, bytes per pixel (measured in the same way).
BYTES_OF_SYNTHESIS = 64


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "synthesize",
        help="synthesise pairs of noisy and true images",
        description="Synthesise pairs of noisy and true images of crystals, defects, particles, amorphous matter and "
        "single atoms, with their true columns. If images are given, the pairs have their noise, spacing, column "
        "widths, contrast and pixel size.",
    )
    parser.add_argument(
        "files", nargs="*", type=Path, metavar="IMAGE", help="images from which noise and sampling are measured"
    )
    parser.add_argument("-n", "--n", type=at_least(1), default=16, help="number of pairs, default: 16")
    parser.add_argument("--mode", choices=("haadf", "bf"), help="default: that of the images, else haadf")
    parser.add_argument("--size", type=at_least(1), default=256, metavar="PX", help="edge of an image, default: 256")
    parser.add_argument(
        "--pixel-size", type=positive, metavar="NM", help="edge of a pixel, nm (default: that of the images, else 0.01)"
    )
    parser.add_argument(
        "--spacing", type=positive, nargs="+", metavar="NM", help="spacing of the columns, nm: one number, or two"
    )
    parser.add_argument("--arrangement", nargs="+", metavar="NAME", help="arrangements of columns (default: all)")
    parser.add_argument("--seed", type=at_least(0), default=0, help="the same seed gives the same images; default: 0")
    parser.add_argument("-o", "--output", type=Path, default=Path("pairs.nc"), help="NetCDF file, default: pairs.nc")
    parser.add_argument("--overwrite", action="store_true", help="replace existing files")
    add_figure_arguments(parser, "the first pairs")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Synthesise and write the pairs and the table of their columns."""
    from stemkit import STEMSynthesizer
    from stemkit.atomic import check_place, whole_file
    from stemkit.synthesis.recipe import ARRANGEMENTS

    path = arguments.output
    if path.suffix != ".nc":
        raise ValueError(f"--output must end with .nc, since the pairs are written as NetCDF, but is {path}")
    table_path, suffix = path.with_name(f"{path.stem}_columns.csv"), figure_suffix(arguments)
    figure_path = path.with_suffix(suffix) if suffix else None
    for target in (path, table_path, *([figure_path] if figure_path else [])):
        check_place(target, arguments.overwrite)
    _check_memory(arguments.n, arguments.size)
    if arguments.spacing is not None and len(arguments.spacing) > 2:
        raise ValueError(f"--spacing must be one or two numbers of nm, but {len(arguments.spacing)} were given")
    synthesizer = STEMSynthesizer(
        mode=arguments.mode,
        shape=(arguments.size, arguments.size),
        pixel_size=arguments.pixel_size,
        spacing=None if arguments.spacing is None else tuple(arguments.spacing),
        arrangements=ARRANGEMENTS if arguments.arrangement is None else tuple(arguments.arrangement),
        random_state=arguments.seed,
    )
    with Progress() as progress:
        if arguments.files:
            progress.step("measuring the images")
            _fit(synthesizer, arguments.files)
        progress.step(f"synthesising {counted(arguments.n, 'pair')}")
        pairs, columns = synthesizer.sample(arguments.n, return_columns=True)
        pairs.attrs["stemkit"] = json.dumps(
            {"stemkit": __version__, "step": "synthesize", "seed": arguments.seed, "n": arguments.n}
        )
        progress.step("writing")
        with whole_file(path) as temporary:
            temporary.write_bytes(_netcdf(pairs))
        with whole_file(table_path) as temporary:
            columns.to_csv(temporary, index=False)
        if figure_path:
            _save_figure(pairs, figure_path)
    mode = pairs.attrs["mode"]
    print(f"{path}: {counted(arguments.n, 'pair')}, {mode}; {table_path}: {counted(len(columns), 'column')}")
    return 0


def _netcdf(pairs: xr.Dataset) -> memoryview:
    """The pairs as a NetCDF file in memory: the HDF5 library crashes if the disk is full."""
    compression: dict[Any, dict[str, Any]] = {name: {"zlib": True} for name in pairs.data_vars}
    return pairs.to_netcdf(None, engine="h5netcdf", encoding=compression)


def _check_memory(n: int, size: int) -> None:
    """Raise a ValueError if the pairs do not fit into the memory of the machine."""
    if not hasattr(os, "sysconf"):
        return
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = size**2 * (n * BYTES_PER_PIXEL + BYTES_OF_SYNTHESIS)
    if needed > available:
        raise ValueError(
            f"{counted(n, 'pair')} of {size} x {size} px need about {needed / 1e9:.3g} GB, but this machine has "
            f"{available / 1e9:.3g} GB of memory: use a smaller --size or -n"
        )


def _fit(synthesizer: STEMSynthesizer, files: list[Path]) -> None:
    """Fit the synthesizer to all images of the files."""
    from stemkit import read

    images = []
    for file in files:
        image = read(file)
        images += [image] if image.ndim == 2 else list(image)
    synthesizer.fit(images)


def _save_figure(pairs: xr.Dataset, path: Path) -> None:
    from stemkit.plotting import show_image

    plt = non_interactive_pyplot()
    count = min(N_IN_FIGURE, pairs.sizes["image"])
    figure, axes = plt.subplots(2, count, figsize=(2.6 * count, 5.6), layout="constrained", squeeze=False)
    for i in range(count):
        for ax, name in zip(axes[:, i], ("noisy", "enhance"), strict=True):
            title = str(pairs["arrangement"].values[i]) if name == "noisy" else ""
            show_image(pairs[name].isel(image=i), ax, title)
    save_and_close(figure, path, dpi=130)
