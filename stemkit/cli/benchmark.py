"""``stemkit benchmark``: compare methods on images with known truth, or on repeat frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_device_argument, add_metadata_arguments

if TYPE_CHECKING:
    from stemkit.benchmark.methods import MethodSpec

#: Names of the tables, those of :data:`stemkit.benchmark.tables.TABLES`.
NAMES = ("enhancement", "detection", "superresolution", "truths", "localisation", "cost", "ablations")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "benchmark",
        help="compare methods on images with known truth",
        description="Compare methods on images with known truth and print the tables. They are written in Markdown, "
        "with all scores as CSV and a figure. Networks whose weights stemkit does not contain are trained first with "
        "--train, which takes hours without a GPU; after an interruption, or the end of --minutes, the same call "
        "resumes.",
    )
    parser.add_argument("--quick", action="store_true", help="use 20 images of each set: minutes instead of an hour")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="TABLE", help=", ".join(NAMES))
    parser.add_argument("--add", nargs="+", default=[], metavar="MODULE:CLASS", help="also compare these estimators")
    parser.add_argument(
        "--external", action="store_true", help="also compare the packages bm3d and atomap, if they are installed"
    )
    parser.add_argument("--train", type=int, metavar="IMAGES", help="train each network on this number of images")
    parser.add_argument("--seed", type=int, default=7, help="seed of the training (default: 7)")
    parser.add_argument("--minutes", type=float, help="stop training after this time; the next call resumes it")
    add_device_argument(parser)
    repeated = parser.add_argument_group("repeat frames, instead of the tables")
    repeated.add_argument(
        "--frames",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="compare methods on at least three recorded frames of one area, in one file (a stack) or several: each "
        "method denoises one frame and is compared with the mean of the others",
    )
    add_metadata_arguments(repeated)
    repeated.add_argument(
        "--max-shift", type=float, metavar="PX", help="largest shift between frames (default: a quarter of the side)"
    )
    repeated.add_argument(
        "--threshold",
        choices=("half-bit", "1/7"),
        default="half-bit",
        help="threshold of the Fourier ring correlation that defines the resolution (default: half-bit)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmark"), metavar="FOLDER")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train networks if requested, compare the methods, and write the tables and the figure."""
    from stemkit.atomic import whole_file
    from stemkit.benchmark.methods import compared_methods
    from stemkit.benchmark.report import Report, example_figure
    from stemkit.benchmark.tables import FULL, QUICK

    networks = arguments.output / "networks"
    if arguments.train is not None and not train(networks, arguments):
        print("stemkit: training is not complete after --minutes: the same call resumes it", file=sys.stderr)
        return 0
    if arguments.add:
        sys.path.insert(0, str(Path.cwd()))  # modules in the current folder, as with python -m
    rows = compared_methods(networks, external=arguments.external, add=arguments.add, quick=arguments.quick)
    if arguments.frames:
        return compare_on_frames(rows, arguments)
    report = Report(arguments.output, QUICK if arguments.quick else FULL)
    for name in arguments.only:
        print(report.table(name, rows), flush=True)
    with whole_file(arguments.output / "pictures.png") as temporary:
        example_figure(rows).savefig(temporary, dpi=200, format="png")
    print(arguments.output / "tables.md")
    return 0


def compare_on_frames(rows: Sequence[MethodSpec], arguments: argparse.Namespace) -> int:
    """Compare the methods on repeat frames; print the table and write it with the figure."""
    from stemkit import read
    from stemkit.benchmark.frame_report import write_frames
    from stemkit.benchmark.frames import compare_frames
    from stemkit.images import split

    images = [
        frame
        for path in arguments.frames
        for frame in split(read(path, pixel_size=arguments.pixel_size), name=str(path))
    ]
    comparison = compare_frames(
        images, rows, max_shift=arguments.max_shift, mode=arguments.mode, threshold=arguments.threshold
    )
    print(write_frames(comparison, arguments.output))
    print(arguments.output / "frames.png")
    return 0


def train(folder: Path, arguments: argparse.Namespace) -> bool:
    """Train the networks of the tables; False if the time ended before that."""
    from stemkit.benchmark.trained import ABLATIONS, NETWORKS, SFIN_SAME_TRAINING, train_networks
    from stemkit.denoising import load_weights

    if arguments.only == ["ablations"]:
        specs = [SFIN_SAME_TRAINING, *ABLATIONS]
    else:
        specs = [spec for spec in NETWORKS if spec not in ABLATIONS or "ablations" in arguments.only]
    options = {"seed": arguments.seed, "device": arguments.device, "minutes": arguments.minutes}
    for name, path in train_networks(folder, arguments.train, specs=specs, **options):
        if path is None:
            return False
        training = load_weights(path)[1].training
        print(
            f"{name}: {training['images']} images in {training['seconds']:.0f} s, learning rate {training['lr']:g}",
            flush=True,
        )
    return True
