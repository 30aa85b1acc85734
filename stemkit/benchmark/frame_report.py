"""Tables and the figure of a comparison on repeat frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from stemkit.atomic import whole_file, write_text
from stemkit.benchmark.frames import CEILING, FrameComparison
from stemkit.benchmark.methods import RECORDED
from stemkit.images.pixel_size import is_calibrated
from stemkit.plotting import show_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["frames_figure", "printed_table", "write_frames"]

#: Edge of the crop of each image in the figure, px (chosen).
SHOWN = 128
#: Images in a row of the figure (chosen).
PER_ROW = 5
#: Height of the curves in the figure, inches (chosen).
CURVES_HEIGHT = 3.8
#: Height of a row of images in the figure, inches (chosen).
ROW_HEIGHT = 2.2
#: Index of the grey among matplotlib's default colours, which the recorded frame has.
GRAY = 7
#: Significant digits of a standard error (chosen).
ERROR_DIGITS = 2
#: Decimals of values without a standard error (chosen).
DECIMALS = 3


def write_frames(comparison: FrameComparison, folder: Path) -> str:
    """Write a comparison and return its table in Markdown.

    Parameters
    ----------
    comparison : FrameComparison
    folder : Path
        Folder for ``frames.csv`` (the scores), ``frames_each.csv`` (of each frame), ``frames_curves.csv`` (Fourier ring
        correlations), ``frames_shifts.csv``, ``frames_table.csv`` and ``frames.md`` (the printed table), and
        ``frames.png``.

    Returns
    -------
    str
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = printed_table(comparison.scores)
    text = f"## Repeat frames\n\n{_explained(comparison)}\n\n{table.to_markdown(stralign='right')}\n"
    tables = {
        "frames.csv": comparison.scores,
        "frames_each.csv": comparison.frame_scores,
        "frames_curves.csv": comparison.curves,
        "frames_shifts.csv": comparison.shifts,
        "frames_table.csv": table.reset_index(),
    }
    for name, each in tables.items():
        write_text(folder / name, each.to_csv(index=False))
    write_text(folder / "frames.md", text)
    with whole_file(folder / "frames.png") as temporary:
        frames_figure(comparison).savefig(temporary, dpi=150, format="png")
    return text


def printed_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores as text with their standard errors, a row for each method.

    Parameters
    ----------
    scores : DataFrame
        :attr:`FrameComparison.scores`.

    Returns
    -------
    DataFrame
        Indexed by method; empty where a method does not have a score.
    """
    pairs = zip(scores["value"], scores["standard_error"], strict=True)
    text = scores.assign(text=[_with_error(value, error) for value, error in pairs])
    wide = text.pivot(index="method", columns="score", values="text")
    return wide.loc[scores["method"].unique(), scores["score"].unique()].fillna("").rename_axis(columns=None)


def frames_figure(comparison: FrameComparison) -> Figure:
    """Fourier ring correlations of all methods, and the middle of the first frame as denoised by each method.

    Parameters
    ----------
    comparison : FrameComparison

    Returns
    -------
    matplotlib Figure
    """
    from matplotlib.figure import Figure

    images = {name: _middle(image) for name, image in comparison.images.items()}
    n_rows = -(-len(images) // PER_ROW)
    figure = Figure(figsize=(2.3 * PER_ROW, CURVES_HEIGHT + ROW_HEIGHT * n_rows), layout="constrained")
    grid = figure.add_gridspec(n_rows + 1, PER_ROW, height_ratios=[CURVES_HEIGHT, *[ROW_HEIGHT] * n_rows])
    _draw_curves(figure.add_subplot(grid[0, :]), comparison)
    low, high = np.quantile(list(images.values())[-1].values, [0.001, 0.999])
    for k, (name, image) in enumerate(images.items()):
        axis = figure.add_subplot(grid[1 + k // PER_ROW, k % PER_ROW])
        show_image(image, axis)
        axis.images[0].set_clim(low, high)
        axis.set_title(name, fontsize=9)
    return figure


def _draw_curves(axes: Axes, comparison: FrameComparison) -> None:
    from matplotlib.colors import to_rgba

    unit = "nm" if is_calibrated(next(iter(comparison.images.values()))) else "px"
    styles: dict[str, dict[str, Any]] = {
        CEILING: {"color": "black", "lw": 2},
        RECORDED: {"color": "0.7", "lw": 3},
        comparison.threshold: {"color": "black", "lw": 1, "ls": ":"},
    }
    axes.set_prop_cycle(color=[to_rgba(f"C{k}") for k in range(10) if k != GRAY])
    for name, curve in comparison.curves.groupby("method", sort=False):
        style = styles.get(str(name), {})
        label = f"threshold ({name})" if name == comparison.threshold else str(name)
        axes.plot(curve["frequency"], curve["correlation"], label=label, **{"lw": 1.2, **style})
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.set_xlabel(f"spatial frequency (1/{unit})")
    axes.set_ylabel("Fourier ring correlation with\nthe mean of the other frames")
    axes.set_xlim(0, _shown_frequency(comparison))
    axes.set_ylim(-0.2, 1.02)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)


def _shown_frequency(comparison: FrameComparison) -> float:
    """Twice the highest frequency at which a method is above the threshold, or the highest one."""
    curves = comparison.curves.pivot(index="frequency", columns="method", values="correlation")
    is_above = curves.drop(columns=comparison.threshold).gt(curves[comparison.threshold], axis=0).any(axis=1)
    highest = float(curves.index.max())
    return min(highest, 2 * float(curves.index[is_above].max())) if is_above.any() else highest


def _middle(image: xr.DataArray) -> xr.DataArray:
    (y, x), (height, width) = ((n - min(n, SHOWN)) // 2 for n in image.shape), (min(n, SHOWN) for n in image.shape)
    return image[y : y + height, x : x + width]


def _explained(comparison: FrameComparison) -> str:
    n = len(comparison.shifts)
    far = float(np.abs(comparison.shifts[["y_px", "x_px"]].to_numpy()).max())
    height, width = next(iter(comparison.images.values())).shape
    return (
        f"{n} frames, aligned by up to {far:.2f} px from their mean position; {height} by {width} px are common to "
        f"all. Each method denoises one frame and is compared with the mean of the {n - 1} others; the ceiling is the "
        f"correlation of the true image with that mean. Threshold of the resolution: {comparison.threshold}. Standard "
        "errors by the jackknife over frames; they are mostly common to all methods."
    )


def _with_error(value: float, error: float) -> str:
    if not np.isfinite(value):
        return ""
    if not (np.isfinite(error) and error > 0):
        return f"{value:.{DECIMALS}f}"
    decimals = max(0, ERROR_DIGITS - 1 - int(np.floor(np.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
