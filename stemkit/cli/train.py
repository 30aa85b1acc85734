"""``stemkit train``: the weights that ship, made again."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_to(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "train",
        help="train the general network",
        description="Train the general network on synthetic pairs. Interrupted, the same call goes on from the "
        "last epoch.",
    )
    parser.add_argument("-o", "--output", type=Path, default=Path("weights"), metavar="FOLDER", help="default: weights")
    parser.add_argument("--epochs", type=int, default=28, help="default: 28")
    parser.add_argument("--batches", type=int, default=200, help="batches per epoch (default: 200)")
    parser.add_argument("--lr", type=float, default=4e-3, help="highest learning rate (default: 4e-3)")
    parser.add_argument("--seed", type=int, default=1, help="default: 1")
    parser.add_argument("--width", type=int, default=32, help="feature channels (default: 32; the paper's: 64)")
    parser.add_argument("--blocks", type=int, default=4, help="residual blocks (default: 4; the paper's: 8)")
    parser.add_argument("--downsampling", type=int, default=2, choices=(1, 2, 4), help="default: 2; the paper's: 1")
    parser.add_argument("--device", default="auto", help='"auto", "cpu", "cuda", ... (default: auto)')
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train and write weights with their model card."""
    from stemkit.denoising.general import train_general

    path = train_general(
        arguments.output,
        max_epochs=arguments.epochs,
        batches_per_epoch=arguments.batches,
        lr=arguments.lr,
        seed=arguments.seed,
        device=arguments.device,
        width=arguments.width,
        n_blocks=arguments.blocks,
        downsampling=arguments.downsampling,
    )
    print(path)
    print(path.with_suffix(".md").read_text())
    return 0
