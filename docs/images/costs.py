"""The pictures of the pages on speed and size: ``python docs/images/costs.py`` writes ``speed.png`` and ``scale.png``.

They show the tables ``pipeline.csv``, ``pipeline_real.csv`` and ``scale_large.csv`` in ``docs/benchmark``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import NullFormatter, ScalarFormatter
from saving import save

TABLES = Path(__file__).parents[1] / "benchmark"
DPI = 100


def main() -> None:
    save(speed(), "speed.png", DPI)
    save(scale(), "scale.png", DPI)


def speed() -> plt.Figure:
    """CPU seconds of the steps for lattices, and milliseconds per column, of recorded images too."""
    lattices = pd.read_csv(TABLES / "pipeline.csv")
    recorded = pd.read_csv(TABLES / "pipeline_real.csv")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), layout="constrained")
    enhanced = lattices[lattices["on"] == "enhanced"]
    steps = (
        ("calibrate", "s", "calibrate"),
        ("enhance", "^", "enhance"),
        ("detect", "o", "detect in the enhanced image"),
    )
    for step, marker, label in steps:
        left.loglog(enhanced["columns"], enhanced[f"{step} s"], marker=marker, label=label)
    searched = lattices[lattices["on"] == "recorded"]
    left.loglog(
        searched["columns"], searched["detect s"], "o:", color="C2", mfc="w", label="detect in the recorded image"
    )
    left.set(xlabel="columns", ylabel="CPU seconds", title="simulated square lattices")
    left.legend(fontsize=8)
    right.loglog(
        searched["columns"], searched["ms per column"], "o:", color="C2", mfc="w", label="lattices, recorded images"
    )
    right.loglog(enhanced["columns"], enhanced["ms per column"], "o-", color="C2", label="lattices, enhanced images")
    right.loglog(
        recorded["columns"], recorded["ms per column"], ".", color="C3", label="public recordings, enhanced images"
    )
    right.set(xlabel="columns", ylabel="CPU milliseconds per column", title="detection")
    right.legend(fontsize=8)
    return figure


def scale() -> plt.Figure:
    """Memory and CPU time of the enhancement against the edge of the image."""
    large = pd.read_csv(TABLES / "scale_large.csv")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    left.loglog(large["px"], large["peak MiB"], "o-")
    left.set(ylabel="peak memory beside the image (MiB)")
    per_pixel = (large["CPU s"] / large["px"] ** 2).iloc[0]
    right.loglog(large["px"], per_pixel * large["px"] ** 2, color="0.6", label="proportional to the pixels")
    right.loglog(large["px"], large["CPU s"], "o", label="measured")
    right.set(ylabel="CPU seconds")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.set(xlabel="edge of the image (px)", xticks=large["px"])
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
    return figure


if __name__ == "__main__":
    main()
