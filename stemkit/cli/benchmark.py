"""``stemkit benchmark``: every method on the same images, with the truth beside them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stemkit.benchmark.contestants import Contestant

#: The tables, by name: as in :data:`stemkit.benchmark.contest.TABLES`.
NAMES = ("enhancement", "detection", "superresolution", "truths", "localisation", "cost", "ablations")


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "benchmark",
        help="compare methods where the truth is known",
        description="Compare methods on images whose truth is known, and print the tables; a folder gets them in "
        "Markdown, all scores as CSV, and pictures. Networks that do not ship are trained first with --train, for "
        "hours without a GPU; interrupted, or after its minutes, the same call goes on.",
    )
    parser.add_argument("--quick", action="store_true", help="20 images of each set: minutes instead of an hour")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="TABLE", help=", ".join(NAMES))
    parser.add_argument("--add", nargs="+", default=[], metavar="MODULE:CLASS", help="estimators of yours")
    parser.add_argument(
        "--rivals", action="store_true", help="also other packages, where they are installed: bm3d, atomap"
    )
    parser.add_argument(
        "--train", type=int, metavar="IMAGES", help="train the networks that the tables compare, each on so many images"
    )
    parser.add_argument("--seed", type=int, default=7, help="of that training (default: 7); the images' are fixed")
    parser.add_argument("--minutes", type=float, help="stop training after so much time; the tables come next time")
    parser.add_argument("--device", default="auto", help='for training: "auto", "cpu", "cuda", ... (default: auto)')
    repeated = parser.add_argument_group("repeat frames, in place of the tables")
    repeated.add_argument(
        "--frames",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="compare methods on at least three recorded frames of one area, in one file (a stack) or several: each "
        "method denoises one frame and is compared with the mean of the others",
    )
    repeated.add_argument("--pixel-size", type=float, metavar="NM", help="edge of a pixel in nm, instead of the files'")
    repeated.add_argument(
        "--mode", choices=("haadf", "bf"), help="bright or dark columns (default: the files', else inferred)"
    )
    repeated.add_argument(
        "--max-shift", type=float, metavar="PX", help="largest shift between frames (default: a quarter of the side)"
    )
    repeated.add_argument(
        "--threshold",
        choices=("half-bit", "1/7"),
        default="half-bit",
        help="of the Fourier ring correlation, which defines the resolution (default: half-bit)",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmark"), metavar="FOLDER")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train what is asked for, and judge."""
    from stemkit.atomic import whole_file
    from stemkit.benchmark.contest import FULL, QUICK
    from stemkit.benchmark.contestants import contestants
    from stemkit.benchmark.report import Report, pictures

    networks = arguments.output / "networks"
    if arguments.train is not None and not train(networks, arguments):
        print("stemkit: the time is over, and training is not: the same call goes on", file=sys.stderr)
        return 0
    if arguments.add:
        sys.path.insert(0, str(Path.cwd()))  # a file beside the user, as with python -m
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
    import stemkit
    from stemkit.benchmark.frame_report import write_frames
    from stemkit.benchmark.frames import compare_frames
    from stemkit.images import split

    images = [
        frame
        for path in arguments.frames
        for frame in split(stemkit.read(path, pixel_size=arguments.pixel_size), name=str(path))
    ]
    comparison = compare_frames(
        images,
        rows,
        max_shift=arguments.max_shift,
        mode=arguments.mode,
        threshold=arguments.threshold,
    )
    print(write_frames(comparison, arguments.output))
    print(arguments.output / "frames.png")
    return 0


def train(folder: Path, arguments: argparse.Namespace) -> bool:
    """Train the networks that the tables compare; False where the time was over before."""
    from stemkit.benchmark.entrants import ABLATIONS, ENTRANTS, SFIN_ALIKE, train_entrants
    from stemkit.denoising import load_weights

    left_out = {e.name for e in ABLATIONS if "ablations" not in arguments.only}
    if arguments.only == ["ablations"]:
        left_out = {e.name for e in ENTRANTS if e not in (SFIN_ALIKE, *ABLATIONS)}
    entrants = [e for e in ENTRANTS if e.name not in left_out]
    told = {"seed": arguments.seed, "device": arguments.device, "minutes": arguments.minutes}
    for name, path in train_entrants(folder, arguments.train, entrants=entrants, **told):
        if path is None:
            return False
        made = load_weights(path)[1].training
        print(f"{name}: {made['images']} images in {made['seconds']:.0f} s at a rate of {made['lr']:g}", flush=True)
    return True
