"""``stemkit train``: train the general network, whose weights stemkit contains."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.cli.common import add_device_argument

if TYPE_CHECKING:
    import pandas as pd


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train the general network",
        description="Train the general network on synthetic pairs and evaluate it on the fixed sets. After an "
        "interruption, or the end of --minutes, the same call resumes from the last epoch.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("weights"), metavar="FOLDER", help="default: weights")
    parser.add_argument("--epochs", type=int, default=25, help="default: 25")
    parser.add_argument("--batches", type=int, default=200, help="batches per epoch (default: 200)")
    parser.add_argument("--lr", type=float, default=3e-3, help="largest learning rate (default: 3e-3)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--channels", type=int, help="number of feature channels (default: 64)")
    parser.add_argument("--blocks", type=int, help="number of residual blocks (default: 4; published: 8)")
    parser.add_argument("--downsampling", type=int, choices=(1, 2, 4), help="default: 2; published: 1")
    add_device_argument(parser)
    parser.add_argument(
        "--crops", type=int, nargs="+", metavar="PX", help="sizes of the synthetic images (default: 96 128 192)"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="number of images in a batch of the smallest size (default: 16)"
    )
    parser.add_argument(
        "--emphasis", type=float, default=0.0, help="additional weight of the pixels at defects (default: 0)"
    )
    parser.add_argument("--weights", metavar="FILE", help="start from these weights, with their architecture")
    parser.add_argument(
        "--minutes",
        type=float,
        help="stop after the epoch in which this time ends; the learning rate of a new run decreases to 0 by then",
    )
    parser.add_argument("--compile", action="store_true", help="compile the network with torch: faster on a GPU")
    parser.add_argument(
        "--judged",
        type=int,
        default=24,
        metavar="N",
        help="number of images of each fixed set for the evaluation (default: 24; 0: none)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train the network and write its weights with their model card and scores."""
    from stemkit.atomic import whole_file
    from stemkit.denoising.general import BATCH_SIZE, CROP_SIZES, train_general

    path = train_general(
        arguments.output,
        max_epochs=arguments.epochs,
        batches_per_epoch=arguments.batches,
        lr=arguments.lr,
        seed=arguments.seed,
        device=arguments.device,
        n_channels=arguments.channels,
        n_blocks=arguments.blocks,
        downsampling=arguments.downsampling,
        crop_sizes=arguments.crops or CROP_SIZES,
        batch_size=BATCH_SIZE if arguments.batch_size is None else arguments.batch_size,
        emphasis=arguments.emphasis,
        weights=arguments.weights,
        minutes=arguments.minutes,
        compile=arguments.compile,
    )
    card = path.with_suffix(".md")
    if arguments.judged:
        judged = f"{card.read_text()}\n{scores(path, arguments.judged)}"
        with whole_file(card) as temporary:
            temporary.write_text(judged)
    print(path)
    print(card.read_text())
    return 0


def scores(weights: Path, n: int) -> str:
    """Scores of a network on the first ``n`` images of the fixed sets and on the planted truths, in Markdown."""
    from stemkit import SFINDenoiser
    from stemkit.benchmark import SETS, evaluate, summary

    methods = {"recorded": None, "enhanced": SFINDenoiser(weights=weights)}
    by_set, _ = summary(evaluate(methods, SETS, n=n))
    truths = evaluate({"enhanced": methods["enhanced"]}, ["truths"], n=min(n, 2))
    by_truth = summary(truths)[1].droplevel("method")
    # tabulate prints the levels of columns as tuples
    modes, doses = (by_truth.columns.get_level_values(level) for level in ("mode", "dose"))
    names = [f"{mode} {dose:g}" for mode, dose in zip(modes, doses, strict=True)]
    by_truth = by_truth.set_axis(names, axis="columns")
    first, second = _markdown(by_set), _markdown(by_truth)
    return f"## Scores, {n} images of each set\n\n{first}\n\n## Planted truths, at doses\n\n{second}\n"


def _markdown(table: pd.DataFrame) -> str:
    return str(table.round(3).reset_index().to_markdown(index=False))
