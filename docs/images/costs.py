"""The pictures of the pages on speed and size: ``python docs/images/costs.py`` writes ``speed.png`` and ``scale.png``.

They show the tables ``pipeline.csv``, ``pipeline_real.csv`` and ``scale_large.csv`` in ``docs/benchmark``.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter, ScalarFormatter
from saving import save

TABLES = Path(__file__).parents[1] / "benchmark"
DPI = 100
#: Bytes per pixel: of a tile in the network, and of the image in the result, as the page states.
TILE_BYTES, RESULT_BYTES = 150.0, 25.0
#: Longest edge of a tile, and least overlap of tiles, px (``SFINDenoiser``).
TILE, OVERLAP = 2048, 256


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
    large = pd.read_csv(TABLES / "scale_large.csv").query("step == 'enhance'")
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    edges = np.arange(512, 8193, 16)
    left.loglog(
        edges,
        [expected_memory(edge) for edge in edges],
        color="0.6",
        label="150 bytes per pixel of a tile\n+ 25 per pixel",
    )
    left.loglog(large["px"], large["peak MiB"], "o", label="measured")
    left.set(ylabel="peak memory (MiB)")
    left.legend(fontsize=8)
    per_pixel = (large["CPU s"] / large["px"] ** 2).iloc[0]
    right.loglog(edges, per_pixel * edges**2, color="0.6", label="proportional to the pixels")
    right.loglog(large["px"], large["CPU s"], "o", label="measured")
    right.set(ylabel="CPU seconds")
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.set(xlabel="edge of the image (px)", xticks=[512, 1024, 2048, 4096, 8192])
        ax.xaxis.set_major_formatter(ScalarFormatter())
        ax.xaxis.set_minor_formatter(NullFormatter())
    return figure


def expected_memory(edge: int) -> float:
    """MiB that the network and its result take for a square image."""
    n_tiles = 1 if edge <= TILE else int(np.ceil((edge - OVERLAP) / (TILE - OVERLAP)))
    tile = (edge + (n_tiles - 1) * OVERLAP) / n_tiles
    return (TILE_BYTES * tile**2 + RESULT_BYTES * edge**2) / 2**20


if __name__ == "__main__":
    main()
