"""Figures of commands."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

    from matplotlib.figure import Figure

__all__ = ["add_figure_arguments", "figure_suffix", "non_interactive_pyplot", "save_and_close"]

#: Formats of figures.
FORMATS = ("png", "pdf", "svg")


def add_figure_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the arguments for a figure of ``what``."""
    parser.add_argument("--figure", action="store_true", help=f"also draw {what}")
    parser.add_argument(
        "--figure-format", choices=FORMATS, help="draw the figure in this format (default with --figure: png)"
    )


def figure_suffix(arguments: argparse.Namespace) -> str | None:
    """Suffix of figures such as ".png"; None if no figure is to be drawn."""
    if not (arguments.figure or arguments.figure_format):
        return None
    return f".{arguments.figure_format or FORMATS[0]}"


def non_interactive_pyplot() -> ModuleType:
    """Import matplotlib.pyplot with a backend that needs no display."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    return plt


def save_and_close(figure: Figure, path: Path, dpi: float = 160) -> None:
    """Write a figure, replacing an existing file, and release its memory."""
    import matplotlib.pyplot as plt

    from stemkit.plotting import save_figure

    try:
        save_figure(figure, path, overwrite=True, dpi=dpi)
    finally:
        plt.close(figure)
