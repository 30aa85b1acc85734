"""``stemkit benchmark``: compare methods on images with known truth, or on repeat frames."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_device_argument, add_metadata_arguments

if TYPE_CHECKING:
    from stemkit.benchmark.contestants import Contestant

#: Names of the tables, those of :data:`stemkit.benchmark.contest.TABLES`.
NAMES = ("enhancement", "detection", "superresolution", "truths", "localisation", "cost", "ablations")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "benchmark",
        help="compare methods on images with known truth",
        description="Compare methods on images with known truth and print the tables. They are written in Markdown, "
        "with all scores as CSV and pictures. Networks whose weights stemkit does not contain are trained first with "
        "--train, which takes hours without a GPU; after an interruption, or the end of --minutes, the same call "
        "resumes.",
    )
    parser.add_argument("--quick", action="store_true", help="use 20 images of each set: minutes instead of an hour")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="TABLE", help=", ".join(NAMES))
    parser.add_argument("--add", nargs="+", default=[], metavar="MODULE:CLASS", help="also compare these estimators")
    parser.add_argument("--rivals", action="store_true", help="also compare bm3d and atomap, if they are installed")
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
    """Train networks if requested, compare the methods, and write the tables and pictures."""
    from stemkit.atomic import whole_file
    from stemkit.benchmark.contest import FULL, QUICK
    from stemkit.benchmark.contestants import contestants
    from stemkit.benchmark.report import Report, pictures

    networks = arguments.output / "networks"
    if arguments.train is not None and not train(networks, arguments):
        print("stemkit: training is not complete after --minutes: the same call resumes it", file=sys.stderr)
        return 0
    if arguments.add:
        sys.path.insert(0, str(Path.cwd()))  # modules in the current folder, as with python -m
    rows = contestants(networks, rivals=arguments.rivals, add=arguments.add, quick=arguments.quick)
    if arguments.frames:
        return compare_on_frames(rows, arguments)
    report = Report(arguments.output, QUICK if arguments.quick else FULL)
    for name in arguments.only:
        print(report.table(name, rows), flush=True)
    with whole_file(arguments.output / "pictures.png") as temporary:
        pictures(rows).savefig(temporary, dpi=200, format="png")
    print(arguments.output / "tables.md")
    return 0


def compare_on_frames(rows: Sequence[Contestant], arguments: argparse.Namespace) -> int:
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
    """Train the networks of the tables; False if the time ended before."""
    from stemkit.benchmark.entrants import ABLATIONS, ENTRANTS, SFIN_ALIKE, train_entrants
    from stemkit.denoising import load_weights

    left_out = {e.name for e in ABLATIONS if "ablations" not in arguments.only}
    if arguments.only == ["ablations"]:
        left_out = {e.name for e in ENTRANTS if e not in (SFIN_ALIKE, *ABLATIONS)}
    entrants = [e for e in ENTRANTS if e.name not in left_out]
    options = {"seed": arguments.seed, "device": arguments.device, "minutes": arguments.minutes}
    for name, path in train_entrants(folder, arguments.train, entrants=entrants, **options):
        if path is None:
            return False
        made = load_weights(path)[1].training
        print(f"{name}: {made['images']} images in {made['seconds']:.0f} s at a rate of {made['lr']:g}", flush=True)
    return True
