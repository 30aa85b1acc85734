"""``stemkit train``: train the general network, whose weights stemkit contains."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stemkit.atomic import check_place, write_text
from stemkit.cli.common import add_device_argument, check_device
from stemkit.cli.parsers import at_least, not_negative, positive
from stemkit.cli.progress import Progress
from stemkit.cli.records import Record

if TYPE_CHECKING:
    import pandas as pd

#: Name of the weights.
NAME = "sfin-general"
#: Folder of unfinished trainings, with their checkpoints, in that of the weights.
UNFINISHED = ".training"


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train the general network",
        description="Train the general network on synthetic pairs and evaluate it on the fixed sets. After an "
        "interruption, or the end of --minutes, the same call resumes from the last epoch.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("weights"), metavar="FOLDER", help="default: weights")
    parser.add_argument("--epochs", type=at_least(1), default=25, help="default: 25")
    parser.add_argument("--batches", type=at_least(1), default=200, help="batches per epoch (default: 200)")
    parser.add_argument("--lr", type=positive, default=3e-3, help="largest learning rate (default: 3e-3)")
    parser.add_argument("--seed", type=at_least(0), default=1, help="default: 1")
    parser.add_argument("--channels", type=at_least(1), help="number of feature channels (default: 64)")
    parser.add_argument("--blocks", type=at_least(1), help="number of residual blocks (default: 4; published: 8)")
    parser.add_argument("--downsampling", type=int, choices=(1, 2, 4), help="default: 2; published: 1")
    add_device_argument(parser)
    parser.add_argument(
        "--crops",
        type=at_least(32),
        nargs="+",
        metavar="PX",
        help="sizes of the synthetic images (default: 96 128 192)",
    )
    parser.add_argument(
        "--batch-size",
        type=at_least(1),
        metavar="N",
        help="number of images in a batch of the smallest size (default: 16)",
    )
    parser.add_argument(
        "--emphasis", type=not_negative, default=0.0, help="additional weight of the pixels at defects (default: 0)"
    )
    parser.add_argument("--weights", metavar="FILE", help="start from these weights, with their architecture")
    parser.add_argument(
        "--minutes",
        type=not_negative,
        help="stop after the epoch in which this time ends; the learning rate of a new run decreases to 0 by then",
    )
    parser.add_argument("--compile", action="store_true", help="compile the network with torch: faster on a GPU")
    parser.add_argument(
        "--judged",
        type=at_least(0),
        default=24,
        metavar="N",
        help="number of images of each fixed set for the evaluation (default: 24; 0: none)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace weights of another run")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train the network and write its weights with their model card and scores."""
    check_device(arguments.device)
    folder = arguments.output
    weights, card = folder / f"{NAME}.safetensors", folder / f"{NAME}.md"
    folder.mkdir(parents=True, exist_ok=True)
    record = Record(folder, "train", [], arguments)
    checkpoint = folder / UNFINISHED / f"{NAME}.checkpoint"
    if record.finished() and _is_complete(weights):
        print(f"{weights}: finished before")
        print(card.read_text())
        return 0
    for path in (weights, card):
        check_place(path, arguments.overwrite or record.may_replace(path))
    trained = _trained(checkpoint, arguments)
    text = trained.with_suffix(".md").read_text("utf-8")
    if arguments.judged:
        with Progress() as progress:
            progress.step("evaluating the network on the fixed sets")
            text = f"{text}\n{scores(trained, arguments.judged)}"
    record.begin([weights, card])
    _move(trained, weights, checkpoint)
    write_text(card, text)
    record.finish()
    print(weights)
    print(text)
    return 0


def _move(trained: Path, weights: Path, checkpoint: Path) -> None:
    """Move the weights to their place; the checkpoint of a complete training is removed."""
    os.replace(trained, weights)
    trained.with_suffix(".md").unlink()
    if _is_complete(weights):
        _remove(checkpoint)


def _remove(checkpoint: Path) -> None:
    """Remove a checkpoint, and its folder if that is empty then."""
    checkpoint.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        checkpoint.parent.rmdir()


def _is_complete(weights: Path) -> bool:
    """Whether the training of the weights has had all its epochs."""
    from stemkit.denoising import load_weights

    made = load_weights(weights)[1].training
    return bool(made["epochs_done"] >= made["epochs"])


def _trained(checkpoint: Path, arguments: argparse.Namespace) -> Path:
    """Train in the folder of the checkpoint, resuming from it if it exists, and return the path of the weights.

    Raises
    ------
    ValueError
        If the checkpoint is damaged, or if the training diverged; its checkpoint is then removed.
    """
    from stemkit.denoising.callbacks import DivergenceError
    from stemkit.denoising.general import BATCH_SIZE, CROP_SIZES, train_general

    resumed = checkpoint.exists()
    try:
        return train_general(
            checkpoint.parent,
            name=NAME,
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
    except DivergenceError as error:
        _remove(checkpoint)  # it would diverge again, and refuse another learning rate
        raise ValueError(f"{str(error).replace('lr=', '--lr ')}; no weights were written") from error
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        if not resumed:
            raise
        raise ValueError(
            f"training can't resume from {checkpoint}, which is damaged or of another version ({type(error).__name__}: "
            f"{error}): remove it to begin again"
        ) from error


def scores(weights: Path, n: int) -> str:
    """Scores of a network on the first ``n`` images of the fixed sets and on the planted truths, in Markdown."""
    from stemkit import SFINDenoiser
    from stemkit.benchmark import evaluate, summary
    from stemkit.benchmark.scenes import SETS

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
