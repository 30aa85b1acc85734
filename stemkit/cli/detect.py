"""``stemkit detect``: a table of columns and a figure."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import (
    add_image_arguments,
    add_network_arguments,
    add_output_arguments,
    for_each_file,
    load,
    outputs,
)

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "detect",
        help="measure the atomic columns",
        description="Measure the atomic columns: NAME_columns.csv (nm where calibrated, else px) and a figure. The "
        "network finds the columns; positions and errors come from the recorded pixels.",
    )
    add_image_arguments(parser)
    add_output_arguments(parser)
    add_network_arguments(parser)
    parser.add_argument("--measured", type=Path, metavar="FILE", help="the recorded image behind an enhanced one")
    parser.add_argument("--no-enhance", action="store_true", help="find columns in the recorded image, without network")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure the columns of each file."""
    import matplotlib as mpl

    mpl.use("agg")

    def work(path: Path, name: str) -> None:
        table_path, figure_path = outputs(arguments, f"{name}_columns.csv", f"{name}_columns.png")
        image = _with_measured(load(path, arguments, cut=arguments.measured is not None), arguments)
        table, shown = measure(image, arguments)
        _save_table(table, image, table_path)
        _save_figure(table, shown, figure_path, arguments.overwrite)
        print(f"{table_path}: {summary(table)}")

    return for_each_file(arguments, work)


def measure(image: xr.DataArray, arguments: argparse.Namespace) -> tuple[pd.DataFrame, xr.DataArray]:
    """The columns' table, and the image that they were found in."""
    from sklearn.pipeline import Pipeline

    from stemkit import AtomDetector, NoiseCalibrator, SFINDenoiser

    steps: list[tuple[str, Any]] = []
    # an image that was enhanced before has its noise in the recorded pixels: the detector calibrates those
    if "measured" not in image.coords:
        steps.append(("noise", NoiseCalibrator()))
        if not arguments.no_enhance:
            steps.append(("denoise", SFINDenoiser(weights=arguments.weights, device=arguments.device)))
    shown = Pipeline(steps).fit_transform(image) if steps else image
    return AtomDetector().fit_transform(shown), shown


def summary(table: pd.DataFrame) -> str:
    """How many columns, and how many carry which flag."""
    flags = {1: "near the border", 2: "without a fit", 4: "of odd shape", 8: "too faint for a width of their own"}
    counts = {text: int((table["quality"] & bit > 0).sum()) for bit, text in flags.items()}
    found = ", ".join(f"{n} {text}" for text, n in counts.items() if n)
    return f"{len(table)} columns" + (f" ({found})" if found else "")


def _with_measured(image: xr.DataArray, arguments: argparse.Namespace) -> xr.DataArray:
    """The image with its recorded pixels, where it is an enhanced one."""
    from stemkit.images import was_enhanced

    if arguments.measured is None:
        if was_enhanced(image) and "measured" not in image.coords:
            raise ValueError(
                "this image was enhanced by stemkit: its noise is gone, and errors fitted to it would be wrong. Give "
                "the recorded image, or name it with --measured FILE"
            )
        return image
    from stemkit import read
    from stemkit.images import pixel_sizes

    recorded = read(arguments.measured, dataset=arguments.dataset, pixel_size=arguments.pixel_size)
    if was_enhanced(recorded):
        raise ValueError(f"--measured must be a recorded image, but {arguments.measured} was enhanced by stemkit")
    if arguments.region is not None and recorded.shape != image.shape:
        recorded = recorded.isel(y=arguments.region[0], x=arguments.region[1])
    if recorded.shape != image.shape:
        raise ValueError(f"--measured must have the image's shape, {image.shape}, but has {recorded.shape}")
    if pixel_sizes(image) is None and pixel_sizes(recorded) is not None:
        image = image.assign_coords({d: recorded.coords[d] for d in ("y", "x")})
    return image.assign_coords(measured=(image.dims, recorded.values))


def _save_table(table: pd.DataFrame, image: xr.DataArray, path: Path) -> None:
    from stemkit.images import is_calibrated
    from stemkit.io.atomic import whole_file

    with whole_file(path) as temporary:
        table.assign(unit="nm" if is_calibrated(image) else "px").to_csv(temporary, index=False, float_format="%.7g")


def _save_figure(table: pd.DataFrame, shown: xr.DataArray, path: Path, overwrite: bool) -> None:
    import matplotlib.pyplot as plt

    from stemkit.plotting import compare, save_figure

    frame = shown if shown.ndim == 2 else shown[0]
    panels = {"recorded": frame.stem.measured}
    if "measured" in frame.coords:
        panels["enhanced"] = frame
    panels["columns on the recorded image"] = frame.stem.measured
    figure = compare(panels, table[table["image"] == 0])
    try:
        save_figure(figure, path, overwrite=overwrite, dpi=160)
    finally:
        plt.close(figure)
